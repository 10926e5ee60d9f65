"""One step of collaborative score distillation, as a pure function: noised particles in, a descent direction out.

    x = (z_t, s_t, ...) -> residuals r -> coupling -> g = w(t) coupled(r) + regularisers       then z <- z - lr g

Nothing here differentiates through the prior, moves a particle or draws a random number. The loop gives `g` to the
particles, which move along it; a host that owns its loop and calls `backward` itself takes `surrogate_loss`.

Particles on several machines: every machine calls `csd_step` with all of them, gathered, and the same t and e; its
`Score` evaluates a part of them and gathers the predictions. The coupling is then the same everywhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.kernels import require_bandwidth
from csd3d.engine.regularisers import Features, PatchNce, Regularised, Regulariser
from csd3d.engine.residuals import Score, StepScore, anchored, noise_baseline, released, source_baseline
from csd3d.engine.schedule import Schedule
from csd3d.engine.stein import FeatureKernel, Kernel, Perceptual, RbfKernel, couple
from csd3d.engine.types import Latents, Noised, numbers

LEAST_SIGNAL = 1e-3
"""Of 1 - sigma, by which `velocity` divides, lest levels of pure noise count without bound."""


@dataclass(frozen=True, eq=False)
class StepResult:
    """Outcome of a step, detached from any graph."""

    g: Latents
    """Descent direction of every particle."""
    r: Latents
    """Residuals before coupling."""
    weights: Float[Tensor, "n n"] | None
    """K_ij, the weight of particle j in the update of particle i; None for independent particles."""


@torch.no_grad()
def csd_step(
    score: Score,
    x: Noised,
    config: CsdConfig,
    *,
    kernel: Kernel | None = None,
    regularisers: Sequence[Regulariser] = (),
) -> StepResult:
    """The direction in which particles `x` descend.

    `kernel` replaces the one that `config.bandwidth` and `config.kernel_on` describe; `regularisers` are added to
    the one that `config.regulariser` names, and so is the term of a `Regularised` score. These look at particles where
    they are, whatever the anchor, as z_t is then a function of z whose derivative they know.

    Raises:
        ValueError: a coupling along correspondences without a `kernel` that knows them, particles that the bandwidth
            cannot serve, or a score without the features that are needed.
    """
    seen = anchored(x, score.schedule, config.anchor)
    predicts = score.for_step(seen) if isinstance(score, StepScore) else score
    r = (noise_baseline if config.residual == "noise" else source_baseline)(predicts, seen)
    r = released(r, seen, config.anchor)
    if (kernel := coupling_kernel(score, config, kernel)) is None:
        g, weights = r, None
    else:
        bands = kernel(r, seen.z_t if config.kernel_on == "noisy" else x.z, x.index)
        g, weights = couple(bands, normalise=config.normalise, repulsion=config.repulsion), bands[0].weights
    g = step_weight(score.schedule, x.t, config) * g if config.weight != "one" else g
    for regulariser in (*named_regularisers(score, config), *regularisers):
        g = g + regulariser(x)
    if isinstance(predicts, Regularised) and predicts.has_term:
        g = g + predicts.own_gradient(x)
    return StepResult(g, r, weights)


def step_weight(schedule: Schedule, t: int, config: CsdConfig) -> float:
    """w(t) as `config.weight` names it."""
    if config.weight == "velocity":
        return 1 / max(1 - schedule.sigma(t), LEAST_SIGNAL)
    return schedule.weight(t) if config.weight == "variance" else 1.0


def coupling_kernel(score: Score, config: CsdConfig, kernel: Kernel | None) -> Kernel | None:
    """The kernel of `config.coupling`: `kernel` if there is one, the scalar one, or None for independent particles.

    Raises `ValueError` for a coupling along correspondences without a `kernel`, and as `scalar_kernel` does.
    """
    if config.coupling == "independent":
        return None
    if kernel is None and config.coupling != "svgd":
        raise ValueError(
            f"coupling: expected svgd or independent where no correspondences are known, got {config.coupling!r}"
        )
    return scalar_kernel(score, config) if kernel is None else kernel


def require_coupling(config: CsdConfig, counts: Iterable[int]) -> None:
    """Raises `ValueError` for a coupling that cannot serve steps of so many particles, known before anything moves."""
    for n in counts if config.coupling != "independent" else ():
        require_bandwidth(config.bandwidth, n)


def scalar_kernel(score: Score, config: CsdConfig) -> Kernel:
    """The kernel that is one number a pair, on what `config.kernel_on` names. Raises `ValueError` for features that the
    score does not give."""
    if config.kernel_on != "features":
        return RbfKernel(config.bandwidth)
    if not isinstance(score, Perceptual):
        raise ValueError("kernel_on: expected noisy or clean, as this prior gives no features, got 'features'")
    return FeatureKernel(score.perceptual_features, config.bandwidth, repels=config.repulsion > 0)


def named_regularisers(score: Score, config: CsdConfig) -> tuple[Regulariser, ...]:
    """The regulariser that `config.regulariser` names. Raises `ValueError` if the score has no features for it."""
    if config.regulariser == "none":
        return ()
    if not isinstance(score, Features):
        raise ValueError(f"regulariser: expected none, as this prior gives no features, got {config.regulariser!r}")
    term = PatchNce(
        score,
        weight=config.nce_weight,
        site=config.nce_layers,
        patches=config.nce_patches,
        patch_sizes=config.nce_patch_sizes,
        temperature=config.nce_temperature,
    )
    return (term,)


def surrogate_loss(z: Latents, g: Latents) -> Float[Tensor, ""]:
    """A scalar whose derivative by `z` is exactly `g`. Its value has no meaning."""
    return (z * g.detach()).sum()


@dataclass(frozen=True)
class Measured:
    """Numbers of a step, off its device."""

    gradient_rms: float
    """Root mean square of g."""
    residual_rms: float
    """Root mean square of the residuals before coupling."""
    kernel_mean: float
    """Mean weight between different particles; NaN where there are none."""
    edit_rms: float
    """Root mean square of how far particles are from their sources; NaN where they are not looked at."""
    wrong: tuple[tuple[str, list[int]], ...]
    """`residual` and `gradient`, with the places of particles in the step where they hold NaN or infinity."""


def measured(result: StepResult, x: Noised | None = None) -> Measured:
    """The numbers of a step of particles `x`, fetched from its device at once: the only time that it is waited for."""
    r, g, n = result.r, result.g, len(result.g)
    nothing = torch.full((), torch.nan, device=g.device)
    kernel_mean = nothing if result.weights is None or n < 2 else off_diagonal_mean(result.weights)
    edit = nothing if x is None else (x.z - x.s).square().mean().sqrt()
    means = [g.square().mean().sqrt(), r.square().mean().sqrt(), kernel_mean, edit]
    wrong = [~x.isfinite().flatten(1).all(1) for x in (r, g)]
    numbers = torch.cat([torch.stack([m.float() for m in means]), *(w.float() for w in wrong)])
    gradient, residual, kernel, edit_rms, *flags = (float(value) for value in numbers.cpu())
    named = zip(("residual", "gradient"), (flags[:n], flags[n:]), strict=True)
    wrong_places = tuple((name, [i for i in range(n) if own[i]]) for name, own in named)
    return Measured(gradient, residual, kernel, edit_rms, wrong_places)


def off_diagonal_mean(K: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Mean of the entries off the diagonal, of two particles or more."""
    n = K.shape[0]
    return (K.sum() - K.diagonal().sum()) / (n * (n - 1))


def require_finite(found: Measured, x: Noised, *, step: int) -> None:
    """Raises `FloatingPointError` naming step, timestep and particles if a residual or g holds NaN or infinity.

    Residuals are checked first: through the coupling one bad particle makes every g bad, but only its own residual.
    """
    for name, places in found.wrong:
        if places:
            ids = [numbers(x.index)[place] for place in places]
            raise FloatingPointError(f"{name} is not finite at step {step}, timestep {x.t}, for particles {ids}")
