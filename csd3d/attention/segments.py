"""Segments of a picture by its self-attention alone (DiffSeg, Tian et al. 2024): no words, no training.

    A_f[p, q] = sum_k R_k A_k[p / d_k, q]              every map brought to one size; R_k in proportion to its side
    D(P, Q)   = (KL(P | Q) + KL(Q | P)) / 2

A_k  self-attention of a site, of the picture noised to `SHARE` of the timesteps and read without a sentence; mean over
     heads and `NOISES` draws of noise, the same for all pictures (the paper has one draw); for each place p a
     distribution over places q

Proposals are the distributions of places on a grid, each replaced by the mean of all that are nearer than a threshold;
then proposals that are nearer than it to each other are averaged, in order, in each further round. A pixel belongs to
the proposal that is largest there.

Segments of particles that show the same points (frames of a clip) are given the same number where more than half of one
lies on the other (`linked`), which is not in the paper.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from csd3d.attention.bank import Bank
from csd3d.attention.control import Control
from csd3d.attention.rows import Rows
from csd3d.attention.score import Controllable
from csd3d.attention.sites import Site, choose
from csd3d.engine.transport import Correspondences, along
from csd3d.engine.types import Index, Latents, Noised, numbers

SHARE = 0.3
"""Of the timesteps."""
NOISES = 4
"""Draws of noise, over which the maps are averaged: they steady the segments of a clip."""
MOST_PLACES = 32 * 32
"""Of a map that is read."""
GRID = 16
"""Most anchors along a side."""
ROUNDS = 3
"""Of merging, the first among them."""


@torch.no_grad()
def self_attention(score: Controllable, s: Latents, index: Index, *, seed: int) -> Float[Tensor, "n p p"]:
    """A_f over the places of the latents.

    Args:
        score: the prior; its sentences are not read.
        s: clean latents of the pictures, where the prior computes.
        index: their numbers.
        seed: of the noise.

    Raises:
        ValueError: the network cannot be read.
    """
    size_lat = (s.shape[-2], s.shape[-1])
    sites = [site for site in choose(score.sites, kind="self") if site.places(size_lat) <= MOST_PLACES]
    if not sites:
        raise ValueError("segments: expected a prior with self-attentions of at most 32x32 places, got none")
    bank, branch = Bank(), list(score.wordless_branch.values())[-1]

    def keep(site: Site, rows: Rows, A: Float[Tensor, "b heads p m"]) -> Float[Tensor, "b heads p m"]:
        bank.write(site, rows, A.mean(1))
        return A

    t, rng = int(SHARE * score.schedule.num_timesteps), torch.Generator().manual_seed(seed)
    total = torch.zeros(len(s), size_lat[0] * size_lat[1], size_lat[0] * size_lat[1], device=s.device)
    weights = [max(site.size(size_lat)) for site in sites]
    for _ in range(NOISES):
        e = torch.randn(s.shape[1:], generator=rng).to(s).expand_as(s)
        s_t = score.schedule.add_noise(s, e, t)
        with score.controlled([Control(sites, weigh=keep)]):
            score.target_branch(Noised(s, s, index, e, t, s_t, s_t), branch)
        for site, weight in zip(sites, weights, strict=True):
            (A,) = bank.read(site, "target", [branch] * len(s), numbers(index))
            total += weight / sum(weights) / NOISES * enlarged(A.float(), site.size(size_lat), size_lat)
    return total


def enlarged(A: Float[Tensor, "n p p"], size: tuple[int, int], to: tuple[int, int]) -> Float[Tensor, "n q q"]:
    """Maps over places of `size` as maps over those of `to`: distributions are interpolated and sum to 1 again, and
    each place has that of the place which it is in."""
    maps = interpolate(A.view(*A.shape[:2], *size), to, mode="bilinear").flatten(2)
    maps = maps / maps.sum(2, keepdim=True).clamp_min(1e-12)
    rows, columns = (torch.arange(t, device=A.device) * s // t for s, t in zip(size, to, strict=True))
    return maps[:, (rows[:, None] * size[1] + columns[None]).flatten()]


def divergence(P: Float[Tensor, "a q"], Q: Float[Tensor, "b q"]) -> Float[Tensor, "a b"]:
    """D of all pairs."""
    log_P, log_Q = (X.clamp_min(1e-12).log() for X in (P, Q))
    own = (P * log_P).sum(1)[:, None] + (Q * log_Q).sum(1)[None]
    return (own - P @ log_Q.T - log_P @ Q.T) / 2


def proposals(A: Float[Tensor, "p p"], size: tuple[int, int], *, threshold: float) -> Float[Tensor, "k p"]:
    """The merged distributions of one picture, of places `size`."""
    rows, columns = (((torch.arange(n) + 0.5) * side / n).long() for n, side in ((min(GRID, s), s) for s in size))
    anchors = A[(rows[:, None] * size[1] + columns[None]).flatten().to(A.device)]
    near = (divergence(anchors, A) < threshold).to(A)
    merged = near @ A / near.sum(1, keepdim=True)
    for _ in range(ROUNDS - 1):
        left, found = merged, list[Tensor]()
        while len(left):
            like = divergence(left[:1], left)[0] < threshold
            like[0] = True
            found.append(left[like].mean(0))
            left = left[~like]
        merged = torch.stack(found)
    return merged


def winners(merged: Float[Tensor, "k p"], size: tuple[int, int]) -> Float[Tensor, "m p"]:
    """The proposals that are largest at some place of `size`, which they are of."""
    return merged[merged.argmax(0).bincount(minlength=len(merged)) > 0]


def labels(merged: Float[Tensor, "k p"], size: tuple[int, int], to: tuple[int, int]) -> Int[Tensor, "h w"]:
    """Number of the proposal, of places `size`, that is largest at each place of `to`."""
    return interpolate(merged.view(1, len(merged), *size), to, mode="bilinear")[0].argmax(0)


def linked(segments: Sequence[Int[Tensor, "h w"]], correspondences: Correspondences) -> list[Int[Tensor, " k"]]:
    """For each particle, the numbers in all of them of its segments 0 to k - 1.

    A segment takes the number of that of the particle before on which most of it lies as points move, if that is more
    than half of the part whose points are known there; of several that want a number the one with most of it has it,
    and the others get new ones.

    Args:
        segments: of particles 0, 1, ..., in order, at the size of `correspondences`; every number up to the largest is
            there.
        correspondences: where their points are in each other.
    """
    found = [torch.arange(int(segments[0].max()) + 1)]
    count = len(found[0])
    for j in range(1, len(segments)):
        before = one_hot(found[-1][segments[j - 1]], count).permute(2, 0, 1).float()
        moved, v = along(1, torch.stack([before, before]), correspondences, torch.tensor([j - 1, j]))
        own = one_hot(segments[j]).permute(2, 0, 1).float() * v[0]
        overlap = own.flatten(1) @ moved[0].flatten(1).T
        wanted = torch.where(overlap > own.sum((1, 2))[:, None] / 2, overlap, 0.0)
        numbers = torch.full((len(own),), -1)
        while float(wanted.max()) > 0:
            k, number = divmod(int(wanted.argmax()), wanted.shape[1])
            numbers[k], wanted[k], wanted[:, number] = number, 0.0, 0.0
        new = numbers < 0
        numbers[new] = torch.arange(count, count + int(new.sum()))
        count += int(new.sum())
        found.append(numbers)
    return found
