"""Distances of pictures by the features of a network: maps in, numbers out. The networks are elsewhere."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def lpips(
    a: Sequence[Float[Tensor, "n _c _h _w"]],
    b: Sequence[Float[Tensor, "n _c _h _w"]],
    weights: Sequence[Float[Tensor, " _c"]],
) -> Float[Tensor, " n"]:
    """Learned perceptual distance (Zhang et al. 2018), 0 for equal pictures, lower is nearer.

    Sum over layers of the mean over positions of sum_c w_c (a_c - b_c)^2, features scaled to length 1 over channels.

    Raises:
        ValueError: not as many layers of one as of the other, or as of weights.
    """
    if not len(a) == len(b) == len(weights):
        raise ValueError(f"lpips: expected as many layers of weights as of features, got {len(a)}, {len(weights)}")
    total = torch.zeros(len(a[0]), device=a[0].device)
    for x, y, w in zip(a, b, weights, strict=True):
        apart = (normalize(x, dim=1, eps=1e-10) - normalize(y, dim=1, eps=1e-10)).square()
        total = total + (apart * w[:, None, None]).sum(1).mean((1, 2))
    return total


def self_similarity_distance(a: Float[Tensor, "n k d"], b: Float[Tensor, "n k d"]) -> Float[Tensor, " n"]:
    """Mean squared difference of the matrices of cosines between each picture's own k features, in [0, 4].

    Lower is better. With keys of the last layer of DINO ViT-B/8 this is the structure distance of Tumanyan et al. 2022
    (Splice), which Plug-and-Play, DDS and CDS report.

    With rows u_i of length 1, |U U^T - V V^T|^2 = |U^T U|^2 + |V^T V|^2 - 2 |U^T V|^2: no matrix of k x k is made.
    """
    u, v = (normalize(x.double(), dim=2, eps=1e-8) for x in (a, b))

    def overlap(x: Float[Tensor, "n k d"], y: Float[Tensor, "n k d"]) -> Float[Tensor, " n"]:
        return (x.transpose(1, 2) @ y).square().sum((1, 2))

    apart = overlap(u, u) + overlap(v, v) - 2 * overlap(u, v)
    return (apart / a.shape[1] ** 2).clamp_min(0).to(a.dtype)


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Frechet distance of the Gaussians through two sets of features; of Inception's, the FID (Heusel et al. 2017).

    |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), covariances over n - 1; 0 is best. The trace of the root is the
    sum of the singular values of the product of the two sets' centred features, so few pictures of many features need
    no matrix of d x d. It depends on how many pictures there are: compare at equal numbers. NaN for fewer than two.
    """
    if min(len(a), len(b)) < 2:
        return float("nan")
    a, b = a.double(), b.double()
    centred_a, centred_b = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b))
    root = (centred_a @ centred_b.T).svd(compute_uv=False).S.sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return max(float(apart + centred_a.square().sum() + centred_b.square().sum() - 2 * root), 0.0)
