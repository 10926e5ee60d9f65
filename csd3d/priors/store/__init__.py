"""Priors on disk: resolve (where one lies), load, save, fingerprint; silence keeps the model libraries quiet."""
