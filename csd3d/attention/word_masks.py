"""Where the thing is that a word names, by which places of a picture look at the word: masks that nobody painted.

    A_i(p) = 1/n sum_e sum_{j in word} A_e[p, j]     how much place p looks at the word, mean over the sites of a level
    m_i    = 1/n sum_e S_e A_e                       refined: what a place looks at, the places like it look at

A, S   cross- and self-attention of noisy sources s_t (`csd3d.attention.maps`), under a sentence that holds the word,
       at `SHARE` of the training timesteps, under n draws of noise e
m      of particle i, brought to the size of its latents

The mask is m > `EDGE` of its way from the lowest to the highest place, of all particles of one sentence together, once
m is brought to pixels.
Whether the thing is there at all m does not say: what looks most like it takes its place.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from csd3d.attention.maps import Maps, refine
from csd3d.attention.masks import NOISES, Found
from csd3d.attention.score import Controllable
from csd3d.attention.sites import Site
from csd3d.engine.types import Index, Latents, Noised, numbers

SHARE = 0.15
"""Of the training timesteps; small, as things are to be found that are there."""
EDGE = 0.3
"""Of the way from the lowest to the highest place."""
MOST_PLACES = 24 * 24
"""Of a map that is read: in Stable Diffusion those of 16 x 16 places know best where a word's thing is."""


def sites_of_words(sites: Sequence[Site], size_lat: tuple[int, int]) -> tuple[Site, ...]:
    """The attentions of the finest level, of at most `MOST_PLACES`, that has both cross- and self-attention; none."""
    small = [site for site in sites if site.kind in ("self", "cross") and site.places(size_lat) <= MOST_PLACES]
    levels = {site.level for site in small if site.kind == "cross"} & {s.level for s in small if s.kind == "self"}
    return tuple(site for site in small if site.level == min(levels)) if levels else ()


@torch.no_grad()
def word_map(
    score: Controllable,
    s: Latents,
    index: Index,
    places: Sequence[Sequence[int]],
    *,
    rng: torch.Generator,
    noises: int = NOISES,
) -> Float[Tensor, "n h w"]:
    """m of the module's text, on the device of `s`.

    Args:
        score: the prior under its sentences, at guidance 1, where it predicts one branch.
        s: clean latents of the sources.
        index: numbers of the particles, which pick their sentences.
        places: of each of them, the tokens of its word in its sentence.
        rng: on the CPU; draws `noises` times for one particle after another, so chunks change nothing.
        noises: n.

    Raises:
        ValueError: the network cannot be read.
    """
    e = torch.stack([torch.randn(noises, *s.shape[1:], generator=rng) for _ in s]).to(s)
    t, size_lat = int(SHARE * score.schedule.num_timesteps), (s.shape[-2], s.shape[-1])
    if not (sites := sites_of_words(score.sites, size_lat)):
        raise ValueError("mask-words: expected a prior whose attention has maps of at most 24x24 places, got none")
    particles, level, total = numbers(index), sites[0].level, torch.zeros_like(s[:, 0])
    for k in range(noises):
        s_t, maps = score.schedule.add_noise(s, e[:, k], t), Maps(sites)
        with score.controlled([maps.control]):
            score.target(Noised(s, s, index, e[:, k], t, s_t, s_t))
        (branch,) = maps.branches
        A = maps.cross("target", branch, particles, level=level)
        word = torch.stack([a[list(tokens)].sum(0, keepdim=True) for a, tokens in zip(A, places, strict=True)])
        refined = refine(word, maps.within("target", branch, particles, level=level))
        total += interpolate(refined, size_lat, mode="bilinear")[:, 0].to(s)
    return total / noises


def word_in(maps: Float[Tensor, "n h w"], shown: Bool[Tensor, "n h w"] | None = None) -> Found:
    """The thing of one sentence from the maps of its particles, together one picture. Arguments as for `found_in`."""
    shown = torch.ones_like(maps, dtype=torch.bool) if shown is None else shown
    values = maps[shown]
    low, high = values.min(), values.max()
    mask = torch.where(shown, (maps - low) / (EDGE * (high - low)).clamp_min(1e-12), 0.0)
    spread = float((values - low).mean() / (high - low).clamp_min(1e-12))
    return Found("part" if high > low else "nowhere", mask, spread, float(low))
