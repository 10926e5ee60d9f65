"""A run on disk: folder, manifest, checkpoints, log, progress, interruption, report, history, and one session of it."""
