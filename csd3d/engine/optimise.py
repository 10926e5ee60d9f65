"""The optimiser, without state of its own: latents, direction and moments in, latents and moments out.

    SGD     z <- z - lr g
    Adam    m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
            z <- z - lr / (1 - b1^k) m / (sqrt(v) / sqrt(1 - b2^k) + epsilon)          (Kingma and Ba, 2015)

g     descent direction             m, v  running means of g and of g^2, zero at first
k     steps that were taken         b1, b2, epsilon  0.9, 0.999, 1e-8

Every row has a k of its own, so particles may be moved in any order and any number of times. Adam's operations are
those of `torch.optim.Adam` for one tensor, in its order: the results have the same bits on the CPU. SGD is rounded as
it is written, the same on every machine, whereas `torch.optim.SGD` fuses it where the processor can.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine.config import Optimizer
from csd3d.engine.types import Latents, numbers

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True, eq=False)
class Moments:
    """What Adam remembers of the directions of every row."""

    mean: Float[Tensor, "n c h w"]
    """m"""
    square: Float[Tensor, "n c h w"]
    """v"""
    steps: Int[Tensor, " n"]
    """k, on the CPU"""


def first_moments(z: Latents, optimizer: Optimizer) -> Moments | None:
    """Moments before the first step; SGD has none."""
    if optimizer == "sgd":
        return None
    return Moments(torch.zeros_like(z), torch.zeros_like(z), torch.zeros(len(z), dtype=torch.int64))


def descend(z: Latents, g: Latents, moments: Moments | None, *, lr: float) -> tuple[Latents, Moments | None]:
    """One step from `z` along -`g`: Adam's with moments, SGD's without."""
    if moments is None:
        return z - lr * g, None
    mean = moments.mean.lerp(g, 1 - BETA1)
    square = (moments.square * BETA2).addcmul(g, g, value=1 - BETA2)
    steps = moments.steps + 1
    size = _per_row([-lr / (1 - BETA1**k) for k in numbers(steps)], z)
    root = _per_row([(1 - BETA2**k) ** 0.5 for k in numbers(steps)], z)
    return z + size * mean / (square.sqrt() / root + EPSILON), Moments(mean, square, steps)


def _per_row(values: Sequence[float], like: Latents) -> Float[Tensor, "n 1 1 1"]:
    return torch.tensor(values, dtype=torch.float64).to(like.device, like.dtype, non_blocking=True).view(-1, 1, 1, 1)
