"""A picture of a method's gradient: where it wants to change something, and how much."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import draw_noise, draw_timestep
from csd3d.engine.residuals import Score
from csd3d.engine.step import csd_step

DRAWS = 8


def mean_gradient(
    score: Score,
    z: Float[Tensor, "n c h w"],
    s: Float[Tensor, "n c h w"],
    index: Int[Tensor, " n"],
    config: CsdConfig,
    *,
    seed: int = 0,
) -> Float[Tensor, "n c h w"]:
    """g of a step, averaged over `DRAWS` timesteps and noises: what is left of it when chance is taken out."""
    rng = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(z)
    for _ in range(DRAWS):
        t, e = draw_timestep(rng, config), draw_noise(z, rng, config)
        total += csd_step(score, z, s, index, t=t, e=e, config=config).g
    return total / DRAWS


def gradient_picture(
    score: Score,
    z: Float[Tensor, "n c h w"],
    s: Float[Tensor, "n c h w"],
    index: Int[Tensor, " n"],
    config: CsdConfig,
    *,
    seed: int = 0,
) -> Float[Tensor, "n 3 h w"]:
    """`mean_gradient` for the eye: its length over channels, black for none to white for the largest of all."""
    length = mean_gradient(score, z, s, index, config, seed=seed).norm(dim=1, keepdim=True).cpu()
    return heat(length / length.max().clamp_min(1e-12))


def heat(x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Numbers in [0, 1] as the colours of hot iron: black, red, yellow, white."""
    return (3 * x - torch.tensor([0.0, 1.0, 2.0])[:, None, None]).clamp(0, 1)
