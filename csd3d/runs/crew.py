"""One run on several processes: rank 0 is the run, and the others lend it their processors or GPUs.

    torchrun --nproc-per-node N -m csd3d video CLIP --prompt "..."

Rank 0 parses, draws, couples, moves and writes as ever; only its prior is a `SharedPrior`. What that is asked for
(encode, predict, decode) goes to all ranks as an order, each of them carries out its share of the particles with a copy
of the prior, and the rows are gathered. So state, randomness and files are those of one process, and a run that began
with N goes on with any other number.
Everything goes through gloo: latents are small.
"""

import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from csd3d.attention.presets import Attention
from csd3d.engine.config import CsdConfig, Effort, Method
from csd3d.engine.regularisers import FeatureLoss, Features, FeatureSite, Regularised
from csd3d.engine.residuals import Score, StepScore
from csd3d.engine.sampling import By
from csd3d.engine.schedule import Schedule
from csd3d.engine.stein import Perceptual
from csd3d.engine.types import Latents, Noised
from csd3d.engine.validate import require
from csd3d.priors.defaults import Particle, Precision
from csd3d.priors.loading import PLAIN, Loading
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.priors.store.resolve import Resolved
from csd3d.runs.ranks import broadcast, gather, local_indices, ranks

PATIENCE = timedelta(days=30)
"""So long other ranks wait for the next order: rank 0 may decode a long clip meanwhile."""


def together(run: Callable[[], int]) -> int:
    """Do `run` on rank 0, with the others at its service, and return the exit code. Other ranks end here."""
    dist.init_process_group("gloo", timeout=PATIENCE)
    if ranks()[0] != 0:
        code = serve()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing is left to save, and taking gloo down while rank 0 goes aborts now and then
    try:
        return run()
    finally:
        with suppress(RuntimeError):  # of ranks that are gone
            broadcast(None)
        dist.destroy_process_group()


def serve() -> int:
    """Carry out the orders of rank 0 until there are no more; returns the exit code.

    Whoever stops a run stops rank 0, which saves its state first: signals end no other rank.
    """
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    hand = Hand()
    try:
        while (order := broadcast(None)) is not None:
            with suppress(Exception):  # which rank 0 raises
                hand.carry_out(order)
    except RuntimeError as error:
        print(f"rank {ranks()[0]}: rank 0 is gone ({str(error).splitlines()[0]})", file=sys.stderr)
        return 1
    return 0


@dataclass(frozen=True)
class Load:
    """Load a prior, on the device of the rank."""

    found: Resolved
    device: str | None
    precision: Precision
    how: Loading = PLAIN


@dataclass(frozen=True)
class Under:
    """Make a score of the prior: number `number`. With `csd`, as `Prior.score_under` makes it."""

    number: int
    prompts: Prompts
    guidance: Guidance
    csd: CsdConfig | None = None
    attention: Attention | None = None


@dataclass(frozen=True)
class ForStep:
    """Prepare a step of score `of`: from then on number `number`."""

    number: int
    of: int
    x: Noised


@dataclass(frozen=True)
class Predict:
    """Target or source predictions of a score."""

    number: int
    target: bool
    x: Noised


@dataclass(frozen=True)
class Gradient:
    """Gradients of a loss between features."""

    number: int
    x: Noised
    site: FeatureSite
    loss: FeatureLoss


@dataclass(frozen=True)
class Term:
    """Gradients of the term that a score brings."""

    number: int
    x: Noised


@dataclass(frozen=True)
class Encode:
    """Latents of pictures in [0, 1]."""

    rgb: Tensor


@dataclass(frozen=True)
class Decode:
    """Pictures in [0, 1] of latents."""

    z: Tensor


@dataclass(frozen=True)
class Assign:
    """Which control picture each particle takes."""

    pictures: tuple[int, ...]


Order = Load | Under | ForStep | Predict | Gradient | Term | Encode | Decode | Assign


@dataclass
class Hand:
    """What every rank holds: a copy of the prior, and scores of it by number."""

    prior: Prior | None = None
    scores: dict[int, Score] = field(default_factory=dict[int, Score])

    def carry_out(self, order: Order) -> Tensor | None:
        """This rank's share of an order; returns the rows of all ranks, on the CPU, where there are any.

        Raises what it raised itself, or else what another rank did.
        """
        rows, count, error = None, 0, None
        try:
            rows, count = self._share(order)
        except Exception as raised:
            error = raised
        _raise_first(error)
        if rows is None:
            return None
        mine = len(local_indices(count))
        return rows if count == 0 else gather(rows[:mine].cpu(), count)

    def _share(self, order: Order) -> tuple[Tensor | None, int]:
        """This rank's rows and how many there are of all ranks (0: these are all)."""
        match order:
            case Load():
                from csd3d.priors.auto import load_prior  # slow to import

                self.prior = None
                self.scores.clear()
                device = device_of(order.device)
                self.prior = load_prior(order.found, device=device, precision=order.precision, how=order.how)
            case Under():
                self.scores[order.number] = self._score(order)
            case ForStep():
                score = self.scores[order.of]
                self.scores[order.number] = score.for_step(order.x) if isinstance(score, StepScore) else score
            case Predict():
                score, some = self.scores[order.number], order.x.rows(_mine(len(order.x.z)))
                return (score.target(some) if order.target else score.source(some)), len(order.x.z)
            case Gradient():
                score, some = self.scores[order.number], order.x.rows(_mine(len(order.x.z)))
                assert isinstance(score, Features)  # as the scores of all our priors are
                return score.feature_gradient(some, order.site, order.loss), len(order.x.z)
            case Term():
                score, some = self.scores[order.number], order.x.rows(_mine(len(order.x.z)))
                assert isinstance(score, Regularised)  # as it has a term
                return score.own_gradient(some), len(order.x.z)
            case Encode():
                if self.loaded.looks_at_pictures:  # every rank has to see all of them
                    return self.loaded.encode(order.rgb), 0
                return self.loaded.encode(order.rgb[_mine(len(order.rgb))]), len(order.rgb)
            case Decode():
                return self.loaded.decode(order.z[_mine(len(order.z))]), len(order.z)
            case Assign():
                self.loaded.assign_pictures(order.pictures)
        return None, 0

    def _score(self, order: Under) -> Score:
        if order.csd is None:
            return self.loaded.score(order.prompts, order.guidance)
        return self.loaded.score_under(order.csd, order.prompts, order.attention)

    @property
    def loaded(self) -> Prior:
        """The prior. Raises AssertionError before the first order, which is to load it."""
        assert self.prior is not None
        return self.prior


def load_shared(found: Resolved, *, device: str | None, precision: Precision, how: Loading = PLAIN) -> Prior:
    """A prior for a run of this process, or of several: then every rank loads a copy. Raises as `load_prior` does, and
    ValueError for one GPU where there are several processes, and for an editor of clips, which one of them drives."""
    from csd3d.priors.auto import find_prior, load_prior  # slow to import: mistakes are reported before

    if ranks()[1] == 1:
        return load_prior(found, device=device, precision=precision, how=how)
    if how.device_map != "none":
        raise ValueError("device-map: expected none for several processes, each of which has its own GPU, got balanced")
    device_of(device)
    found, hand = find_prior(found, device=device, how=how), Hand()
    if found.family is not None and found.family.of_clips:
        raise ValueError(f"prior: expected one process with {found.family.title}, which edits clips, got {ranks()[1]}")
    _order(hand, Load(found, device, precision, how))
    assert hand.prior is not None
    return SharedPrior.of(hand)


def device_of(asked: str | None) -> str | None:
    """The device of this rank, for one that was asked for. Raises ValueError for a GPU with a number, which all ranks
    would share."""
    if asked not in (None, "cpu", "cuda"):
        raise ValueError(f"device: expected cpu or cuda for several processes, each of which has its own, got {asked}")
    if asked == "cpu" or not torch.cuda.is_available():
        return asked
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


@dataclass(frozen=True, eq=False)
class SharedPrior(Prior):
    """A prior of which every rank has a copy, as rank 0 sees it: what takes time is shared."""

    hand: Hand = field(default_factory=Hand)
    numbers: list[int] = field(default_factory=list[int])
    """Of its scores so far."""

    @classmethod
    def of(cls, hand: Hand) -> "SharedPrior":
        """Of what all ranks have loaded."""
        own = hand.loaded
        kind = type("SharedPrior", (cls,), {"kind": own.kind})
        names = ("name", "path", "builtin", "device", "codec", "schedule", "native_px", "how", "weights", "said")
        return kind(**{name: getattr(own, name) for name in names}, hand=hand)

    @property
    def own(self) -> Prior:
        """The copy of rank 0."""
        return self.hand.loaded

    @property
    def multiple_px(self) -> int:
        """The prior's."""
        return self.own.multiple_px

    @property
    def looks_at_pictures(self) -> bool:
        """Whether the prior does."""
        return self.own.looks_at_pictures

    @property
    def notes(self) -> list[str]:
        """Those of rank 0's copy, after how many work together."""
        return [f"{ranks()[1]} processes shared the work", *self.own.notes]

    def defaults(
        self, method: Method | None = None, effort: Effort | None = None, *, by: By = "moves", of: Particle = "windows"
    ) -> CsdConfig:
        """The prior's."""
        return self.own.defaults(method, effort, by=by, of=of)

    @property
    def things(self) -> tuple[str, ...]:
        """The prior's."""
        return self.own.things

    def kinds_of(self, sentences: Sequence[str]) -> tuple[str, ...]:
        """The prior's."""
        return self.own.kinds_of(sentences)

    def assign_pictures(self, pictures: Sequence[int]) -> None:
        """See `Prior.assign_pictures`; every rank knows."""
        _order(self.hand, Assign(tuple(pictures)))

    def encode(self, rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """See `Prior.encode`; each rank encodes its share."""
        return _rows(self.hand, Encode(rgb.cpu()))

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """See `Prior.decode`; each rank decodes its share."""
        return _rows(self.hand, Decode(z.cpu()))

    def score(self, prompts: Prompts, guidance: Guidance) -> Score:
        """See `Prior.score`."""
        return self._under(Under(self._next(), prompts, guidance))

    def require(self, csd: CsdConfig, prompts: Prompts) -> None:
        """See `Prior.require`."""
        self.own.require(csd, prompts)

    def score_under(self, csd: CsdConfig, prompts: Prompts, attention: Attention | None = None) -> Score:
        """See `Prior.score_under`. Raises ValueError too where something is reused, which no rank knows of."""
        require(csd, "guide_every", csd.guide_every == 1, "1 for several processes")
        return self._under(Under(self._next(), prompts, Guidance.of(csd), csd, attention))

    def _next(self) -> int:
        self.numbers.append(2 * len(self.numbers))  # odd numbers are those of steps
        return self.numbers[-1]

    def _under(self, order: Under) -> Score:
        _order(self.hand, order)
        return OrderedScore(self.hand, order.number)


@dataclass(frozen=True)
class OrderedScore:
    """A score of which every rank has its own. Satisfies `StepScore`, `Features`, `Regularised` and `Perceptual`."""

    hand: Hand
    number: int

    @property
    def schedule(self) -> Schedule:
        """The prior's."""
        return self.hand.scores[self.number].schedule

    def for_step(self, x: Noised) -> Score:
        """The score of one step; the step before it is forgotten."""
        if not isinstance(self.hand.scores[self.number], StepScore):
            return self
        _order(self.hand, ForStep(self.number + 1, self.number, _on_cpu(x)))
        return OrderedScore(self.hand, self.number + 1)

    def target(self, x: Noised) -> Latents:
        """Noise in the edited latents, of all particles."""
        return _rows(self.hand, Predict(self.number, True, _on_cpu(x))).to(x.z)

    def source(self, x: Noised) -> Latents:
        """Noise in the source latents, of all particles."""
        return _rows(self.hand, Predict(self.number, False, _on_cpu(x))).to(x.z)

    def feature_gradient(self, x: Noised, site: FeatureSite, loss: FeatureLoss) -> Latents:
        """Gradient of a loss between features of edited and source latents, of all particles."""
        return _rows(self.hand, Gradient(self.number, _on_cpu(x), site, loss)).to(x.z)

    @property
    def has_term(self) -> bool:
        """Whether the score brings a term."""
        score = self.hand.scores[self.number]
        return isinstance(score, Regularised) and score.has_term

    def own_gradient(self, x: Noised) -> Latents:
        """Of that term, of all particles."""
        return _rows(self.hand, Term(self.number, _on_cpu(x))).to(x.z)

    def perceptual_features(self, z: Latents) -> Float[Tensor, "n d"]:
        """Features of clean latents, by rank 0 alone, which differentiates them."""
        score = self.hand.scores[self.number]
        assert isinstance(score, Perceptual)  # as the scores of all our priors are
        return score.perceptual_features(z)


def _order(hand: Hand, order: Order) -> Tensor | None:
    """Have all ranks carry out an order."""
    broadcast(order)
    return hand.carry_out(order)


def _rows(hand: Hand, order: Order) -> Tensor:
    rows = _order(hand, order)
    assert rows is not None
    return rows


def _raise_first(error: Exception | None) -> None:
    """Raise this rank's own error, or else that of the first rank that has one, if there is one."""
    errors: list[Any] = [None] * ranks()[1]
    dist.all_gather_object(errors, error and _portable(error))
    if error is not None:
        raise error
    for rank, found in enumerate(errors):
        if found is not None:
            raise _of_rank(rank, found)


def _portable(error: Exception) -> Exception:
    """The error, or one of a kind that can be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of any kind: its constructor takes something else, or it holds something that cannot be sent
        return (ValueError if isinstance(error, ValueError) else RuntimeError)(str(error))
    return error


def _of_rank(rank: int, error: Exception) -> Exception:
    """The same kind of error, which says whose it is."""
    try:
        return type(error)(f"process {rank}: {error}")
    except TypeError:  # one whose constructor takes something else
        return RuntimeError(f"process {rank}: {type(error).__name__}: {error}")


def _mine(count: int) -> list[int]:
    """This rank's share; a rank without one computes the first too, whose row is dropped, to learn the shape."""
    return local_indices(count) or [0]


def _on_cpu(x: Noised) -> Noised:
    parts = ("z", "s", "e", "z_t", "s_t", "index")
    moved = {name: getattr(x, name).detach().cpu() for name in parts}
    return replace(x, **moved, anchors=None if x.anchors is None else x.anchors.cpu())
