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


def median_gamma(d2: Float[Tensor, "n n"], mode: BandwidthRule, *, floor: float = 0.0) -> float:
    """gamma = log(n + 1) / median; for an even count the median is the lower of the two in the middle.

    "median" is over the n (n - 1) / 2 distinct pairs, not below `floor`; gamma is 0 where there is no distance at all.
    "paper" is over all n^2 entries, the zero diagonal among them, as in the published code. There gamma is infinite
    and the kernel NaN for n <= 2, or if most particles are equal: here that raises `ValueError`.
    """
    n = d2.shape[0]
    if mode == "paper":
        median = float(d2.median())
        if median == 0:
            raise ValueError(f"bandwidth: 'paper' expected 3 or more different particles, got {n}; use 'median'")
    else:
        i, j = torch.triu_indices(n, n, 1, device=d2.device)
        median = max(float(d2[i, j].median()), floor) if n > 1 else 0.0
    return math.log(n + 1) / median if median > 0 else 0.0


def rbf(d2: Float[Tensor, "n n"], gamma: float) -> Float[Tensor, "n n"]:
    """k_ij = exp(-gamma d2_ij), in [0, 1], one on the diagonal."""
    return torch.exp(-gamma * d2)
