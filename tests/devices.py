"""Where a test runs: on the CPU always, and on a GPU where there is one, with the same body."""

import pytest
import torch

CUDA = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
"""Marks of what needs a GPU."""
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]


def on_cuda(test: object) -> object:
    """A test that needs a GPU."""
    for mark in CUDA:
        test = mark(test)
    return test
