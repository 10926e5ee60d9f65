"""The loop: draw particles, draw t and e, step, move. A generator: whoever drives it owns everything else.

    for info in run(particles, Objective(score, config), rng=rng):
        ...  # show progress, save a checkpoint, stop early

While the generator waits at a `yield`, the step it reports is done and the state of a run is three things: the state of
the particles, the state of `rng`, and `info.step + 1`. Restore them, pass the last as `start`, and the run goes on, on
the CPU bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any, Protocol, runtime_checkable

import torch

from csd3d.engine.config import CsdConfig
from csd3d.engine.regularisers import Regulariser
from csd3d.engine.residuals import Score
from csd3d.engine.reuse import require_reusing
from csd3d.engine.schedule import Schedule
from csd3d.engine.stein import Kernel
from csd3d.engine.step import StepResult, coupling_kernel, csd_step, measured, named_regularisers, require_finite
from csd3d.engine.types import Batch, Index, Latents, numbers

SETTLED_MOVES = 3
"""Moves of every particle that `settled` looks at: a single one may be short because its timestep is small."""


@runtime_checkable
class Particles(Protocol):
    """What is edited, seen as particles: the only thing in which the editors differ.

    Owns what is optimised, be it free latents or one canvas behind overlapping windows, and moves it (see `descend`).
    """

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every particle is moved once."""
        ...

    def draw(self, rng: torch.Generator) -> Batch:
        """The particles of the next step, chosen with `rng` and nothing else."""
        ...

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        """Move the particles `index` of the batch that was drawn last along -`g`, at once or when its epoch ends."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """What a stopped run needs of its particles to go on."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run needs, the moments of the optimiser included."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`."""
        ...


@dataclass(frozen=True)
class Objective:
    """What particles descend: a prior under its prompts, and settings; see `csd_step` for `kernel` and `regularisers`.

    Raises `ValueError` for settings that the prior or the kernel cannot serve.
    """

    score: Score
    config: CsdConfig
    kernel: Kernel | None = None
    regularisers: Sequence[Regulariser] = ()

    def __post_init__(self) -> None:
        require_timesteps(self.score.schedule, self.config)
        require_reusing(self.score, self.config)
        coupling_kernel(self.score, self.config, self.kernel)
        named_regularisers(self.score, self.config)


Watch = Callable[[Batch, StepResult], None]
"""Is called with the particles of a step and its outcome, before they move."""


@dataclass(frozen=True)
class StepInfo:
    """What happened in one step."""

    step: int
    """Number of the step, from 0."""
    t: int
    """Timestep of the step, as `shift` left it."""
    lr: float
    """Learning rate of the step."""
    index: tuple[int, ...]
    """Particles that took part."""
    gradient_rms: float
    """Root mean square of g."""
    residual_rms: float
    """Root mean square of the residuals before coupling."""
    kernel_mean: float | None
    """Mean weight between different particles, 0 to 1; None for independent coupling or a single particle."""
    edit_rms: float | None = None
    """Root mean square of how far its particles were from their sources before the step; None: not known."""

    def move_rms(self, config: CsdConfig) -> float:
        """Root mean square of the move of a latent; of Adam, which divides by the size of g, about that."""
        return self.lr * (1.0 if config.optimizer == "adam" else self.gradient_rms)


def run(
    particles: Particles,
    objective: Objective,
    *,
    rng: torch.Generator,
    start: int = 0,
    watch: Watch | None = None,
) -> Iterator[StepInfo]:
    """Steps `start` to `config.steps` - 1, one for each item that is asked for.

    `rng` lives on the CPU whatever the device of the particles. Raises `FloatingPointError` before particles move along
    NaN or infinity: they then stay as the step before left them.
    """
    score, config = objective.score, objective.config
    for step in range(start, config.steps):
        batch = particles.draw(rng)
        t = draw_timestep(rng, config, move=step) if batch.t is None else batch.t
        t = score.schedule.shifted(t, config.shift)
        x = score.schedule.noised(batch, t, draw_noise(batch.z, rng, config))
        now = (
            config if config.anchor_last is None else replace(config, anchor=anchor_at(step, config), anchor_last=None)
        )
        result = csd_step(score, x, now, kernel=objective.kernel, regularisers=objective.regularisers)
        found = measured(result, x)
        require_finite(found, x, step=step)
        if watch is not None:
            watch(batch, result)
        lr = lr_at(step, config)
        particles.move(batch.index, result.g, lr=lr)
        mean = None if isnan(found.kernel_mean) else found.kernel_mean
        index, rms = tuple(numbers(batch.index)), (found.gradient_rms, found.residual_rms)
        yield StepInfo(step, t, lr, index, *rms, mean, found.edit_rms)


def settled(infos: Sequence[StepInfo], config: CsdConfig, *, steps_per_epoch: int = 1) -> float | None:
    """How long moves are beside the edit so far, where that is below `config.tolerance`: there is hardly anything left
    to do. None: go on.

    It is the root mean square of the moves of the last `SETTLED_MOVES` epochs over that of the distances from the
    sources, and looked at when an epoch ends. So it depends on steps that were done alone, and on all particles.
    """
    n = SETTLED_MOVES * steps_per_epoch
    if config.tolerance == 0 or len(infos) < n or len(infos) % steps_per_epoch:
        return None
    edits = [info.edit_rms for info in infos[-n:] if info.edit_rms is not None]
    move = sum(info.move_rms(config) ** 2 for info in infos[-n:])
    if len(edits) < n or (edit := sum(rms**2 for rms in edits)) == 0:
        return None
    share = (move / edit) ** 0.5
    return share if share < config.tolerance else None


def require_timesteps(schedule: Schedule, config: CsdConfig) -> None:
    """Raises `ValueError` if the prior was trained with fewer timesteps than `config.t_max`."""
    T = schedule.num_timesteps
    if config.t_max > T:
        raise ValueError(f"t_max: expected at most {T}, the number of timesteps of this prior, got {config.t_max}")


def draw_timestep(rng: torch.Generator, config: CsdConfig, *, move: int | None = None) -> int:
    """t in [t_min, t_max), one for all particles; uniform, or in the part of the range that falls to move number `move`
    of `config.steps` (from 0; later ones get the last part) if timesteps descend. None: uniform in any case."""
    t = torch.randint(config.t_min, config.t_max, (), generator=rng)
    if config.timesteps == "random" or move is None:
        return int(t)
    part = max(config.steps - 1 - move, 0)
    return config.t_min + (part * (config.t_max - config.t_min) + int(t) - config.t_min) // max(config.steps, 1)


def draw_noise(z: Latents, rng: torch.Generator, config: CsdConfig) -> Latents:
    """e, standard normal and shaped like `z`: one for each particle, or one for all of them.

    Drawn in float32 on the CPU, so that one seed gives the same noise on every device, or on that of `z`, from a seed
    that `rng` gives: nothing else belongs to the state of a run.
    """
    shape = (1 if config.noise == "shared" else len(z), *z.shape[1:])
    if config.noise_on == "device":
        seed = int(torch.randint(2**63 - 1, (), generator=rng))
        rng = torch.Generator(z.device).manual_seed(seed)
    return torch.randn(shape, generator=rng, device=rng.device).to(z).expand_as(z)


def anchor_at(step: int, config: CsdConfig) -> float:
    """Anchor of a step: from `anchor` at the first straight to `anchor_last` at the last."""
    if config.anchor_last is None:
        return config.anchor
    return config.anchor + (config.anchor_last - config.anchor) * min(1.0, step / max(1, config.steps - 1))


def lr_at(step: int, config: CsdConfig) -> float:
    """Learning rate of a step: lr times lr_decay for every `lr_decay_every` steps that are over."""
    return config.lr * config.lr_decay ** (step // config.lr_decay_every)
