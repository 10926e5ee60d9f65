"""The scalar kernel: the weight of one particle in the update of another.

    d2_ij = |x_i - x_j|^2        gamma = log(n + 1) / median of d2        k_ij = exp(-gamma d2_ij)

x      what the kernel compares: noisy or clean latents, one per particle
gamma  inverse squared width. By the median rule, two particles at the median distance have k = 1 / (n + 1)

Distances are taken in float32 at least, from differences and not from inner products: particles of one clip are
close together and far from the origin, where inner products cancel.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

BandwidthRule = Literal["median", "paper"]
Bandwidth = BandwidthRule | float

SAME_RMS = 1e-2
"""Latents that differ by less than this are the same picture (root mean square; latents have unit scale). The median
counts as no smaller: repulsion grows as the inverse of the median distance, and would drive equal frames apart along
the rounding errors between them."""


def sq_distances(x: Float[Tensor, "n *d"]) -> Float[Tensor, "n n"]:
    """d2_ij, exactly symmetric with an exactly zero diagonal."""
    flat = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()


def median_gamma(
    d2: Float[Tensor, "n n"], mode: BandwidthRule, *, floor: float | Float[Tensor, ""] = 0.0
) -> Float[Tensor, ""]:
    """gamma = log(n + 1) / median; for an even count the median is the lower of the two in the middle. 0 where that is
    0. It stays on the device: nothing waits for it.

    "median" is over the n (n - 1) / 2 distinct pairs, not below `floor`. "paper" is over all n^2 entries, the zero
    diagonal among them, as in the published code. There the median is 0, gamma infinite and
    the kernel NaN if most particles are equal, and always for n = 2: that raises `ValueError`. Of one particle, whose
    only weight is 1 by any gamma, it is 0.
    """
    n = d2.shape[0]
    if n == 1:
        return torch.zeros((), dtype=d2.dtype, device=d2.device)
    require_bandwidth(mode, n)
    if mode == "paper":
        median = d2.flatten().median()
    else:
        i, j = torch.triu_indices(n, n, 1, device=d2.device)
        median = d2[i, j].median().clamp_min(floor)
    return torch.where(median > 0, math.log(n + 1) / median, torch.zeros_like(median))


def require_bandwidth(bandwidth: object, n: int) -> None:
    """Raises `ValueError` for a rule that finds no bandwidth for the particles of a step."""
    if bandwidth == "paper" and n == 2:
        raise ValueError("bandwidth: 'paper' expected 3 or more different particles, or one, got 2; use 'median'")


def rbf(d2: Float[Tensor, "n n"], gamma: float | Float[Tensor, ""]) -> Float[Tensor, "n n"]:
    """k_ij = exp(-gamma d2_ij), in [0, 1], one on the diagonal."""
    return torch.exp(-gamma * d2)
