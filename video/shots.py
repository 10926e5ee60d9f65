"""Where a clip cuts from one shot to another.

    d_k = max(mean |a_k - a_{k-1}|, s mean |b_k - b_{k-1}|)        s = USUAL_CONTRAST / max(c_k, c_{k-1})

    a_k    frame k in grey, averaged over 16 x 16 cells, 0 to 255
    b_k    the same without its mean
    c_k    mean |b_k|, its contrast

Frame k begins a shot if d_k is large and stands out of the changes around it: pans and shakes change every frame, a cut
one. In the dark and in fog pictures differ by little, so what they show is compared by their contrast, if they have
any. Dissolves are no cuts: they are followed by motion as well as anything else is.
"""

import statistics
from collections.abc import Iterable, Sequence

from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

LEAST_CHANGE = 12.0
"""Levels of 255 below which nothing counts as a cut."""
USUAL_CONTRAST, LEAST_CONTRAST = 17.0, 2.0
"""In levels. A change by 0.7 of the contrast is a cut, which no step of a fade is; pictures of less than the least
contrast show nothing."""
STANDS_OUT = 4.0
"""A cut changes at least this many times as much as the frames around it usually do."""
AROUND = 6
"""Frames to either side that say what is usual."""


def changes(greys: Iterable[UInt8[Tensor, "_n H W"]]) -> list[float]:
    """d_k of every frame, chunk by chunk; 0 for the first."""
    found: list[float] = []
    before: Tensor | None = None
    for chunk in greys:
        for picture in adaptive_avg_pool2d(chunk[:, None].float(), 16)[:, 0]:
            found.append(0.0 if before is None else _change(before, picture))
            before = picture
    return found


def _change(before: Float[Tensor, "a b"], picture: Float[Tensor, "a b"]) -> float:
    """d_k of the cells of frames k - 1 and k."""
    plain = float((picture - before).abs().mean())
    b, earlier = picture - picture.mean(), before - before.mean()
    contrasts = [float(x.abs().mean()) for x in (b, earlier)]
    if min(contrasts) < LEAST_CONTRAST:
        return plain
    return max(plain, USUAL_CONTRAST / max(contrasts) * float((b - earlier).abs().mean()))


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
