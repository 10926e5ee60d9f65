"""Where a clip cuts from one shot to another.

    d_k = mean |a_k - a_{k-1}|        a_k: frame k in grey, averaged over 16 x 16 cells, 0 to 255

Frame k begins a shot if d_k is large and stands out of the changes around it: pans and shakes change every frame, a cut
one. Dissolves are no cuts: they are followed by motion as well as anything else is.
"""

import statistics
from collections.abc import Iterable, Sequence

from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

LEAST_CHANGE = 12.0
"""Levels of 255 below which nothing counts as a cut."""
STANDS_OUT = 4.0
"""A cut changes at least this many times as much as the frames around it usually do."""
AROUND = 6
"""Frames to either side that say what is usual."""


def changes(greys: Iterable[UInt8[Tensor, "_n H W"]]) -> list[float]:
    """d_k of every frame, chunk by chunk; 0 for the first."""
    found: list[float] = []
    before: Tensor | None = None
    for chunk in greys:
        small = adaptive_avg_pool2d(chunk[:, None].float(), 16)[:, 0]
        for picture in small:
            found.append(0.0 if before is None else float((picture - before).abs().mean()))
            before = picture
    return found


def shots_of(change: Sequence[float]) -> list[int]:
    """The number of its shot for every frame, from 0."""
    numbers, shot = [], 0
    for k, d in enumerate(change):
        near = [change[i] for i in range(max(k - AROUND, 1), min(k + AROUND + 1, len(change))) if i != k]
        usual = statistics.median(near) if near else 0.0
        if k > 0 and d >= LEAST_CHANGE and d >= STANDS_OUT * usual:
            shot += 1
        numbers.append(shot)
    return numbers
