"""Many particles sampled together: the counterpart of `run` for deterministic sampling (`csd3d.engine.ddim`).

Every particle makes the same transitions from one noise level to the next, all of them the first, then all the second,
a batch in each step. Between levels particles may be made to agree; within one, each depends on itself and on what a
`StepScore` has prepared of the anchors.

    noised      x = sqrt(ab_T) s + sqrt(1 - ab_T) e, then down: SDEdit, and from pure noise plain sampling
    inverted    s up to the noise that it stems from, level by level, then down

As with `run`, the state of a stopped run is that of the particles and the number of the next step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch

from csd3d.engine.config import CsdConfig
from csd3d.engine.ddim import CLEAN, timesteps
from csd3d.engine.loop import StepInfo, require_timesteps
from csd3d.engine.residuals import Score, StepScore
from csd3d.engine.types import Index, Latents, Noised, numbers

By = Literal["moves", "sampling"]
"""What makes an edit: particles that are moved (`run`), or sampled (`run_sampling`)."""
Start = Literal["noised", "inverted"]
"""How sources come to noise."""


@dataclass(frozen=True)
class Transition:
    """One of the transitions of all particles."""

    t: int
    """Level that is left, a timestep or `CLEAN`."""
    to: int
    """Level that is reached."""
    level: int
    """Number of the noisier of the two, from 0."""
    inverts: bool
    """Whether noise is gained."""
    round: int = 0
    """Of the fixed point, in an inversion: from 1 on the prediction is asked for at what the round before reached."""
    last: bool = True
    """Whether no round follows."""

    @property
    def asked(self) -> int:
        """The timestep for which the prediction is made."""
        return max(self.to if self.round else self.t, 0)

    def seen(self, x: Latents, s: Latents, s_t: Latents, index: Index) -> Noised:
        """Particles `x` as their prediction is asked for, with their sources clean and at the same level. What moves
        alone have is NaN."""
        nan = torch.full_like(s, torch.nan)
        return Noised(nan, s, index, nan, self.asked, x, s_t)


@dataclass(frozen=True, eq=False)
class Sampling:
    """How particles are sampled. Raises `ValueError` for settings that the prior cannot serve."""

    score: Score
    """The prior under the sentence of the edit."""
    inverter: Score | None
    """The prior without guidance, whose prediction for sources inverts them; None: they are noised."""
    config: CsdConfig
    """Of which `steps`, `t_max` and `noise` count here."""
    rounds: int = 0
    """Of the fixed point, in each transition of an inversion."""

    def __post_init__(self) -> None:
        require_timesteps(self.score.schedule, self.config)
        timesteps(self.config.steps, self.config.t_max)

    @property
    def levels(self) -> tuple[int, ...]:
        """Timesteps of the levels, rising."""
        return timesteps(self.config.steps, self.config.t_max)

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """All of them in order."""
        levels, up = self.levels, list[Transition]()
        below = (CLEAN, *levels[:-1])
        if self.inverter is not None:
            up = [
                Transition(below[k], t, k, True, r, r == self.rounds)
                for k, t in enumerate(levels)
                for r in range(self.rounds + 1)
            ]
        return (*up, *(Transition(levels[k], below[k], k, False) for k in reversed(range(len(levels)))))

    @property
    def inversions(self) -> int:
        """How many of the transitions invert."""
        return 0 if self.inverter is None else len(self.levels) * (self.rounds + 1)


@dataclass(frozen=True, eq=False)
class Drawn:
    """The particles of one step."""

    x: Noised
    """`z_t` is at the level of the prediction; `s_t` the source at the same level, NaN where nobody looks at it."""
    anchors: Noised | None = None
    """Whom all particles of the transition may look at."""
    group: int = 0
    """Number of the set of particles to which these anchors belong."""


@runtime_checkable
class SampledParticles(Protocol):
    """What is sampled, one level after another."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every particle makes one transition."""
        ...

    def draw(self, transition: Transition, number: int) -> Drawn:
        """The particles of step `number` of a transition."""
        ...

    def take(self, transition: Transition, number: int, index: Index, e: Latents) -> None:
        """Bring the particles that were drawn to the next level by their noise `e`, at once or when all are there."""
        ...


@torch.no_grad()
def run_sampling(particles: SampledParticles, sampling: Sampling, *, start: int = 0) -> Iterator[StepInfo]:
    """Steps `start` to the last one of the last transition, one for each item that is asked for.

    Raises `FloatingPointError` before particles go on from NaN or infinity.
    """
    score, per, transitions = sampling.score, particles.steps_per_epoch, sampling.transitions
    prepared: tuple[tuple[int, int], Score] | None = None
    for step in range(start, len(transitions) * per):
        transition, number = transitions[step // per], step % per
        drawn = particles.draw(transition, number)
        if transition.inverts:
            assert sampling.inverter is not None
            e = sampling.inverter.source(drawn.x)
        elif isinstance(score, StepScore):
            key = (step // per, drawn.group)
            if (
                prepared is None or prepared[0] != key or drawn.anchors is None
            ):  # else the anchors are predicted already
                prepared = key, score.for_step(drawn.x if drawn.anchors is None else drawn.anchors)
            e = prepared[1].target(drawn.x)
        else:
            e = score.target(drawn.x)
        rms = require_finite_noise(e, drawn.x, step=step)
        particles.take(transition, number, drawn.x.index, e)
        nan = float("nan")
        yield StepInfo(step, transition.asked, nan, tuple(numbers(drawn.x.index)), nan, rms, None)


def require_finite_noise(e: Latents, x: Noised, *, step: int) -> float:
    """The root mean square of predictions. Raises `FloatingPointError` naming step, timestep and particles where they
    hold NaN or infinity."""
    rms = e.float().square().flatten(1).mean(1).sqrt().cpu()
    if bad := numbers(x.index.cpu()[~rms.isfinite()]):
        raise FloatingPointError(f"prediction is not finite at step {step}, timestep {x.t}, for particles {bad}")
    return float(rms.square().mean().sqrt())
