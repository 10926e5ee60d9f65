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

An edit of one thing moves all other latents a little too. What changes too little to be meant is left out before
anything else, so that the source stays there (coring, as in noise reduction):

    D(z)  <-  D(s) + w (D(z) - D(s))      w = clamp((d / k - NOISE) / (EDIT - NOISE), 0, 1)
    d     mean over (2 r + 1)^2 pixels of the largest change of a channel
    k     strength: the share of the edit that z holds, so that what is left out does not depend on it
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

WINDOWS = ((16, 1e-3), (4, 3e-4))
"""From wide to narrow: half the window in working pixels, and the variance below which it counts as flat. The last is
4 levels of 255, squared."""
LIMIT = 2.0
"""Largest entry of A, so that errors of the codec in flat places are not amplified."""
NOISE, EDIT, CORING_RADIUS = 0.02, 0.06, 2
"""Of [0, 1]: change that is left out, and that is kept whole; half the window in working pixels. Chosen on 59 edits of
pictures by the built-in editor: those of a part come 0.6 dB nearer to the truth, and the background changes half as
much; those of the whole picture 0.4 dB."""
_UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def restore_mapped(
    source: Float[Tensor, "n 3 H W"],
    edited: Float[Tensor, "n 3 h w"],
    reconstruction: Float[Tensor, "n 3 h w"],
    up: Callable[[Tensor], Tensor] = lambda x: x,
    *,
    amount: float = 1.0,
    strength: float = 1.0,
) -> Float[Tensor, "n 3 H W"]:
    """The edited picture with the source's lost detail put back through the maps A, in [0, 1].

    Args:
        source: the pictures at their own size, in [0, 1].
        edited: what the codec decodes after the edit, at working size.
        reconstruction: what it decodes of the unedited source, at working size.
        up: takes pictures (of any number of channels) from working size to the source's.
        amount: 0 = none of the detail, just what is decoded; 1 = all of it.
        strength: the share of the edit that `edited` holds.
    """
    if not amount:
        return up(edited).clamp(0, 1)
    edited = cored(edited, reconstruction, strength=strength)
    maps = colour_maps(edited, reconstruction)
    return add_detail(source, up(edited), up(reconstruction), up(maps), amount=amount)


def cored(
    edited: Float[Tensor, "n 3 h w"], reconstruction: Float[Tensor, "n 3 h w"], *, strength: float = 1.0
) -> Float[Tensor, "n 3 h w"]:
    """The edit, in [0, 1] at working size, without what it changes too little to be meant. Of `strength` 0 nothing is
    left but the source."""
    if not strength:
        return reconstruction
    change = edited - reconstruction
    d = _box(change.abs().amax(1, keepdim=True), CORING_RADIUS) / strength
    return reconstruction + ((d - NOISE) / (EDIT - NOISE)).clamp(0, 1) * change


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
    e, x = edited - 0.5, source - 0.5  # about the mean, where products lose the least to rounding
    planes = torch.cat(
        [e, x, *(e[:, i : i + 1] * x for i in range(3)), *(x[:, i : i + 1] * x[:, i:] for i in range(3))], 1
    )
    maps, radius = torch.eye(3).to(source)[:, :, None, None], 0
    for radius, eps in windows:
        mean_e, mean_x, ex, xx = _box(planes, radius).split((3, 3, 9, 6), 1)
        between = ex.unflatten(1, (3, 3)) - mean_e[:, :, None] * mean_x[:, None]
        own = [xx[:, k] - mean_x[:, i] * mean_x[:, j] + eps * (i == j) for k, (i, j) in enumerate(_UPPER)]
        maps = _divide(between + eps * maps, own)
    return _box(maps.flatten(1, 2), radius).clamp(-LIMIT, LIMIT)


def apply_maps(maps: Float[Tensor, "n 9 H W"], detail: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
    """A times the detail, pixel by pixel."""
    rows = maps.unflatten(1, (3, 3))
    return torch.stack([(rows[:, i] * detail).sum(1) for i in range(3)], dim=1)


def _divide(b: Float[Tensor, "n 3 3 h w"], c: Sequence[Float[Tensor, "n h w"]]) -> Float[Tensor, "n 3 3 h w"]:
    """b c^-1 for symmetric c, given by its upper triangle, by its cofactors: unlike LAPACK's, these sums come out the
    same wherever memory lies."""
    c00, c01, c02, c11, c12, c22 = c
    m00, m01, m02 = c11 * c22 - c12 * c12, c02 * c12 - c01 * c22, c01 * c12 - c02 * c11
    m11, m12, m22 = c00 * c22 - c02 * c02, c01 * c02 - c00 * c12, c00 * c11 - c01 * c01
    det = (c00 * m00 + c01 * m01 + c02 * m02)[:, None]
    columns = ((m00, m01, m02), (m01, m11, m12), (m02, m12, m22))
    b0, b1, b2 = b.unbind(2)
    return torch.stack([(b0 * x[:, None] + b1 * y[:, None] + b2 * z[:, None]) / det for x, y, z in columns], dim=2)


def _box(x: Float[Tensor, "n k h w"], radius: int) -> Float[Tensor, "n k h w"]:
    """Mean over the window; beyond the border pixels repeat."""
    side = 2 * radius + 1
    padded = pad(x, (radius,) * 4, mode="replicate")
    return _sums(_sums(padded, side, -2), side, -1) / side**2


def _sums(x: Tensor, side: int, dim: int) -> Tensor:
    """Sums of every `side` neighbours along `dim`, from sums of 1, 2, 4, ...: few additions, each well rounded."""
    count, at, size = x.shape[dim] - side + 1, 0, 1
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    while size <= side:
        if side & size:
            total, at = total + x.narrow(dim, at, count), at + size
        left = x.shape[dim] - size
        x, size = x.narrow(dim, 0, left) + x.narrow(dim, size, left) if 2 * size <= side else x, 2 * size
    return total
