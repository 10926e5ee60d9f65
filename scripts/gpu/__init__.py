"""What only a GPU can show, in parts: see `scripts/check_gpu.py`."""
