"""Bicubic resampling of any stretch of an axis, so that a picture can be scaled tile by tile without seams.

The value of an output cell depends on the cell alone and not on the tile it is computed in:

    out[t] = sum_j k((j + 1/2 - c_t) / m) in[j] / sum_j k((j + 1/2 - c_t) / m)     c_t = (t + 1/2) scale

scale  input cells an output cell       m = max(scale, 1), so that shrinking averages (no aliasing)
k      the cubic of Keys (1981) with a = -1/2
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Taps:
    """What a stretch of an axis is made of."""

    first: int
    """The first input cell that counts."""
    weights: Float[Tensor, "m n"]
    """Row t: how much input cells first ... first + n - 1 count for output t; rows sum to 1."""


def cubic_taps(targets: Int[Tensor, " m"], scale: float, *, low: int | None = None, high: int | None = None) -> Taps:
    """Taps for output cells `targets`, any whole numbers; input cells below `low` or from `high` on are left out.

    On a circle nothing is left out, and the caller takes cells modulo its length.

    Raises:
        ValueError: no input cell is left for a target.
    """
    wide = max(scale, 1.0)
    centre = (targets.double() + 0.5) * scale
    first = math.floor(float(centre.min()) - 2 * wide)
    last = math.ceil(float(centre.max()) + 2 * wide)
    first = first if low is None else max(first, low)
    last = last if high is None else min(last, high)
    if last <= first:
        raise ValueError(f"taps: expected cells among {low} to {high}, got targets that reach none")
    cells = torch.arange(first, last, dtype=torch.float64) + 0.5
    weights = _keys((cells[None] - centre[:, None]) / wide)
    total = weights.sum(1, keepdim=True)
    if not bool((total.abs() > 1e-6).all()):
        raise ValueError(f"taps: expected cells among {low} to {high}, got targets that reach none")
    return Taps(first, (weights / total).float())


def apply_taps(
    x: Float[Tensor, "... h w"], rows: Float[Tensor, "p h"], columns: Float[Tensor, "q w"]
) -> Float[Tensor, "... p q"]:
    """Rows and columns of `x` mixed by the weights of two taps."""
    return rows @ (x @ columns.T)


def _keys(x: Tensor) -> Tensor:
    a = -0.5
    d = x.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return torch.where(d < 1, near, torch.where(d < 2, far, 0.0))
