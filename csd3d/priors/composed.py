"""The ordinary sampler where every thing of a caption is to appear: steered, or begun from the best of several noises.

DDIM (Song et al. 2021) in all cases: it has no memory and draws no noise, so that pictures can go on from any step.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.attention.control import Control
from csd3d.attention.energy import Excite
from csd3d.attention.score import Steerable
from csd3d.attention.steer import Pick, Steer, Steering
from csd3d.priors.defaults import suited
from csd3d.priors.latent_diffusion import LatentDiffusion
from csd3d.priors.networks.sampler import Predict, timesteps_of


@dataclass(frozen=True)
class Composed:
    """What is done so that a picture shows all of its caption."""

    steering: Steering | None = None
    """None: the sampler goes where the prior leads it."""
    pick: Pick = field(default_factory=Pick)
    group: str = ""
    """The things, see `csd3d.attention.groups.groups_of`; empty: as they are found."""

    @property
    def reads_maps(self) -> bool:
        """Whether attention is read at all."""
        return self.steering is not None or self.pick.among > 1

    def moves(self, steps: int) -> int:
        """Steps of the sampler that a picture takes, with those of the noises that are not kept."""
        return steps + (self.pick.among - 1) * self.pick.after

    def steer(self, score: Steerable, steps: int, *, builtin: bool, controls: list[Control]) -> Steer | None:
        """For the sentences of a score; None if nothing is read. Raises ValueError as `Steer.over` does, and for steps
        that are too few."""
        if not self.reads_maps:
            return None
        if self.pick.after >= steps:
            raise ValueError(f"pick_after: expected less than the {steps} steps of the sampler, got {self.pick.after}")
        steering = suited(self.steering or Steering(Excite()), builtin=builtin)
        return Steer.over(score, steering, steps=steps, group=self.group, controls=controls)


@dataclass(frozen=True)
class Stage:
    """Pictures that are sampled together."""

    predict: Predict
    steer: Steer | None


def sample_composed(
    prior: LatentDiffusion,
    composed: Composed,
    stage: Callable[[int], Stage],
    noise: Float[Tensor, "m c h w"],
    *,
    rng: torch.Generator,
    steps: int,
) -> Float[Tensor, "n c h w"]:
    """Latents of n pictures, from `composed.pick.among` noises for each, those of a picture one after another.

    Args:
        stage: how so many candidates for each picture are sampled.
        rng: draws nothing; for the sampler.
    """
    pick, among = composed.pick, composed.pick.among

    def denoised(made: Stage, z: Tensor, part: slice) -> Tensor:
        def before(z: Tensor, t: Tensor, step: int) -> Tensor:
            if made.steer is None or composed.steering is None:
                return z
            return made.steer(z, int(t), step, torch.arange(len(z)))

        return prior.denoise(made.predict, z.shape, z, rng, steps=steps, sampler="ddim", before=before, part=part)

    if among == 1:
        return denoised(stage(1), noise, slice(None))
    first = stage(among)
    assert first.steer is not None
    z = denoised(first, noise, slice(0, pick.after)) if pick.after else noise.to(prior.device)
    t = timesteps_of(prior.scheduler, "ddim", steps)[pick.after]
    best = pick.best(first.steer.worth(z, t, torch.arange(len(z))))
    last = stage(1)
    assert last.steer is not None
    last.steer.go_on(first.steer, best)
    return denoised(last, z[best], slice(pick.after, None))
