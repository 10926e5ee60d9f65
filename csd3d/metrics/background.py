"""What did an edit change that it should have left alone?"""

from jaxtyping import Bool, Float
from torch import Tensor

from csd3d.metrics.warp import masked_mean

SAME = 1 / 255
"""Pixels of source and truth that differ by no more than one 8-bit level in any channel count as equal."""


def untouched(
    source: Float[Tensor, "n 3 H W"], truth: Float[Tensor, "n 3 H W"], *, same: float = SAME
) -> Bool[Tensor, "n H W"]:
    """The pixels that the true edit does not change: no channel differs by more than `same`."""
    return ((truth - source).abs() <= same).all(1)


def background_change(
    output: Float[Tensor, "n 3 H W"],
    source: Float[Tensor, "n 3 H W"],
    truth: Float[Tensor, "n 3 H W"],
    *,
    same: float = SAME,
) -> Float[Tensor, " n"]:
    """Mean of |output - source| over the channels of the pixels that the true edit does not change, for each picture.

    In [0, 1] units, lower is better; NaN for an edit that changes every pixel. What a codec loses counts, so this is
    read beside the codec's own reconstruction of the truth.
    """
    return masked_mean((output - source).abs().mean(1), untouched(source, truth, same=same))


def change_outside(
    output: Float[Tensor, "n 3 H W"], source: Float[Tensor, "n 3 H W"], mask: Float[Tensor, "n 1 H W"]
) -> Float[Tensor, " n"]:
    """Mean of |output - source| over the channels of the pixels that a mask leaves alone (0), for each picture.

    In [0, 1] units, lower is better; NaN where the mask leaves none. Where the mask is grey a pixel may change and does
    not count.
    """
    return masked_mean((output - source).abs().mean(1), mask[:, 0] <= 0)
