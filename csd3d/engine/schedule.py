"""The noise schedule, in the one parametrisation the engine knows: a model that predicts the noise (epsilon).

    z_t = sqrt(ab_t) z + sqrt(1 - ab_t) e        w(t) = 1 - ab_t

z    clean latent              t     timestep of the prior's training schedule, an integer in [0, T)
e    standard normal noise     ab_t  cumulative product of the schedule's alphas, falling from about 1 towards 0
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Float32
from torch import Tensor

from csd3d.engine.types import Batch, Latents, Noised


@dataclass(frozen=True, eq=False)
class Schedule:
    """What a prior was trained with. Kept on the CPU; its numbers scale tensors on any device.

    Raises `ValueError` if the values are not in [0, 1] or grow with t.
    """

    alphas_cumprod: Float32[Tensor, " T"]

    def __post_init__(self) -> None:
        ab = self.alphas_cumprod
        if ab.numel() == 0 or not bool(((ab >= 0) & (ab <= 1)).all()):
            raise ValueError(f"alphas_cumprod: expected values in [0, 1], got {ab}")
        if bool((ab.diff() > 0).any()):
            raise ValueError("alphas_cumprod: expected values that never grow with t, got some that do")

    @classmethod
    def scaled_linear(cls, first: float = 0.00085, last: float = 0.012, num_timesteps: int = 1000) -> Schedule:
        """Betas whose square roots are evenly spaced, from `first` to `last`: Stable Diffusion's schedule."""
        betas = torch.linspace(first**0.5, last**0.5, num_timesteps, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - betas, 0).float())

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps of training."""
        return self.alphas_cumprod.shape[0]

    def alpha_bar(self, t: int) -> float:
        """ab_t. Raises `ValueError` for a t outside [0, T)."""
        if not 0 <= t < self.num_timesteps:
            raise ValueError(f"t: expected a timestep in [0, {self.num_timesteps}), got {t}")
        return float(self.alphas_cumprod[t])

    def shifted(self, t: int, shift: float) -> int:
        """The timestep whose noise, sqrt((1 - ab) / ab), is nearest in proportion to `shift` times that of `t`.

        A picture `shift` times as wide keeps as much of what it shows under so much more noise (Hoogeboom et al. 2023;
        Esser et al. 2024, section 5.3.2).
        """
        if shift == 1:
            return t
        ab = self.alphas_cumprod.double()
        log_noise = ((1 - ab) / ab).log() / 2
        return int((log_noise - log_noise[t] - log(shift)).abs().argmin())

    def add_noise(self, z: Latents, e: Latents, t: int) -> Latents:
        """z_t = sqrt(ab_t) z + sqrt(1 - ab_t) e: the clean latents `z` at noise level `t`, the same for all."""
        ab = self.alpha_bar(t)
        return ab**0.5 * z + (1 - ab) ** 0.5 * e

    @torch.no_grad()
    def noised(self, batch: Batch, t: int, e: Latents) -> Noised:
        """Particles and their sources at noise level `t`, both with the noise `e`."""
        z_t, s_t = (self.add_noise(x, e, t) for x in (batch.z, batch.s))
        return Noised(batch.z, batch.s, batch.index, e, t, z_t, s_t, batch.anchors)

    def weight(self, t: int) -> float:
        """w(t) = 1 - ab_t, the variance of the noise at `t`: how much the gradient of a step at `t` counts."""
        return 1 - self.alpha_bar(t)

    def sigma(self, t: int) -> float:
        """The flow level x = (1 - sigma) z + sigma e with the same ratio of signal to noise, in [0, 1]."""
        ab = self.alpha_bar(t)
        return (1 - ab) ** 0.5 / ((1 - ab) ** 0.5 + ab**0.5)
