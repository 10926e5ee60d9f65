"""One run on several processes: rank 0 is the run, and the others lend it their processors or GPUs.

    torchrun --nproc-per-node N -m csd3d video CLIP --prompt "..."

Rank 0 parses, draws, couples, moves and writes as ever; only its prior is a `SharedPrior`. What that is asked for
(encode, predict, decode) goes to all ranks as an order, each of them carries out its share of the particles with a copy
of the prior, and the rows are gathered. So state, randomness and files are those of one process, and a run that began
with N goes on with any other number.
Everything goes through gloo: latents are small.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from csd3d.attention.presets import Attention
from csd3d.engine.config import CsdConfig, Effort, Method
from csd3d.engine.regularisers import FeatureLoss, FeatureSite, Regularised
from csd3d.engine.residuals import Score, StepScore
from csd3d.engine.reuse import Side, SplitScore
from csd3d.engine.sampling import By
from csd3d.engine.schedule import Schedule
from csd3d.engine.stein import Perceptual
from csd3d.engine.types import Latents, Noised
from csd3d.priors.defaults import Particle, Precision
from csd3d.priors.loading import PLAIN, Loading
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.priors.store.resolve import Resolved
from csd3d.runs.orders import (
    Assign,
    Decode,
    Encode,
    ForStep,
    Gradient,
    Hand,
    Load,
    Part,
    Predict,
    Term,
    Under,
    device_of,
    on_cpu,
    send,
    send_for_rows,
)
from csd3d.runs.ranks import broadcast, ranks

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
    send(hand, Load(found, device, precision, how))
    assert hand.prior is not None
    return SharedPrior.of(hand)


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

    @property
    def rows_done(self) -> int:
        """Those of all ranks."""
        return self.hand.rows_done

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
        send(self.hand, Assign(tuple(pictures)))

    def encode(self, rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """See `Prior.encode`; each rank encodes its share."""
        return send_for_rows(self.hand, Encode(rgb.cpu()))

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """See `Prior.decode`; each rank decodes its share."""
        return send_for_rows(self.hand, Decode(z.cpu()))

    def score(self, prompts: Prompts, guidance: Guidance) -> Score:
        """See `Prior.score`."""
        return self._under(Under(self._next(), prompts, guidance))

    def require(self, csd: CsdConfig, prompts: Prompts) -> None:
        """See `Prior.require`."""
        self.own.require(csd, prompts)

    def score_under(self, csd: CsdConfig, prompts: Prompts, attention: Attention | None = None) -> Score:
        """See `Prior.score_under`. What is reused rank 0 keeps."""
        return self._under(Under(self._next(), prompts, Guidance.of(csd), csd, attention))

    def _next(self) -> int:
        self.numbers.append(2 * len(self.numbers))  # odd numbers are those of steps
        return self.numbers[-1]

    def _under(self, order: Under) -> Score:
        send(self.hand, order)
        in_parts = isinstance(self.hand.scores[order.number], SplitScore)
        return (OrderedParts if in_parts else OrderedScore)(self.hand, order.number)


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
        send(self.hand, ForStep(self.number + 1, self.number, on_cpu(x)))
        return OrderedScore(self.hand, self.number + 1)

    def target(self, x: Noised) -> Latents:
        """Noise in the edited latents, of all particles."""
        return self._predicted(x, "target")

    def source(self, x: Noised) -> Latents:
        """Noise in the source latents, of all particles."""
        return self._predicted(x, "source")

    def feature_gradient(self, x: Noised, site: FeatureSite, loss: FeatureLoss) -> Latents:
        """Gradient of a loss between features of edited and source latents, of all particles."""
        return send_for_rows(self.hand, Gradient(self.number, on_cpu(x), site, loss)).to(x.z)

    @property
    def has_term(self) -> bool:
        """Whether the score brings a term."""
        score = self.hand.scores[self.number]
        return isinstance(score, Regularised) and score.has_term

    def own_gradient(self, x: Noised) -> Latents:
        """Of that term, of all particles."""
        return send_for_rows(self.hand, Term(self.number, on_cpu(x))).to(x.z)

    def perceptual_features(self, z: Latents) -> Float[Tensor, "n d"]:
        """Features of clean latents, by rank 0 alone, which differentiates them."""
        score = self.hand.scores[self.number]
        assert isinstance(score, Perceptual)  # as the scores of all our priors are
        return score.perceptual_features(z)

    def _predicted(self, x: Noised, side: Side, part: Part = "whole") -> Latents:
        return send_for_rows(self.hand, Predict(self.number, side, on_cpu(x), part)).to(x.z)


@dataclass(frozen=True)
class OrderedParts(OrderedScore):
    """One whose predictions come in two parts. Satisfies `SplitScore` too."""

    def is_guided(self, t: int) -> bool:
        """See `SplitScore`."""
        score = self.hand.scores[self.number]
        assert isinstance(score, SplitScore)  # as it is asked for parts
        return score.is_guided(t)

    def unconditional(self, x: Noised, side: Side) -> Latents:
        """See `SplitScore`; of all particles."""
        return self._predicted(x, side, "unconditional")

    def conditional(self, x: Noised, side: Side) -> Latents:
        """See `SplitScore`; of all particles."""
        return self._predicted(x, side, "conditional")
