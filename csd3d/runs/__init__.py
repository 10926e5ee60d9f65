"""A run on disk: atomic files, manifest, checkpoints, progress, interruption, report."""
