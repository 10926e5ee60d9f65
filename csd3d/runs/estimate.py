"""How long a run will take, said before its long part begins: what a particle costs is measured, the rest is counted.

    seconds = moves x particles x (a target and a source prediction of one particle) + 2 x pictures x (decoding one)

A particle that is sampled makes transitions in the place of moves, of a target prediction each, or of one without
guidance where it is inverted. Encoding is taken to last as long as decoding. Particles that share a call are
cheaper than one alone, so where one is short, or where they look at others of their step, a few are measured together.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from csd3d.attention.attended import ANCHORS
from csd3d.engine.config import CsdConfig
from csd3d.engine.residuals import Score, StepScore
from csd3d.engine.reuse import ReusingScore, SplitScore
from csd3d.engine.sampling import Sampling
from csd3d.engine.step import named_regularisers
from csd3d.engine.types import Batch, Latents, Noised
from csd3d.engine.validate import LARGEST
from csd3d.priors.prior import Prior
from csd3d.runs.progress import LONG_S, duration

LEAST = 200
"""Moves of single pictures below which nothing is measured: it would take a percent of the run, and the first steps
say soon enough."""
HOUR_S = 3600.0
SHORTER = "fewer --steps are shorter; a run that is stopped goes on with --resume"
TOGETHER = 4
"""Particles that are measured in one call where they are short: a call of one took up to 1.7 times as much for each."""
_SHORT_S = 1.0  # calls so short are measured again, since the first pays for warm-up


@dataclass(frozen=True, eq=False)
class Work:
    """What a run will do."""

    score: Score
    csd: CsdConfig
    """`steps` counts moves of every particle."""
    particles: int
    size_lat: tuple[int, int]
    """Of a particle."""
    sampling: Sampling | None = None
    """Where particles are sampled, not moved."""
    pictures: int | None = None
    """That are encoded and decoded; None: as many as particles."""
    frames_lat: int = 1
    """Latent frames of a particle: more than one where it is a window of a clip."""
    also: Callable[[Latents], object] | None = None
    """What a move of particles takes besides predictions."""
    also_each: float = 1.0
    """How many times it takes that, on average."""
    together: int = 1
    """Particles that a step moves: so many may be in memory at once."""

    @property
    def steps(self) -> int:
        """Of every particle."""
        return self.csd.steps if self.sampling is None else len(self.sampling.transitions)

    @property
    def moves(self) -> int:
        """Of single particles."""
        return self.particles * self.steps


@dataclass(frozen=True)
class Estimate:
    """Seconds of a run, and of what it consists."""

    particles: int
    moves: int
    """Of every particle."""
    each_s: float
    """A move of one particle."""
    codec_s: float
    """Encoding and decoding a picture of its size, and rendering it where it is a view of a scene."""
    pictures: int | None = None
    """That are encoded and decoded; None: as many as particles."""
    unit: str = "moves"
    """What is counted."""
    measured: int = 1
    """Particles that were measured."""

    @property
    def total_s(self) -> float:
        """Of the whole run."""
        return self.particles * self.moves * self.each_s + self._count * self.codec_s

    @property
    def _count(self) -> int:
        """Of pictures."""
        return self.particles if self.pictures is None else self.pictures

    def line(self, shorter: str = SHORTER) -> str:
        """What to say, or nothing of a short run; `shorter`: what can be done about hours."""
        if self.total_s < LONG_S:
            return ""
        each = f"{self.each_s:.2g} s" if self.each_s >= 0.01 else "less than 0.01 s"
        several = f"{self.particles} particles x " if self.particles > 1 else ""
        text = f"this takes about {duration(self.total_s)}: {several}{self.moves} {self.unit} at {each} each, "
        text += f"measured on {'one' if self.measured == 1 else self.measured}"
        if self._count * self.codec_s > self.total_s / 4:
            text += f", and {self._count} pictures at {self.codec_s:.2g} s"
        return text if self.total_s < HOUR_S else f"{text}. OVER AN HOUR{shorter and f': {shorter}'}"

    def announce(self, say: Callable[[str], None], shorter: str = SHORTER) -> None:
        """Say `line`, of a run that is long."""
        if line := self.line(shorter):
            say(line)


def measure(prior: Prior, work: Work, *, clock: Callable[[], float] = time.monotonic) -> Estimate | None:
    """The estimate of a run, from predictions for one particle or a few, and one decoded picture; None: too short to
    measure.

    Draws from a generator of its own, so that the run stays what it is.
    """
    if work.moves * work.frames_lat < LEAST:
        return None
    among = min(work.particles, ANCHORS + 1) if isinstance(work.score, StepScore) else 1
    x = _some(prior, work, among)
    each_s = _each_s(work, x, clock)
    if each_s < _SHORT_S and among < (several := min(work.particles, work.together, TOGETHER)):
        among, x = several, _some(prior, work, several)
        each_s = _each_s(work, x, clock)
    if work.also is not None:
        also = work.also
        each_s += work.also_each * _seconds(lambda: also(x.s), clock) / among
    decode_s = _seconds(lambda: prior.decode(x.s[:1]), clock)
    unit = "transitions" if work.sampling else "moves"
    return Estimate(work.particles, work.steps, each_s, 2 * decode_s, work.pictures, unit, among)


def _some(prior: Prior, work: Work, count: int) -> Noised:
    """So many particles, noised to the middle of the timesteps."""
    rng = torch.Generator().manual_seed(0)
    channels = prior.codec.channels * work.frames_lat
    s = torch.randn(1, channels, *work.size_lat, generator=rng).expand(count, -1, -1, -1)
    t = (work.csd.t_min + work.csd.t_max) // 2
    return work.score.schedule.noised(Batch(s, s, torch.arange(count)), t, s.flip(-1))


def _each_s(work: Work, x: Noised, clock: Callable[[], float]) -> float:
    """Seconds of a move or a transition, for each of the particles of `x`."""
    return (_sampled_s(work.sampling, x, clock) if work.sampling else _moved_s(work, x, clock)) / len(x.s)


def measure_frames(
    count: int, some: Callable[[], object], *, of: int = 1, unit: str = "frames",
    clock: Callable[[], float] = time.monotonic,
) -> Estimate:  # fmt: skip
    """The estimate of so many frames, or what else `unit` names, of which `some` makes `of`."""
    return Estimate(1, count, _seconds(some, clock) / of, 0.0, unit=unit, measured=of)


def _move(work: Work, x: Noised) -> None:
    """What one move of a particle computes."""
    score = work.score.for_step(x) if isinstance(work.score, StepScore) else work.score
    score.target(x)
    if work.csd.residual == "source":
        score.source(x)
    for regulariser in named_regularisers(work.score, work.csd):
        regulariser(x)


def _moved_s(work: Work, x: Noised, clock: Callable[[], float]) -> float:
    """Seconds of a move, on average: where guidance is reused, of those that evaluate it and of those in between."""
    if work.csd.guide_every == 1 or not isinstance(work.score, SplitScore):
        return _seconds(lambda: _move(work, x), clock)
    always, once = (replace(work, score=ReusingScore(work.score, every)) for every in (1, LARGEST))
    with torch.no_grad():
        _move(once, x)  # keeps what the next ones reuse
    fresh_s, reused_s = (_seconds(lambda own=own: _move(own, x), clock) for own in (always, once))
    fresh = -(-work.steps // work.csd.guide_every)
    return (fresh * fresh_s + (work.steps - fresh) * reused_s) / work.steps


def _sampled_s(sampling: Sampling, x: Noised, clock: Callable[[], float]) -> float:
    """Seconds of a transition, on average."""
    score, up, count = sampling.score, sampling.inversions, len(sampling.transitions)
    down_s = _seconds(lambda: (score.for_step(x) if isinstance(score, StepScore) else score).target(x), clock)
    inverter = sampling.inverter
    up_s = 0.0 if inverter is None else _seconds(lambda: inverter.source(x), clock)
    return (up * up_s + (count - up) * down_s) / count


@torch.no_grad()
def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """How long a call takes; of a short one the second time."""
    seconds = 0.0
    for _ in range(2):
        since = clock()
        call()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        seconds = clock() - since
        if seconds >= _SHORT_S:
            break
    return seconds
