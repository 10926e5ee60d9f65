"""Training of the built-in priors: pictures, codec, denoiser. Run it with `scripts/train_builtin.py`."""
