"""The networks of a prior: denoiser, codec, text encoder, features of inner layers, calls in chunks."""
