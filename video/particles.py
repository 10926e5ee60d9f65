"""The frames of a clip as particles: their latents, their turn, and each one's own optimiser state.

When the clip is longer than a step may hold, frames take turns. A round deals all frames into m = ceil(n / budget)
groups, one group a step, so after every round each frame has been moved equally often, at the ends of the clip too:

    window       neighbours; the dealing starts at a random frame and wraps around, so that borders fall elsewhere every
                 round and one group joins the end of the clip to its beginning. A few anchors, spread over the whole
                 clip, take part in every step without being moved by it: with them all windows mix, and so agree
    stratified   one frame out of every m consecutive ones, at random: each group spans the whole clip

Particles under different sentences never share a step. All steps of a round share one timestep: frames that had been
told of different ones would tremble against each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.epochs import Rounds, steps_in_round
from csd3d.engine.loop import Batch, draw_timestep
from csd3d.media.sheet import evenly
from video.config import Draw

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Turns:
    """How particles take turns."""

    budget: int
    """Most particles in a step."""
    draw: Draw = "stratified"
    anchors: int = 0
    """Particles in a step of a window, among the budget, that are seen and not moved."""
    groups: tuple[tuple[int, ...], ...] = ()
    """Particles that may share a step; none: all of them."""

    def of(self, count: int) -> tuple[tuple[int, ...], ...]:
        """The groups of `count` particles."""
        return self.groups or (tuple(range(count)),)

    def steps(self, count: int) -> int:
        """Steps in a round of `count` particles."""
        return sum(steps_in_round(len(group), self._moved(len(group))) for group in self.of(count))

    def deal(self, count: int, rng: torch.Generator) -> list[Int[Tensor, " _n"]]:
        """What is moved in each step of one round: each particle of a group once."""
        dealt: list[Tensor] = []
        for group in self.of(count):
            members = torch.tensor(group)
            dealt += [members[index] for index in deal(len(group), self._moved(len(group)), self.draw, rng)]
        if len(self.of(count)) > 1:
            dealt = [dealt[i] for i in torch.randperm(len(dealt), generator=rng).tolist()]
        return dealt

    def seen(self, moved: Int[Tensor, " n"], count: int) -> Int[Tensor, " m"]:
        """What takes part in a step that moves `moved`: they and their anchors, in order."""
        members = next(group for group in self.of(count) if int(moved[0]) in group)
        if self._moved(len(members)) == self.budget:
            return moved
        others = sorted(set(members) - set(moved.tolist()))
        anchors = torch.tensor([others[i] for i in evenly(len(others), self.anchors)], dtype=torch.int64)
        return torch.cat([moved, anchors]).sort().values

    def _moved(self, members: int) -> int:
        """Most particles that a step moves."""
        return self.budget - self.anchors if self.draw == "window" and members > self.budget else self.budget


def deal(frames: int, budget: int, draw: Draw, rng: torch.Generator) -> list[Int[Tensor, " _n"]]:
    """The groups of one round in the order of their steps; sorted frame numbers, each frame in exactly one group."""
    m = steps_in_round(frames, budget)
    if m == 1:
        return [torch.arange(frames)]
    if draw == "window":
        start = int(torch.randint(frames, (), generator=rng))
        edges = [frames * i // m for i in range(m + 1)]
        groups = [(torch.arange(a, b) + start) % frames for a, b in pairwise(edges)]
    else:
        strata = [torch.arange(a, min(a + m, frames)) for a in range(0, frames, m)]
        places = [torch.randperm(m, generator=rng) for _ in strata]
        groups = [
            torch.tensor(
                [
                    int(f)
                    for stratum, place in zip(strata, places, strict=True)
                    for f in stratum[place[: len(stratum)] == k]
                ]
            )
            for k in range(m)
        ]
    order = torch.randperm(m, generator=rng).tolist()
    return [groups[i].sort().values.long() for i in order if len(groups[i])]


@runtime_checkable
class Latents(Protocol):
    """One latent a frame, on the CPU: a tensor, or the rows of a file (`csd3d.runs.rows`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Tensor: ...

    def __setitem__(self, index: Any, values: Tensor, /) -> None: ...


def state_arrays(config: CsdConfig) -> tuple[str, ...]:
    """Names of what is kept for every frame: its latent and, for Adam, both moments of its gradient."""
    return ("z", "mean", "square") if config.optimizer == "adam" else ("z",)


class FrameParticles:
    """Latents of all frames, moved a group at a time; satisfies the engine's `Particles`.

    Latents live on the CPU or on the disk, whatever the prior runs on: a step carries its own group to `device` and
    back, so neither memory grows with the clip.
    """

    def __init__(
        self,
        s: Latents,
        config: CsdConfig,
        *,
        turns: Turns,
        device: torch.device | str = "cpu",
        arrays: Mapping[str, Latents] | None = None,
    ) -> None:
        """Start at the sources `s`: what is not asked for does not change.

        `arrays` holds what `state_arrays` names where it shall be kept, as the caller made it: the latents equal to
        `s` and the moments zero, or those of an earlier state. None: tensors of our own.
        """
        self._own = arrays is None
        if arrays is None:
            # one memory layout, that of a loaded state: kernels round differently in another, a resumed run must not
            s = s[:].cpu().contiguous()
            arrays = {name: s.clone() if name == "z" else torch.zeros_like(s) for name in state_arrays(config)}
        self.s, self._arrays = s, dict(arrays)
        self._turns, self._device = turns, torch.device(device)
        self._config, self._t = config, 0
        self._rounds = Rounds(lambda rng: turns.deal(len(s), rng))
        self._moving = torch.zeros(0, dtype=torch.int64)
        self._moves = torch.zeros(len(s), dtype=torch.int64)

    @property
    def z(self) -> Latents:
        """The latents as they are now."""
        return self._arrays["z"]

    def draw(self, rng: torch.Generator) -> Batch:
        """The next group with its anchors."""
        begins = self._rounds.over
        self._moving = self._rounds.turn(rng)
        self._t = draw_timestep(rng, self._config) if begins else self._t
        index = self._turns.seen(self._moving, len(self.z))
        z, s = (x[index].to(self._device) for x in (self.z, self.s))
        return Batch(z, s, index.to(self._device), self._t)

    def apply(self, batch: Batch, g: Float[Tensor, "n c h w"], *, lr: float) -> None:
        """z <- z - lr g, or Adam's step with moments and step count of each frame's own; anchors stay."""
        index = batch.index.cpu()
        moves = torch.isin(index, self._moving)
        index, g = index[moves], g.cpu()[moves]
        self._moves[index] += 1
        move = lr * (self._adam_direction(index, g) if self._config.optimizer == "adam" else g)
        self.z[index] = self.z[index] - move

    def _adam_direction(self, index: Int[Tensor, " n"], g: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        k = self._moves[index].double().reshape(-1, 1, 1, 1)
        mean = self._arrays["mean"][index].lerp(g, 1 - _BETA1)
        square = self._arrays["square"][index].lerp(g * g, 1 - _BETA2)
        self._arrays["mean"][index], self._arrays["square"][index] = mean, square
        return ((mean / (1 - _BETA1**k)) / ((square / (1 - _BETA2**k)).sqrt() + _EPSILON)).to(g)

    def state_dict(self) -> dict[str, Any]:
        """The rest of the round, its timestep, how often each frame was moved, and the arrays if they are our own."""
        own = self._arrays if self._own else {}
        return {**self._rounds.state_dict(), "t": torch.tensor(self._t), "moves": self._moves, **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`.

        Raises:
            ValueError: the state is of another clip or another optimiser.
        """
        mine = self.state_dict()
        same = ("moves", *(self._arrays if self._own else ()))
        if set(state) != set(mine) or any(state[name].shape != mine[name].shape for name in same):
            got = {name: tuple(value.shape) for name, value in sorted(state.items())}
            raise ValueError(f"state: expected {sorted(mine)} for {len(self.s)} frames, got {got}")
        self._rounds.load_state_dict(state)
        self._t, self._moves = int(state["t"]), state["moves"].clone()
        if self._own:
            self._arrays = {name: state[name].clone(memory_format=torch.contiguous_format) for name in self._arrays}
