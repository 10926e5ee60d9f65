"""Small helpers of the video tests."""

import torch


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]; infinite for equal ones."""
    assert a.shape == b.shape
    error = (a.double() - b.double()).square().mean()
    return float("inf") if error == 0 else float(-10 * torch.log10(error))
