"""Priors and particles small enough to reason about."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine import Batch, CsdConfig, Schedule, make_optimizer
from csd3d.engine.regularisers import FeatureLoss, Layers

SCHEDULE = Schedule.scaled_linear()


@dataclass(frozen=True)
class ToyScore:
    """Smooth made-up predictions that depend on every argument, each particle's on itself alone."""

    schedule: Schedule = SCHEDULE
    chunk: int | None = None
    calls: list[str] = field(default_factory=list)

    def target(
        self, z_t: Float[Tensor, "n c h w"], t: int, s: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        self.calls.append("target")
        return self._chunked(z_t, s, index, 0.3 + t / 1000)

    def source(
        self, s_t: Float[Tensor, "n c h w"], t: int, s: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        self.calls.append("source")
        return self._chunked(s_t, s, index, 0.1 + t / 1000)

    def _chunked(
        self, x_t: Float[Tensor, "n c h w"], s: Float[Tensor, "n c h w"], index: Int[Tensor, " n"], a: float
    ) -> Float[Tensor, "n c h w"]:
        size = self.chunk or len(x_t)
        parts = zip(x_t.split(size), s.split(size), index.split(size), strict=True)
        return torch.cat([self._predict(*part, a) for part in parts])

    @staticmethod
    def _predict(
        x_t: Float[Tensor, "n c h w"], s: Float[Tensor, "n c h w"], index: Int[Tensor, " n"], a: float
    ) -> Float[Tensor, "n c h w"]:
        phase = index.to(x_t).view(-1, 1, 1, 1) / 10
        return torch.tanh(a * x_t + phase) + 0.2 * x_t.roll(1, 3) * s


@dataclass(frozen=True)
class FeatureToyScore(ToyScore):
    """A toy with two feature maps, one of half the size, for regularisers; batches are split as `chunk` says."""

    def feature_gradient(
        self,
        z_t: Float[Tensor, "n c h w"],
        s_t: Float[Tensor, "n c h w"],
        t: int,
        s: Float[Tensor, "n c h w"],
        index: Int[Tensor, " n"],
        *,
        layers: Layers,
        loss: FeatureLoss,
    ) -> Float[Tensor, "n c h w"]:
        self.calls.append(f"features of {layers}")
        size = self.chunk or len(z_t)
        done = []
        for z, s_part in zip(z_t.split(size), s_t.split(size), strict=True):
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                done.append(torch.autograd.grad(loss(self.maps(z, 1.0), self.maps(s_part, 0.7)), z)[0])
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

    def target(
        self, z_t: Float[Tensor, "n c h w"], t: int, s: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """eps = -sqrt(1 - ab_t) grad log p_t, with p_t = sum_k share_k N(sqrt(ab_t) mean_k, ab_t var_k + 1 - ab_t)."""
        ab = self.schedule.alpha_bar(t)
        variances = ab * self.variances + 1 - ab
        away = (z_t[:, None] - ab**0.5 * self.means).flatten(2)  # n k d
        log_p = self.shares.log() - away.square().sum(2) / (2 * variances) - away.shape[2] / 2 * variances.log()
        grad = -(log_p.softmax(1)[..., None] * away / variances[:, None]).sum(1)
        return -((1 - ab) ** 0.5) * grad.view_as(z_t)

    def source(
        self, s_t: Float[Tensor, "n c h w"], t: int, s: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
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

    def __init__(self, s: Float[Tensor, "n c h w"], config: CsdConfig, per_step: int | None = None) -> None:
        self.s = s
        self.z = s.clone().requires_grad_()
        self.per_step = per_step or len(s)
        self.optimizer = make_optimizer([self.z], config)

    def draw(self, rng: torch.Generator) -> Batch:
        index = torch.randperm(len(self.s), generator=rng)[: self.per_step].sort().values
        return Batch(self.z[index], self.s[index], index)

    def apply(self, batch: Batch, g: Float[Tensor, "n c h w"], *, lr: float) -> None:
        self.optimizer.zero_grad()
        batch.z.backward(g)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"z": self.z.detach().clone(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.z.copy_(state["z"])
        self.optimizer.load_state_dict(state["optimizer"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Float[Tensor, "n 4 3 5"]:
    """Made-up latents, deliberately neither square nor with c = h."""
    return torch.randn(n, 4, 3, 5, generator=generator(seed), dtype=torch.float64).to(dtype)
