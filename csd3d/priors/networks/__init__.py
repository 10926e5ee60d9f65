"""The networks of a prior: denoiser, codec, text encoder, sampler, features of inner layers, calls in chunks."""
