"""Steering as a term of distillation: the energy of what a particle's network looks at, beside what the prior wants.

    g_i = coupled(r)_i + a(t) grad_{z_i} E(maps of z_t,i)        z_t = sqrt(ab_t) z + sqrt(1 - ab_t) e

so grad_z E = sqrt(ab_t) grad_{z_t} E. It acts at the noisiest `until` of the timesteps, where a sampler is steered too
(`csd3d.attention.steer`), and falls as there, with 1 - t / T in the place of the share of the steps that are done:

    a(t) = step sqrt((1 + t / T) / 2)                                       as published, or
    a(t) = rms sqrt((1 + t / T) / 2) rms(z) / rms(grad E)                   of each particle

Each particle is pulled by its own energy, so the thing that one frame or view lacks is asked for there. Maps of the
step before, which CONFORM compares with, are those of the same particle under the same noise a fiftieth of the
timesteps noisier, at the step before that of a sampler of 50 steps; they cost one row more. Nothing is remembered from
step to step, so runs go on exactly, in any batches.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from csd3d.attention.steer import Steer
from csd3d.engine.types import Latents, Noised, numbers

PUBLISHED_STEPS = 50
"""Of the sampler whose step before is compared with."""


@dataclass(frozen=True)
class Pull:
    """The term; a `Regulariser` of the engine."""

    steer: Steer
    """Of which sentences, things, sites and settings count, but not rounds."""

    @torch.no_grad()
    def __call__(self, x: Noised) -> Latents:
        """a(t) grad E of every particle. Particles are `x.z`, noisy `x.z_t`."""
        steering, schedule = self.steer.steering, self.steer.score.schedule
        noise = x.t / schedule.num_timesteps
        if noise < 1 - steering.until or steering.until == 0:
            return torch.zeros_like(x.z)
        read = self.steer.read(x.z_t, x.t, x.index, self._before(x), s=x.s)
        assert read.gradient is not None
        slope = schedule.alpha_bar(x.t) ** 0.5 * read.gradient
        return math.sqrt((1 + noise) / 2) * steering.scaled(slope, x.z)

    def _before(self, x: Noised) -> dict[int, Tensor]:
        """Maps of the particles one step noisier, where the energy compares with them."""
        if not self.steer.steering.energy.compares:
            return {}
        schedule = self.steer.score.schedule
        T = schedule.num_timesteps
        t = min(x.t + T // PUBLISHED_STEPS, T - 1)
        read = self.steer.read(schedule.add_noise(x.z, x.e, t), t, x.index, {}, s=x.s, gradient=False)
        return dict(zip(numbers(x.index), read.maps, strict=True))
