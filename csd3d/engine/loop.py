"""The loop: draw particles, draw t and e, step, apply. A generator, so that whoever drives it owns everything else.

    for info in run(particles, score, config, rng=rng):
        ...  # show progress, save a checkpoint, stop early

While the generator waits at a `yield`, the step it reports is done and the state of a run is three things: the state of
the particles, the state of `rng`, and `info.step + 1`. Restore them, pass the last as `start`, and the run goes on, on
the CPU bit for bit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.residuals import Score
from csd3d.engine.stein import Kernel
from csd3d.engine.step import Regulariser, StepResult, csd_step, named_regularisers, require_finite


@dataclass(frozen=True)
class Batch:
    """The particles of one step."""

    z: Float[Tensor, "n c h w"]
    """Latents; may carry a graph, back to whatever is optimised."""
    s: Float[Tensor, "n c h w"]
    """Latents of their sources."""
    index: Int[Tensor, " n"]
    """Which particles of the whole set they are."""
    t: int | None = None
    """Timestep of the step, where particles take turns and a round shares one; None: any."""


@runtime_checkable
class Particles(Protocol):
    """What is edited, seen as particles: the only thing in which the editors differ.

    Owns what is optimised, be it free latents, one canvas behind overlapping windows or a radiance field, and the
    optimiser (see `make_optimizer`).
    """

    def draw(self, rng: torch.Generator) -> Batch:
        """The particles of the next step, chosen with `rng` and nothing else."""
        ...

    def apply(self, batch: Batch, g: Float[Tensor, "n c h w"], *, lr: float) -> None:
        """Move: `batch.z.backward(g)` and a step of the optimiser at learning rate `lr`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run needs to go on from here, the optimiser's state included."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`."""
        ...


Watch = Callable[[Batch, StepResult], None]
"""Sees the particles of a step and what came of them."""


@dataclass(frozen=True)
class StepInfo:
    """What happened in one step."""

    step: int
    """Number of the step, from 0."""
    t: int
    """Timestep that was drawn."""
    lr: float
    """Learning rate of the step."""
    index: tuple[int, ...]
    """Particles that took part."""
    gradient_rms: float
    """Root mean square of g."""
    residual_rms: float
    """Root mean square of the residuals before coupling."""
    kernel_mean: float | None
    """Mean weight between different particles, 0 to 1; none for independent coupling or a single particle."""


def run(
    particles: Particles,
    score: Score,
    config: CsdConfig,
    *,
    rng: torch.Generator,
    start: int = 0,
    kernel: Kernel | None = None,
    regularisers: Sequence[Regulariser] = (),
    watch: Watch | None = None,
) -> Iterator[StepInfo]:
    """Steps `start` to `config.steps` - 1, one for each item that is asked for.

    `rng` lives on the CPU whatever the device of the particles. `watch` sees every step before it is applied. Raises
    `ValueError` at once for settings that the prior cannot serve, and `FloatingPointError` before a step with NaN or
    infinity is applied: particles then stay as the step before left them.
    """
    require_timesteps(score, config)
    named_regularisers(score, config)
    return _steps(particles, score, config, rng, start, kernel=kernel, regularisers=regularisers, watch=watch)


def _steps(
    particles: Particles,
    score: Score,
    config: CsdConfig,
    rng: torch.Generator,
    start: int,
    *,
    kernel: Kernel | None,
    regularisers: Sequence[Regulariser],
    watch: Watch | None,
) -> Iterator[StepInfo]:
    for step in range(start, config.steps):
        batch = particles.draw(rng)
        t = draw_timestep(rng, config) if batch.t is None else batch.t
        e = draw_noise(batch.z, rng, config)
        result = csd_step(
            score, batch.z, batch.s, batch.index, t=t, e=e, config=config, kernel=kernel, regularisers=regularisers
        )
        require_finite(result, batch.index, step=step, t=t)
        if watch is not None:
            watch(batch, result)
        lr = lr_at(step, config)
        particles.apply(batch, result.g, lr=lr)
        yield StepInfo(
            step, t, lr, tuple(batch.index.tolist()), rms(result.g), rms(result.r), off_diagonal_mean(result.weights)
        )


def require_timesteps(score: Score, config: CsdConfig) -> None:
    """Raises `ValueError` if the prior was trained with fewer timesteps than `config.t_max`."""
    T = score.schedule.num_timesteps
    if config.t_max > T:
        raise ValueError(f"t_max: expected at most {T}, the number of timesteps of this prior, got {config.t_max}")


def draw_timestep(rng: torch.Generator, config: CsdConfig) -> int:
    """t, uniform in [t_min, t_max), one for all particles."""
    return int(torch.randint(config.t_min, config.t_max, (), generator=rng))


def draw_noise(z: Float[Tensor, "n c h w"], rng: torch.Generator, config: CsdConfig) -> Float[Tensor, "n c h w"]:
    """e, standard normal and shaped like `z`: one for each particle, or one for all of them.

    Drawn on the CPU in float32, so that a seed means the same on every device.
    """
    n = 1 if config.noise == "shared" else z.shape[0]
    return torch.randn(n, *z.shape[1:], generator=rng).to(z).expand_as(z)


def lr_at(step: int, config: CsdConfig) -> float:
    """Learning rate of a step: lr times lr_decay for every `lr_decay_every` steps that are over."""
    return config.lr * config.lr_decay ** (step // config.lr_decay_every)


def make_optimizer(parameters: Iterable[Tensor], config: CsdConfig) -> torch.optim.Optimizer:
    """The optimiser of `config`, without momentum or weight decay. `Particles.apply` sets its learning rate."""
    kind = torch.optim.SGD if config.optimizer == "sgd" else torch.optim.Adam
    return kind(list(parameters), lr=config.lr)


def rms(x: Float[Tensor, "n c h w"]) -> float:
    """Root mean square over all elements."""
    return float(x.square().mean().sqrt())


def off_diagonal_mean(K: Float[Tensor, "n n"] | None) -> float | None:
    """Mean of the entries off the diagonal; none where there are none."""
    if K is None or (n := K.shape[0]) < 2:
        return None
    return float((K.sum() - K.diagonal().sum()) / (n * (n - 1)))
