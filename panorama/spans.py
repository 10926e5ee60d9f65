"""Equal spans along an axis, a line or a circle, and how they share its places smoothly.

Windows of latents and tiles of pixels are products of two such rows of spans. A share is a weight, and at every place
the shares of all spans sum to 1:

    share_i(p) = raw_i(p) / sum_j raw_j(p)        raw(p) = sin(pi/2 min(d(p) / ramp, 1))^2

d is the distance of p to the nearer end of its span. The ends of a line do not count as ends: there is nobody to hand
over to. With ramp 0 all spans around a place share it alike (the flat average of the CSD paper).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Spans:
    """Spans of `size` cells that cover cells 0 to `length` - 1."""

    starts: tuple[int, ...]
    """First cell of each, ascending."""
    size: int
    """Cells of each."""
    length: int
    """Cells of the axis."""
    wraps: bool
    """The axis is a circle; a span may go on over its seam."""

    def cells(self) -> Int[Tensor, "k size"]:
        """The cells of every span, in order."""
        cells = torch.tensor(self.starts)[:, None] + torch.arange(self.size)
        return cells % self.length

    def shares(self, places: Float[Tensor, " p"], *, ramp: float) -> Float[Tensor, "k p"]:
        """Weight of each span at each place, columns summing to 1; cell i reaches from place i to i + 1.

        `ramp` is the length in cells over which a span's weight rises; 0 = at once. Places lie strictly within the
        axis; in double precision whatever comes in.
        """
        start = torch.tensor(self.starts, dtype=torch.float64)[:, None]
        left = places.double()[None] - start
        if self.wraps:
            left = left % self.length
        right = self.size - left
        inside = (left >= 0) & (right > 0)
        if not self.wraps:  # the border of the line is no end of a span
            left = torch.where(start == 0, math.inf, left)
            right = torch.where(start + self.size == self.length, math.inf, right)
        rise = (torch.minimum(left, right) / ramp).clamp(0, 1) if ramp > 0 else torch.ones_like(left)
        raw = torch.where(inside, torch.sin(math.pi / 2 * rise).square().clamp_min(1e-12), 0.0)
        return raw / raw.sum(0)


def product_shares(
    rows: Spans, columns: Spans, i: Int[Tensor, " n"], j: Int[Tensor, " n"], *, smooth: bool
) -> tuple[Int[Tensor, "n h"], Int[Tensor, "n w"], Float[Tensor, "n h w"]]:
    """Cells and shares of windows, products of row span `i` and column span `j`; fading over half a span, or flat."""
    fade_y, fade_x = (
        spans.shares(torch.arange(spans.length) + 0.5, ramp=spans.size / 2 if smooth else 0.0).float()
        for spans in (rows, columns)
    )
    ys, xs = rows.cells()[i], columns.cells()[j]
    return ys, xs, fade_y[i[:, None], ys][:, :, None] * fade_x[j[:, None], xs][:, None, :]


def cover(length: int, size: int, stride: int, *, wraps: bool = False) -> Spans:
    """Spans of at most `size` cells, neighbours at most `stride` apart, evenly spread so that no remainder is left.

    On a line the first and the last touch the ends. On a circle there are two at least, so that each seam between the
    ends of one span lies within another.

    Raises:
        ValueError: a length, size or stride below 1, or a stride that would leave gaps.
    """
    if min(length, size, stride) < 1:
        raise ValueError(f"spans: expected length, size and stride of 1 or more, got {length}, {size}, {stride}")
    size = min(size, length)
    if stride > size and size < length:
        raise ValueError(f"stride: expected at most the window's {size}, got {stride}")
    if wraps:
        count = max(2, math.ceil(length / stride))
        starts = [i * length // count for i in range(count)]
    else:
        count = 1 + math.ceil((length - size) / stride)
        starts = [i * (length - size) // max(count - 1, 1) for i in range(count)]
    return Spans(tuple(dict.fromkeys(starts)), size, length, wraps)
