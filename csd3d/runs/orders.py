"""What rank 0 asks of all ranks of a shared run, and how each of them does its share (`csd3d.runs.crew`)."""

import os
import pickle
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from csd3d.attention.presets import Attention
from csd3d.engine.config import CsdConfig
from csd3d.engine.regularisers import FeatureLoss, Features, FeatureSite, Regularised
from csd3d.engine.residuals import Score, StepScore
from csd3d.engine.reuse import Side, SplitScore
from csd3d.engine.types import Latents, Noised
from csd3d.priors.defaults import Precision
from csd3d.priors.loading import PLAIN, Loading
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.priors.store.resolve import Resolved
from csd3d.runs.ranks import broadcast, gather, local_indices, ranks

Part = Literal["whole", "unconditional", "conditional"]
"""Of a guided prediction, as `SplitScore` parts it."""


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
    """Target or source predictions of a score, or a part of them."""

    number: int
    side: Side
    x: Noised
    part: Part = "whole"


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
    rows_done: int = 0
    """Rows of the prior's network that all ranks computed, up to the last order."""

    def carry_out(self, order: Order) -> Tensor | None:
        """This rank's share of an order; returns the rows of all ranks, on the CPU, where there are any.

        Raises what it raised itself, or else what another rank did.
        """
        rows, count, error = None, 0, None
        try:
            rows, count = self._share(order)
        except Exception as raised:
            error = raised
        self.rows_done = sum(_agreed(error, 0 if self.prior is None else self.prior.rows_done))
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
                return _predicted(score, some, order), len(order.x.z)
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


def device_of(asked: str | None) -> str | None:
    """The device of this rank, for one that was asked for. Raises ValueError for a GPU with a number, which all ranks
    would share."""
    if asked not in (None, "cpu", "cuda"):
        raise ValueError(f"device: expected cpu or cuda for several processes, each of which has its own, got {asked}")
    if asked == "cpu" or not torch.cuda.is_available():
        return asked
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def _predicted(score: Score, x: Noised, order: Predict) -> Latents:
    """What an order asks for, of some particles."""
    if order.part == "whole":
        return score.target(x) if order.side == "target" else score.source(x)
    assert isinstance(score, SplitScore)  # as it was asked for its parts
    of = score.unconditional if order.part == "unconditional" else score.conditional
    return of(x, order.side)


def send(hand: Hand, order: Order) -> Tensor | None:
    """Have all ranks carry out an order."""
    broadcast(order)
    return hand.carry_out(order)


def send_for_rows(hand: Hand, order: Order) -> Tensor:
    """The same with an order that leaves rows: those of all ranks, on the CPU."""
    rows = send(hand, order)
    assert rows is not None
    return rows


def _agreed(error: Exception | None, rows_done: int) -> list[int]:
    """The rows that each rank has computed. Raises this rank's own error, or else that of the first rank that has one,
    if there is one."""
    told: list[Any] = [None] * ranks()[1]
    dist.all_gather_object(told, (error and _portable(error), rows_done))
    if error is not None:
        raise error
    for rank, (found, _) in enumerate(told):
        if found is not None:
            raise _of_rank(rank, found)
    return [rows for _, rows in told]


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


def on_cpu(x: Noised) -> Noised:
    """Particles as they are sent."""
    parts = ("z", "s", "e", "z_t", "s_t", "index")
    moved = {name: getattr(x, name).detach().cpu() for name in parts}
    return replace(x, **moved, anchors=None if x.anchors is None else x.anchors.cpu())
