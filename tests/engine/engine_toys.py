"""Priors and particles small enough to reason about."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine import (
    Batch,
    CsdConfig,
    FeatureSite,
    Index,
    Latents,
    Moments,
    Noised,
    Schedule,
    descend,
    first_moments,
)
from csd3d.engine.regularisers import FeatureLoss

SCHEDULE = Schedule.scaled_linear()


@dataclass(frozen=True)
class ToyScore:
    """Smooth made-up predictions that depend on every argument, each particle's on itself alone."""

    schedule: Schedule = SCHEDULE
    chunk: int | None = None
    calls: list[str] = field(default_factory=list)

    def target(self, x: Noised) -> Latents:
        self.calls.append("target")
        return self._chunked(x.z_t, x, 0.3 + x.t / 1000)

    def source(self, x: Noised) -> Latents:
        self.calls.append("source")
        return self._chunked(x.s_t, x, 0.1 + x.t / 1000)

    def _chunked(self, x_t: Latents, x: Noised, a: float) -> Latents:
        size = self.chunk or len(x_t)
        parts = zip(x_t.split(size), x.s.split(size), x.index.split(size), strict=True)
        return torch.cat([self._predict(*part, a) for part in parts])

    @staticmethod
    def _predict(x_t: Latents, s: Latents, index: Index, a: float) -> Latents:
        phase = index.to(x_t).view(-1, 1, 1, 1) / 10
        return torch.tanh(a * x_t + phase) + 0.2 * x_t.roll(1, 3) * s


@dataclass(frozen=True)
class FeatureToyScore(ToyScore):
    """A toy with two feature maps, one of half the size, for regularisers; batches are split as `chunk` says."""

    def feature_gradient(self, x: Noised, site: FeatureSite, loss: FeatureLoss) -> Latents:
        self.calls.append(f"features of {site}")
        size = self.chunk or len(x.z_t)
        done = []
        for z, s in zip(x.z_t.split(size), x.s_t.split(size), strict=True):
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                done.append(torch.autograd.grad(loss(self.maps(z, 1.0), self.maps(s, 0.7)), z)[0])
        return torch.cat(done)

    @staticmethod
    def maps(x_t: Float[Tensor, "n c h w"], a: float) -> list[Tensor]:
        x = torch.tanh(a * x_t) + 0.3 * x_t.roll(1, 3).roll(1, 1)
        return [x, torch.nn.functional.avg_pool2d(x, 2).square()]


@dataclass(frozen=True)
class MixtureScore:
    """The exact noise prediction for latents from a mixture of Gaussians with isotropic variances."""

    means: Float[Tensor, "k c h w"]
    variances: Float[Tensor, " k"]
    shares: Float[Tensor, " k"]
    schedule: Schedule = SCHEDULE

    def target(self, x: Noised) -> Latents:
        """eps = -sqrt(1 - ab_t) grad log p_t, with p_t = sum_k share_k N(sqrt(ab_t) mean_k, ab_t var_k + 1 - ab_t)."""
        ab = self.schedule.alpha_bar(x.t)
        variances = ab * self.variances + 1 - ab
        away = (x.z_t[:, None] - ab**0.5 * self.means).flatten(2)  # n k d
        log_p = self.shares.log() - away.square().sum(2) / (2 * variances) - away.shape[2] / 2 * variances.log()
        grad = -(log_p.softmax(1)[..., None] * away / variances[:, None]).sum(1)
        return -((1 - ab) ** 0.5) * grad.view_as(x.z_t)

    def source(self, x: Noised) -> Latents:
        raise NotImplementedError("a mixture has no source")

    def moments(self, t: int) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """Mean and covariance of p_t."""
        ab = self.schedule.alpha_bar(t)
        means = ab**0.5 * self.means.flatten(1)
        mean = (self.shares[:, None] * means).sum(0)
        between = (self.shares[:, None, None] * (means - mean)[:, :, None] * (means - mean)[:, None, :]).sum(0)
        within = (self.shares * (ab * self.variances + 1 - ab)).sum()
        return mean, between + within * torch.eye(len(mean))


class FreeLatents:
    """N free latents, of which every step draws `per_step`."""

    def __init__(self, s: Latents, config: CsdConfig, per_step: int | None = None) -> None:
        self.s, self.z = s, s.clone()
        self.per_step = per_step or len(s)
        self.moments = first_moments(s, config.optimizer)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.s) // self.per_step

    def draw(self, rng: torch.Generator) -> Batch:
        index = torch.randperm(len(self.s), generator=rng)[: self.per_step].sort().values
        return Batch(self.z[index], self.s[index], index)

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        old = self.moments
        mine = None if old is None else Moments(old.mean[index], old.square[index], old.steps[index])
        self.z[index], new = descend(self.z[index], g, mine, lr=lr)
        if old is not None and new is not None:
            old.mean[index], old.square[index], old.steps[index] = new.mean, new.square, new.steps

    def state_dict(self) -> dict[str, Any]:
        return {"z": self.z} | ({} if self.moments is None else vars(self.moments))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.z = state["z"].clone()
        if self.moments is not None:
            self.moments = Moments(*(state[name].clone() for name in ("mean", "square", "steps")))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Float[Tensor, "n 4 3 5"]:
    """Made-up latents, deliberately neither square nor with c = h."""
    return torch.randn(n, 4, 3, 5, generator=generator(seed), dtype=torch.float64).to(dtype)


def noised(z: Latents, s: Latents, index: Index, *, t: int, e: Latents) -> Noised:
    """The particles of a step."""
    return SCHEDULE.noised(Batch(z, s, index), t, e)
