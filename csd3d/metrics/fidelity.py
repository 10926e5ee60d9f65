"""How far one picture is from another, pixel by pixel."""

import torch
from jaxtyping import Float
from torch import Tensor

MAX_DB = 100.0
"""PSNR of equal pictures: infinity would spoil every mean. Rounding to 8 bits alone gives about 59 dB."""


def mean_squared_error(a: Float[Tensor, "n 3 H W"], b: Float[Tensor, "n 3 H W"]) -> Float[Tensor, " n"]:
    """Mean of (a - b)^2 over the pixels and channels of each picture. 0 is best, at most 1 for rgb in [0, 1]."""
    return (a - b).square().mean(dim=(1, 2, 3))


def psnr(a: Float[Tensor, "n 3 H W"], b: Float[Tensor, "n 3 H W"]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio of each picture, -10 log10(mean squared error), for rgb in [0, 1].

    In dB, higher is better, at most `MAX_DB`. The PSNR of a set is the mean of these, not the PSNR of the mean error:
    one picture that fails counts once, however badly it fails.
    """
    return (-10 * torch.log10(mean_squared_error(a, b).clamp_min(10 ** (-MAX_DB / 10)))).clamp_max(MAX_DB)
