"""Restoring the fine detail of the source that codec and working size lose, mapped as the edit maps colours.

With D the decoded latents at working size, up() scaling to the clip's size, x the source frame:

    out = up(D(z)) + detail * up(A) (x - up(D(s)))

The bracket is the detail that was lost. Added as it is (A = 1) it leaves ghosts wherever the edit changed contrast: the
old edges beside the new ones. So around each pixel a 3 x 3 colour map A is fitted that takes the decoded source to the
decoded edit, as in the guided filter (He, Sun and Tang 2013), and detail goes through it:

    A = (cov(D(z), D(s)) + eps B) (cov(D(s), D(s)) + eps I)^-1       covariances over a window of (2 r + 1)^2 pixels

In a flat window, which says nothing of colours, A tends to B: the map fitted in the same way to a far wider window,
and where that one is flat too, to I. One map cannot speak for a window that the edit changes in part, such as one with
the corner of a cube that became a ball. So A is scaled by how far it explains the edit there, their correlation R:

    A  <-  R A      R^2 = (m + eps) / (m + r + eps)      m = mean |A ds|^2      r = mean |dz - A ds|^2

    ds, dz  D(s) and D(z) about their means over the window

An unedited latent gives A = I and the source itself, bit for bit up to rounding; a colour edit (night, grey, negative)
gives that edit of the full-size source; where the edit has nothing to do with the source A tends to 0 and the edit
stands alone.

An edit of one thing moves all other latents a little too. What changes too little to be meant is left out before
anything else, so that the source stays there (coring, as in noise reduction):

    D(z)  <-  D(s) + w (D(z) - D(s))      w = guided(clamp((d / k - NOISE) / (EDIT - NOISE), 0, 1))
    d     mean over (2 r + 1)^2 pixels of the largest change of a channel
    k     strength: the share of the edit that z holds, so that what is left out does not depend on it

guided() is a guided filter by D(s) (`csd3d.media.guided`): what the codec blurs over the border of a thing is left out
where the thing ends.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.media.guided import box_mean, guided_filter, products, regression

WINDOWS = ((16, 1e-3), (4, 3e-4))
"""From wide to narrow: half the window in working pixels, and the variance below which it counts as flat. The last is
4 levels of 255, squared."""
LIMIT = 2.0
"""Largest entry of A, so that errors of the codec in flat places are not amplified."""
NOISE, EDIT, CORING_RADIUS = 0.02, 0.08, 2
"""Of [0, 1]: change that is left out, and that is kept whole; half the window in working pixels. Chosen on 81 edits by
the built-in editor. Of those of a part the background changes a third as much. They come 1.0 dB nearer to the truth,
those of the whole picture 0.3 dB."""
CORING_GUIDE = (3, 1e-3)
"""Of the guided filter: half the window in working pixels, and the variance below which it counts as flat."""


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
    d = box_mean(change.abs().amax(1, keepdim=True), CORING_RADIUS) / strength
    radius, eps = CORING_GUIDE
    w = guided_filter(((d - NOISE) / (EDIT - NOISE)).clamp(0, 1), reconstruction, radius=radius, eps=eps)
    return reconstruction + w.clamp(0, 1) * change


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
    z, s = edited - 0.5, source - 0.5  # about the middle, where products lose the least to rounding
    planes = products(z, s)
    fitted = torch.eye(3).to(source)[:, :, None, None]
    *wide, (radius, eps) = windows
    for window in wide:
        fitted, _, _ = regression(planes, *window, prior=fitted)
    fitted, mean_z, mean_s = regression(planes, radius, eps, prior=fitted)
    maps = box_mean(fitted.flatten(1, 2), radius).clamp(-LIMIT, LIMIT)
    mapped, dz = apply_maps(maps, s - mean_s), z - mean_z
    squares = torch.stack([mapped.square().sum(1), (dz - mapped).square().sum(1)], 1)
    explained, left = box_mean(squares, radius).clamp_min(0).split(1, 1)
    return maps * ((explained + eps) / (explained + left + eps)).sqrt()


def apply_maps(maps: Float[Tensor, "n 9 H W"], detail: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
    """A times the detail, pixel by pixel."""
    rows = maps.unflatten(1, (3, 3))
    return torch.stack([(rows[:, i] * detail).sum(1) for i in range(3)], dim=1)
