"""Where an edit is, by what a prior predicts: masks that nobody painted.

    d_i(p) = 1/(n C) sum_e sum_c |eps(s_t | target) - eps(s_t | source)| / rms(eps(s_t | source))

s_t  source latents at half of the training timesteps, under noise e; n draws of it
d    difference of particle i at latent p, in units of the predicted noise, so that no scale of a prior enters

This is the first step of DiffEdit (Couairon et al., 2023), of which the rest is done by other means here. DiffEdit
rescales every map to [0, 1] before it cuts it, and so masks edits of the whole picture too. Here the level is absolute:

    the edit is in part of the picture     the lowest tenth of d is at most `WHOLE`; the mask is d > `LEVEL`, dilated
    the edit is of the whole picture       else; no mask

The two levels were measured on the built-in priors at guidance 1 (97 held-out edits). Any network that
predicts noise has an rms near 1, so d has the same unit elsewhere; how quiet a background is depends on the prior.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from csd3d.engine.residuals import Score
from csd3d.engine.transport import Correspondences, along
from csd3d.engine.types import Index, Latents, Noised

NOISES = 4
"""Draws of noise for each particle; with 10, as published, the maps are hardly better."""
LEVEL = 0.05
"""Difference above which a latent belongs to the edit."""
WHOLE = 0.02
"""Lowest tenth of the difference above which the edit is of the whole picture."""


@torch.no_grad()
def difference(
    score: Score, s: Latents, index: Index, *, rng: torch.Generator, noises: int = NOISES
) -> Float[Tensor, "n h w"]:
    """d of the module's text, on the device of `s`.

    Args:
        score: the prior under its sentences, at guidance 1: guidance multiplies the difference.
        s: clean latents of the sources.
        index: numbers of the particles, which pick their sentences.
        rng: on the CPU; draws `noises` times for one particle after another, so chunks change nothing.
        noises: n.
    """
    e = torch.stack([torch.randn(noises, *s.shape[1:], generator=rng) for _ in s]).to(s)
    t = score.schedule.num_timesteps // 2
    total = torch.zeros_like(s[:, 0])
    for k in range(noises):
        s_t = score.schedule.add_noise(s, e[:, k], t)
        x = Noised(s, s, index, e[:, k], t, s_t, s_t)
        plain = score.source(x)
        rms = plain.square().mean((1, 2, 3), keepdim=True).sqrt()
        total += ((score.target(x) - plain).abs() / rms).mean(1)
    return total / noises


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

    extent: Literal["part", "whole", "nowhere"]
    """Of what is shown under the sentence; the mask is 1 everywhere unless this is `part`."""
    mask: Float[Tensor, "n h w"]
    """1 where the edit is, with one latent around it, else 0."""
    level: float
    """Lowest tenth of d."""


def found_in(maps: Float[Tensor, "n h w"], shown: Bool[Tensor, "n h w"] | None = None) -> Found:
    """The edit of one sentence from the maps of its particles, together one picture.

    Args:
        maps: d, fused.
        shown: where the sentence holds; None: everywhere.
    """
    shown = torch.ones_like(maps, dtype=torch.bool) if shown is None else shown
    values = maps[shown].sort().values
    level = float(values[len(values) // 10])
    inside = (maps > LEVEL) & shown
    if level > WHOLE:
        return Found("whole", torch.ones_like(maps), level)
    if not bool(inside.any()):
        return Found("nowhere", torch.ones_like(maps), level)
    return Found("part", dilated(inside.to(maps)), level)


def dilated(mask: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """The mask with one latent around it."""
    return max_pool2d(mask[:, None], 3, stride=1, padding=1)[:, 0]
