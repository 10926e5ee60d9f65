"""Where an edit is, by what a prior predicts: masks that nobody painted.

    d_i(p) = 1/(n C) sum_e sum_c |eps(s_t | target) - eps(s_t | source)| / rms(eps(s_t | source))

s_t  source latents at half of the training timesteps, under noise e; n draws of it
d    difference of particle i at latent p, in units of the predicted noise, so that no scale of a prior enters

This is the first step of DiffEdit (Couairon et al., 2023), of which the rest is done by other means here. DiffEdit
rescales every map to [0, 1] before it cuts it, and so masks edits of the whole picture too. Here

    nothing is edited        d is at most `LEVEL` everywhere
    all of it is edited      the mean of d is above `SPREAD` of its peak and its lowest tenth above `QUIET`, or its
                             lowest tenth above `WHOLE`
    a part is edited         else; the mask is d > `EDGE` of its peak over 3 x 3 latents, once d is brought to pixels

Latents are coarse, so d is brought to pixels along the edges of the source (`csd3d.runs.found_masks.at_pixels`).

The mean over the peak is about the share of the picture that is edited. All of it was measured on the built-in priors
at guidance 1, on 320 held-out edits; `EDGE` on 52 others, by how much background changes and how much edit is missed.
Any network that predicts noise has an rms near 1, so d has the same unit elsewhere; how quiet a background is depends
on the prior.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from csd3d.engine.residuals import Score
from csd3d.engine.transport import Correspondences, along
from csd3d.engine.types import Index, Latents, Noised

Extent = Literal["part", "whole", "nowhere"]
NOISES = 4
"""Draws of noise for each particle; with 10, as published, the maps are hardly better."""
LEVEL = 0.05
"""Difference that something edited has at least."""
SPREAD = 0.155
"""Mean over peak of the difference above which the edit is of the whole picture: held-out edits of more than 60 % of
the pixels have 0.16 or more, 95 % of those of less than 35 % have less."""
QUIET = 0.01
"""Lowest tenth of the difference that some background has at most, however much is edited."""
WHOLE = 0.03
"""Lowest tenth of the difference above which the edit is of the whole picture, however high its peak is."""
EDGE = 0.23
"""Of the peak over 3 x 3 latents: at the border of a mask."""
SLOPE = 2.0
"""Of the fade at the border, see `levels`."""


@torch.no_grad()
def difference(
    score: Score, s: Latents, index: Index, *, rng: torch.Generator, noises: int = NOISES, frames: int = 1
) -> Float[Tensor, "m h w"]:
    """d of the module's text, on the device of `s`; of every latent frame of particles that are windows of a clip.

    Args:
        score: the prior under its sentences, at guidance 1: guidance multiplies the difference.
        s: clean latents of the sources.
        index: numbers of the particles, which pick their sentences.
        rng: on the CPU; draws `noises` times for one particle after another, so chunks change nothing.
        noises: n.
        frames: latent frames of a particle, whose channels are those of each frame times that; m = frames n.
    """
    e = torch.stack([torch.randn(noises, *s.shape[1:], generator=rng) for _ in s]).to(s)
    t = score.schedule.num_timesteps // 2
    total = torch.zeros_like(s[:, :frames])
    for k in range(noises):
        s_t = score.schedule.add_noise(s, e[:, k], t)
        x = Noised(s, s, index, e[:, k], t, s_t, s_t)
        plain = score.source(x)
        rms = plain.square().mean((1, 2, 3), keepdim=True).sqrt()
        apart = (score.target(x) - plain).abs() / rms
        total += apart.reshape(len(s), -1, frames, *s.shape[2:]).mean(1)
    return total.flatten(0, 1) / noises


def fuse(
    maps: Float[Tensor, "n h w"], correspondences: Correspondences, neighbours: Sequence[Sequence[int]] | None = None
) -> Float[Tensor, "n h w"]:
    """Maps of particles averaged where they show the same points: sum_j v_ij(p) d_j(pos_ij(p)) / sum_j v_ij(p).

    Args:
        maps: d of particles 0 to n - 1.
        correspondences: where their points are in each other.
        neighbours: over which particles each one is averaged, itself among them; None: over all.
    """
    everyone = range(len(maps))
    fused: list[Tensor] = []
    for i in everyone:
        near = torch.tensor(sorted(everyone if neighbours is None else neighbours[i]))
        place = int(torch.where(near == i)[0])
        moved, v = along(place, maps[near][:, None], correspondences, near)
        fused.append((v * moved[:, 0]).sum(0) / v.sum(0))
    return torch.stack(fused)


@dataclass(frozen=True, eq=False)
class Found:
    """Where the edit of one sentence is."""

    extent: Extent
    """Of what is shown under the sentence; the mask is everywhere unless this is `part`."""
    mask: Float[Tensor, "n h w"]
    """Multiples of the level that the border has; once they are brought to pixels `levels` makes a mask of them."""
    spread: float
    """Mean of d over its peak."""
    lowest: float
    """Lowest tenth of d."""


def found_in(maps: Float[Tensor, "n h w"], shown: Bool[Tensor, "n h w"] | None = None) -> Found:
    """The edit of one sentence from the maps of its particles, together one picture.

    Args:
        maps: d, fused.
        shown: where the sentence holds; None: everywhere.
    """
    shown = torch.ones_like(maps, dtype=torch.bool) if shown is None else shown
    values = maps[shown].sort().values
    peak, lowest = float(values[-1]), float(values[len(values) // 10])
    spread = float(values.mean()) / max(peak, 1e-12)
    if peak <= LEVEL:
        extent: Extent = "nowhere"
    else:
        extent = "whole" if (spread > SPREAD and lowest > QUIET) or lowest > WHOLE else "part"
    smooth = avg_pool2d(maps[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    mask = maps / (EDGE * smooth[shown].max()) if extent == "part" else torch.full_like(maps, 1 / EDGE)
    return Found(extent, torch.where(shown, mask, 0.0), spread, lowest)


def levels(values: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n h w"]:
    """The mask, 0 to 1, of `Found.mask` at the pixels: it fades around its border, where values are 1."""
    return ((values - 1) * SLOPE + 0.5).clamp(0, 1)
