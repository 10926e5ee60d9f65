"""A prior whose attention is controlled: particles share attention, targets look at their sources.

Sharing is extended attention: in every self-attention each particle looks at the places of a few anchors too, in the
same branch at the same noise level,

    softmax(q_i [k_i; k_a; k_b; ...]^T / sqrt(d)) [v_i; v_a; v_b; ...]

Two passes keep predictions independent of each other: the anchors are predicted first, each for itself, and leave their
keys and values; then every particle, anchors among them, depends on itself and on what was left. So results do not
depend on how a step is split into calls or over processes, each of which predicts the anchors for itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from csd3d.attention.bank import Bank
from csd3d.attention.compositions import Composition, KvFusion, PromptToPrompt, keeping
from csd3d.attention.control import Control, Qkv
from csd3d.attention.eye import EyeForEye, leaving_hidden
from csd3d.attention.like import CrossImage, Reference, Statistics, statistics
from csd3d.attention.pull import Pull
from csd3d.attention.rows import Role, Rows
from csd3d.attention.sag import SelfAttentionGuidance
from csd3d.attention.score import Controllable
from csd3d.attention.sites import Site, choose
from csd3d.engine.ddim import clean
from csd3d.engine.over import OverScore
from csd3d.engine.residuals import Score
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Latents, Noised, numbers

ANCHORS = 4
"""Of a step, where its particles do not name their own."""
BANKED = 8
"""Particles whose sources leave something at a time: bounds memory, changes no result."""


@dataclass(frozen=True)
class AttendedScore(OverScore[Controllable]):
    """A `Score` under control; what it prepares for a step is `Regularised`."""

    score: Controllable
    compositions: tuple[Composition, ...] = ()
    """One after another."""
    shares: bool = False
    """Whether all particles of a step look at its anchors."""
    pull: Pull | None = None
    """A term beside what the prior wants, read off the prior as it is."""
    reference: Reference | None = None
    """Whom particles look like, where there is a `CrossImage`."""

    def __post_init__(self) -> None:
        for composition in self.compositions:
            composition.require(self.score)
        for kind, name in ((SelfAttentionGuidance, "sag"), (CrossImage, "like"), (EyeForEye, "eye")):
            if sum(isinstance(composition, kind) for composition in self.compositions) > 1:
                raise ValueError(f"attention: expected {name} once, got it more than once")
        if self.like is not None and self.reference is None:
            raise ValueError("like: expected a picture, --like photo.jpg, got none")
        if any(isinstance(c, PromptToPrompt) and c.self_until > 0 for c in self.compositions):
            for kind, name in ((KvFusion, "kv-fusion"), (CrossImage, "like")):
                if any(isinstance(composition, kind) for composition in self.compositions):
                    raise ValueError(f"attention: expected p2p with self-until=0 beside {name}, which has other keys")

    @property
    def like(self) -> CrossImage | None:
        """How particles look like a reference; None: they do not."""
        return next((c for c in self.compositions if isinstance(c, CrossImage)), None)

    @property
    def eye(self) -> EyeForEye | None:
        """How hidden states follow motion; None: they do not."""
        return next((c for c in self.compositions if isinstance(c, EyeForEye)), None)

    def for_step(self, x: Noised) -> Score:
        """The score of one step, of particles that are all of `x` or some of them."""
        return _StepScore(self, x)


@dataclass
class _StepScore:
    """What is predicted in one step, with what anchors and sources have left in it."""

    own: AttendedScore
    x: Noised
    _bank: Bank = field(default_factory=Bank)
    _hidden: Bank = field(default_factory=Bank)
    _left: set[Role] = field(default_factory=set[Role])
    _sources: tuple[list[int], Latents] | None = None
    _colours: Statistics | None = None

    @property
    def schedule(self) -> Schedule:
        return self.own.schedule

    @property
    def has_term(self) -> bool:
        return self.own.pull is not None

    def own_gradient(self, x: Noised) -> Latents:
        assert self.own.pull is not None  # as it has a term
        return self.own.pull(x)

    def target(self, x: Noised) -> Latents:
        predicted, sources = self._shared(x)
        self._sources = None if sources is None else (numbers(x.index), sources)
        return self._coloured(predicted, x)

    def source(self, x: Noised) -> Latents:
        if self._sources is not None and self._sources[0] == numbers(x.index):
            return self._sources[1]
        with self.own.score.controlled(self._sharing("source")):
            return self.own.score.source(x)

    def _shared(self, x: Noised) -> tuple[Latents, Latents | None]:
        """`_predict` under sharing."""
        return self._predict(x, self._sharing("target"), lambda: self._sharing("source"))

    def _coloured(self, predicted: Latents, x: Noised) -> Latents:
        """Predictions with the colours of the reference, if they are asked for; those of the step come from its
        anchors, whoever is predicted."""
        like, ab = self.own.like, self.schedule.alpha_bar(x.t)
        if like is None or not like.moves_colours(self.schedule, x.t):
            return predicted
        assert self.own.reference is not None  # as it was required
        places = numbers(anchors_of(self.x))
        if places and self._colours is None:
            anchors, here = self.x.rows(places), {number: i for i, number in enumerate(numbers(x.index))}
            known = [here[number] for number in numbers(anchors.index) if number in here]
            e = predicted[known] if len(known) == len(places) else self._shared(anchors)[0]
            self._colours = statistics(clean(anchors.z_t, e, ab))
        return like.coloured(predicted, x, ab, self._colours, self.own.reference.colours)

    def _predict(
        self, x: Noised, last: Sequence[Control], last_of_sources: Callable[[], Sequence[Control]]
    ) -> tuple[Latents, Latents | None]:
        """Predictions for targets and, if these look at them, for their sources, a few particles at a time.

        `last` acts last on targets; `last_of_sources`, which is asked for if there is need, on sources.
        """
        score, size_lat = self.own.score, (x.z.shape[-2], x.z.shape[-1])
        banks = [(composition, Bank()) for composition in self.own.compositions]  # one each: they leave other things
        leave = [control for composition, bank in banks for control in composition.leave(score, bank, size_lat)]
        take = [control for composition, bank in banks for control in composition.take(score, bank, size_lat)]
        if not leave:
            return self._target(x, [*take, *last]), None
        shared = last_of_sources()
        targets: list[Tensor] = []
        sources: list[Tensor] = []
        for start in range(0, len(x.z), BANKED):
            some = x.rows(slice(start, start + BANKED))
            with score.controlled([*leave, *shared]):
                sources.append(score.source(some))
            targets.append(self._target(some, [*take, *last]))
            for _, bank in banks:
                bank.clear()
        return torch.cat(targets), torch.cat(sources)

    def _target(self, x: Noised, controls: Sequence[Control]) -> Latents:
        """What is predicted under controls, and as if a reference were seen in the place of oneself."""
        e, like, score = self._guided(x, controls), self.own.like, self.own.score
        if like is None or not (sites := like.acts(score, x.t)):
            return e
        assert self.own.reference is not None  # as it was required
        looking = like.looking(score, sites, self.own.reference.left(score, sites, x.t))
        return e + like.strength(self.schedule, x.t) * (self._guided(x, [*controls, looking]) - e)

    def _guided(self, x: Noised, controls: Sequence[Control]) -> Latents:
        """What is predicted under controls, with the guidance that self-attention gives if it is asked for."""
        score = self.own.score
        for composition in self.own.compositions:
            if isinstance(composition, SelfAttentionGuidance) and composition.scale > 0:
                return composition.target(score, x, controls)
        with score.controlled(controls):
            return score.target(x)

    def _sharing(self, role: Role) -> list[Control]:
        """The controls by which rows of a role look at the anchors, which leave what is looked at first."""
        score, eye = self.own.score, self.own.eye
        sites = choose(score.sites, kind="self") if self.own.shares else ()
        moving = () if eye is None else eye.acts(score, self.x.t)
        places = numbers(anchors_of(self.x)) if sites or moving else []
        if not places:
            return []
        anchors = self.x.rows(places)
        if role not in self._left:
            keep = [Control(sites, qkv=keeping(self._bank)), Control(moving, enter=leaving_hidden(self._hidden))]
            if role == "target":
                self._predict(anchors, keep, lambda: [])
            else:
                with score.controlled(keep):
                    score.source(anchors)
            self._left.add(role)
        who = sorted(numbers(anchors.index))
        controls = [Control(sites, qkv=beside(self._bank, who))] if sites else []
        return controls if eye is None else [*controls, Control(moving, enter=eye.rearranged(self._hidden, who))]


def beside(bank: Bank, anchors: Sequence[int]) -> Qkv:
    """Keys and values of anchors, of a row's own role and branch, after its own."""

    def qkv(site: Site, rows: Rows, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        branches = sorted(set(rows.branch))
        of_branch = torch.tensor([branches.index(branch) for branch in rows.branch], device=k.device)

        def longer(own: Tensor, which: int) -> Tensor:
            theirs = [bank.read(site, rows.role, [branch] * len(anchors), anchors)[which] for branch in branches]
            joined = torch.stack([part.transpose(0, 1).flatten(1, 2) for part in theirs])  # branch heads places d
            return torch.cat([own, joined[of_branch]], 2)

        return q, longer(k, 0), longer(v, 1)

    return qkv


def anchors_of(x: Noised) -> Int[Tensor, " k"]:
    """Places of the anchors of a step: those that its particles name, else `ANCHORS` spread evenly over their numbers;
    none for a single particle, which looks at itself anyway."""
    if x.anchors is not None:
        return x.anchors
    n = len(x.index)
    if n == 1:
        return x.index[:0].long()
    count = min(ANCHORS, n)
    order = x.index.argsort()
    return order[[round(k * (n - 1) / (count - 1)) for k in range(count)]]
