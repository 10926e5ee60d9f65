"""Restoring the fine detail of the source that codec and working size lose, mapped as the edit maps colours.

With D the decoded latents at working size, up() scaling to the clip's size, x the source frame:

    out = up(D(z)) + detail * up(A) (x - up(D(s)))

The bracket is the detail that was lost. Added as it is (A = 1) it leaves ghosts wherever the edit changed contrast: the
old edges beside the new ones. So around each pixel a 3 x 3 colour map A is fitted that takes the decoded source to the
decoded edit, as in the guided filter (He, Sun and Tang 2013), and detail goes through it:

    A = (cov(D(z), D(s)) + eps B) (cov(D(s), D(s)) + eps I)^-1       covariances over a window of (2 r + 1)^2 pixels

In a flat window, which says nothing of colours, A tends to B: the map fitted in the same way to a far wider window,
and where that one is flat too, to I. An unedited latent gives A = I and the source itself, bit for bit up to rounding;
a colour edit (night, grey, negative) gives that edit of the full-size source; where the edit has nothing to do with the
source A tends to 0 and the edit stands alone.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

WINDOWS = ((16, 1e-3), (4, 3e-4))
"""From wide to narrow: half the window in working pixels, and the variance below which it counts as flat. The last is
4 levels of 255, squared."""
LIMIT = 2.0
"""Largest entry of A, so that errors of the codec in flat places are not amplified."""


def restore_mapped(
    source: Float[Tensor, "n 3 H W"],
    edited: Float[Tensor, "n 3 h w"],
    reconstruction: Float[Tensor, "n 3 h w"],
    up: Callable[[Tensor], Tensor] = lambda x: x,
    *,
    amount: float = 1.0,
) -> Float[Tensor, "n 3 H W"]:
    """The edited picture with the source's lost detail put back through the maps A, in [0, 1].

    Args:
        source: the pictures at their own size, in [0, 1].
        edited: what the codec decodes after the edit, at working size.
        reconstruction: what it decodes of the unedited source, at working size.
        up: takes pictures (of any number of channels) from working size to the source's.
        amount: 0 = none of the detail, 1 = all of it.
    """
    if not amount:
        return up(edited).clamp(0, 1)
    maps = colour_maps(edited, reconstruction)
    return add_detail(source, up(edited), up(reconstruction), up(maps), amount=amount)


def add_detail(
    source: Float[Tensor, "n 3 H W"],
    edited: Float[Tensor, "n 3 H W"],
    reconstruction: Float[Tensor, "n 3 H W"],
    maps: Float[Tensor, "n 9 H W"],
    *,
    amount: float,
) -> Float[Tensor, "n 3 H W"]:
    """The formula of the module's text, in [0, 1], with all its parts at the source's size."""
    return (edited + amount * apply_maps(maps, source - reconstruction)).clamp(0, 1)


def colour_maps(
    edited: Float[Tensor, "n 3 h w"],
    source: Float[Tensor, "n 3 h w"],
    *,
    windows: Sequence[tuple[int, float]] = WINDOWS,
) -> Float[Tensor, "n 9 h w"]:
    """The maps A at working size, rows of the 3 x 3 matrix one after the other, smoothed over the narrowest window.

    `edited` and `source` are the decoded latents, rgb in [0, 1].
    """
    eye = torch.eye(3, device=source.device, dtype=torch.float64)
    maps, radius = eye, 0
    for radius, eps in windows:
        between = _covariance(edited, source, radius) + eps * maps
        maps = _divide(between, _covariance(source, source, radius) + eps * eye)
    return _box(maps.to(source.dtype).flatten(3).permute(0, 3, 1, 2), radius).clamp(-LIMIT, LIMIT)


def apply_maps(maps: Float[Tensor, "n 9 H W"], detail: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
    """A times the detail, pixel by pixel."""
    rows = maps.unflatten(1, (3, 3))
    return torch.stack([(rows[:, i] * detail).sum(1) for i in range(3)], dim=1)


def _divide(b: Float64[Tensor, "n h w 3 3"], c: Float64[Tensor, "n h w 3 3"]) -> Float64[Tensor, "n h w 3 3"]:
    """b c^-1 for symmetric c, by its cofactors: unlike LAPACK's, these sums come out the same wherever memory lies."""
    c00, c01, c02, c11, c12, c22 = (c[..., i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
    m00, m01, m02 = c11 * c22 - c12 * c12, c02 * c12 - c01 * c22, c01 * c12 - c02 * c11
    m11, m12, m22 = c00 * c22 - c02 * c02, c01 * c02 - c00 * c12, c00 * c11 - c01 * c01
    det = c00 * m00 + c01 * m01 + c02 * m02
    columns = ((m00, m01, m02), (m01, m11, m12), (m02, m12, m22))
    rows = [[b[..., i, 0] * x + b[..., i, 1] * y + b[..., i, 2] * z for x, y, z in columns] for i in range(3)]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2) / det[..., None, None]


def _covariance(a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"], radius: int) -> Float64[Tensor, "n h w 3 3"]:
    """Covariance of the colours of `a` (rows) with those of `b` (columns) in the window around each pixel."""
    a_c, b_c = a.double(), b.double()
    products = _box((a_c[:, :, None] * b_c[:, None]).flatten(1, 2), radius).unflatten(1, (3, 3))
    means = _box(a_c, radius)[:, :, None] * _box(b_c, radius)[:, None]
    return (products - means).permute(0, 3, 4, 1, 2)


def _box(x: Float[Tensor, "n k h w"], radius: int) -> Float[Tensor, "n k h w"]:
    """Mean over the window; beyond the border pixels repeat."""
    side = 2 * radius + 1
    return avg_pool2d(avg_pool2d(pad(x, (radius,) * 4, mode="replicate"), (side, 1), 1), (1, side), 1)
