"""One step of collaborative score distillation, as a pure function: particles in, a descent direction out.

    z_t -> residuals r -> coupling -> g = w(t) coupled(r) + regularisers          then, by the caller, z <- z - lr g

Nothing here differentiates through the prior, moves a particle or draws a random number. Our own loop applies `g`
with `z.backward(g)`; a host that owns its loop and calls `backward` itself takes `surrogate_loss`.

Particles on several machines: every machine calls `csd_step` with all of them, gathered, and the same t and e; its
`Score` evaluates its share and gathers the predictions. Coupling is then one and the same everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.regularisers import Features, PatchNce
from csd3d.engine.residuals import Score, noise_baseline, source_baseline
from csd3d.engine.stein import Kernel, RbfKernel, couple


@runtime_checkable
class Regulariser(Protocol):
    """A term with a gradient of its own, such as a contrastive loss between features of particle and source."""

    def __call__(
        self,
        z: Float[Tensor, "n c h w"],
        s: Float[Tensor, "n c h w"],
        index: Int[Tensor, " n"],
        *,
        t: int,
        e: Float[Tensor, "n c h w"],
    ) -> Float[Tensor, "n c h w"]:
        """The gradient by `z`, which is added to g as it is: neither weighted by w(t) nor coupled.

        Called without gradients being recorded: a term that needs them says `torch.enable_grad()`.
        """
        ...


@dataclass(frozen=True)
class StepResult:
    """Outcome of a step, detached from any graph."""

    g: Float[Tensor, "n c h w"]
    """Descent direction of every particle."""
    r: Float[Tensor, "n c h w"]
    """Residuals before coupling."""
    weights: Float[Tensor, "n n"] | None
    """K_ij, the weight of particle j in the update of particle i; none if the particles do not talk."""


@torch.no_grad()
def csd_step(
    score: Score,
    z: Float[Tensor, "n c h w"],
    s: Float[Tensor, "n c h w"],
    index: Int[Tensor, " n"],
    *,
    t: int,
    e: Float[Tensor, "n c h w"],
    config: CsdConfig,
    kernel: Kernel | None = None,
    regularisers: Sequence[Regulariser] = (),
) -> StepResult:
    """The direction in which particles `z` with sources `s` descend, at timestep `t` with noise `e`.

    `index` says which particles of the whole set these are. `kernel` replaces the one that `config.bandwidth`
    describes; `regularisers` come on top of that which `config.regulariser` names. Raises `ValueError` for a t outside
    the prior's schedule, for particles the bandwidth cannot serve, or for a score without the features that are needed.
    """
    schedule = score.schedule
    z_t = schedule.add_noise(z, e, t)
    residual = noise_baseline if config.residual == "noise" else source_baseline
    r = residual(score, z_t, s, index, t=t, e=e)

    if config.coupling == "svgd":
        kernel = RbfKernel(config.bandwidth) if kernel is None else kernel
        sums = kernel(r, z_t if config.kernel_on == "noisy" else z, index)
        g, weights = couple(sums, normalise=config.normalise, repulsion=config.repulsion), sums.weights
    else:
        g, weights = r, None

    g = schedule.weight(t) * g if config.weight == "variance" else g
    for regulariser in (*named_regularisers(score, config), *regularisers):
        g = g + regulariser(z, s, index, t=t, e=e)
    return StepResult(g, r, weights)


def named_regularisers(score: Score, config: CsdConfig) -> tuple[Regulariser, ...]:
    """What `config.regulariser` stands for. Raises `ValueError` if the score has no features for it."""
    if config.regulariser == "none":
        return ()
    if not isinstance(score, Features):
        raise ValueError(f"regulariser: expected none, as this prior gives no features, got {config.regulariser!r}")
    term = PatchNce(
        score,
        weight=config.nce_weight,
        layers=config.nce_layers,
        patches=config.nce_patches,
        patch_sizes=config.nce_patch_sizes,
        temperature=config.nce_temperature,
    )
    return (term,)


def surrogate_loss(z: Float[Tensor, "n c h w"], g: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """A scalar whose derivative by `z` is exactly `g`. Its value means nothing."""
    return (z * g.detach()).sum()


def require_finite(result: StepResult, index: Int[Tensor, " n"], *, step: int, t: int) -> None:
    """Raises `FloatingPointError` naming step, timestep and particles if a residual or g holds NaN or infinity.

    Residuals come first: one bad particle spoils everybody's g through the coupling, but only its own residual.
    """
    for name, x in (("residual", result.r), ("gradient", result.g)):
        bad = ~x.isfinite().flatten(1).all(1)
        if bool(bad.any()):
            ids = index[bad.to(index.device)].tolist()
            raise FloatingPointError(f"{name} is not finite at step {step}, timestep {t}, for particles {ids}")
