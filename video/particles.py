"""The frames of a clip as particles: their latents, the batches of an epoch, and each one's own optimiser state.

When the clip is longer than a step may hold, an epoch partitions all frames into m = ceil(n / budget) batches, one a
step, so after every epoch each frame has been moved equally often, at the ends of the clip too:

    window       neighbours; the partition starts at a random frame and wraps around, so that borders fall elsewhere in
                 every epoch and one batch joins the end of the clip to its beginning. A few anchors, spread over the
                 whole clip, take part in every step without being moved by it: they couple all windows
    stratified   one frame out of every m consecutive ones, at random: each batch spans the whole clip

Particles under different sentences never share a step. All batches of an epoch share one timestep: frames that were
moved at different ones would flicker against each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.epochs import Epochs, step_sizes, steps_in_epoch
from csd3d.engine.optimise import Moments, descend
from csd3d.engine.types import Batch, Index, Latents
from csd3d.media.sheet import evenly
from video.config import Draw


@dataclass(frozen=True)
class Batching:
    """How the particles of an epoch are partitioned into batches."""

    budget: int
    """Most particles in a step."""
    draw: Draw = "stratified"
    anchors: int = 0
    """Particles in a step of a window, among the budget, that take part and are not moved."""
    groups: tuple[tuple[int, ...], ...] = ()
    """Particles that may share a step; none: all of them."""

    def of(self, count: int) -> tuple[tuple[int, ...], ...]:
        """The groups of `count` particles."""
        return self.groups or (tuple(range(count)),)

    def steps(self, count: int) -> int:
        """Steps in an epoch of `count` particles."""
        return sum(steps_in_epoch(len(group), self._moved(len(group))) for group in self.of(count))

    def sizes(self, count: int) -> set[int]:
        """How many particles a step may have."""
        sizes = set[int]()
        for members in map(len, self.of(count)):
            moved, several = self._moved(members), members > self.budget
            more = self.anchors if self.draw == "window" and several else 0
            sizes |= {size + more for size in step_sizes(members, moved)}
        return sizes

    def partition(self, count: int, rng: torch.Generator) -> list[Int[Tensor, " _n"]]:
        """What is moved in each step of one epoch: each particle of a group once."""
        batches: list[Tensor] = []
        for group in self.of(count):
            members = torch.tensor(group)
            batches += [members[index] for index in partition(len(group), self._moved(len(group)), self.draw, rng)]
        if len(self.of(count)) > 1:
            batches = [batches[i] for i in torch.randperm(len(batches), generator=rng).tolist()]
        return batches

    def coupled(self, moved: Int[Tensor, " n"], count: int) -> Int[Tensor, " m"]:
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


def partition(frames: int, budget: int, draw: Draw, rng: torch.Generator) -> list[Int[Tensor, " _n"]]:
    """The batches of one epoch in the order of their steps; sorted frame numbers, each frame in exactly one batch."""
    m = steps_in_epoch(frames, budget)
    if m == 1:
        return [torch.arange(frames)]
    if draw == "window":
        start = int(torch.randint(frames, (), generator=rng))
        edges = [frames * i // m for i in range(m + 1)]
        batches = [(torch.arange(a, b) + start) % frames for a, b in pairwise(edges)]
    else:
        strata = [torch.arange(a, min(a + m, frames)) for a in range(0, frames, m)]
        places = [torch.randperm(m, generator=rng) for _ in strata]
        batches = [
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
    return [batches[i].sort().values.long() for i in order if len(batches[i])]


@runtime_checkable
class LatentRows(Protocol):
    """One latent a frame, on the CPU: a tensor, or the rows of a file (`csd3d.runs.rows`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Tensor: ...

    def __setitem__(self, index: Any, values: Tensor, /) -> None: ...


def state_arrays(config: CsdConfig) -> tuple[str, ...]:
    """Names of what is stored for every frame: its latent and, for Adam, both moments of its gradient."""
    return ("z", "mean", "square") if config.optimizer == "adam" else ("z",)


class LatentState:
    """Latents and what the optimiser keeps of each, moved some at a time.

    They live on the CPU or on the disk, whatever the prior runs on.
    """

    def __init__(
        self, s: LatentRows, config: CsdConfig, arrays: Mapping[str, LatentRows] | None, *, more: Sequence[str] = ()
    ) -> None:
        """Start at the sources `s`: what is not asked for does not change.

        `arrays` holds what `state_arrays` and `more` name where it shall be stored, as the caller made it: the latents
        equal to `s` and all else zero, or those of an earlier state. None: tensors of our own.
        """
        self._own = arrays is None
        if arrays is None:
            # one memory layout, that of a loaded state: kernels round differently in another, a resumed run must not
            s = s[:].cpu().contiguous()
            names = (*state_arrays(config), *more)
            arrays = {name: s.clone() if name == "z" else torch.zeros_like(s) for name in names}
        self.s, self.arrays = s, dict(arrays)
        self._moves = torch.zeros(len(s), dtype=torch.int64)

    @property
    def z(self) -> LatentRows:
        """The latents as they are now."""
        return self.arrays["z"]

    def descend(self, index: Index, g: Latents, *, lr: float) -> None:
        """A step of the optimiser for some of them, with moments and step count of each one's own."""
        self.z[index], moments = descend(self.z[index], g, self._moments(index), lr=lr)
        self._moves[index] += 1
        if moments is not None:
            self.arrays["mean"][index], self.arrays["square"][index] = moments.mean, moments.square

    def _moments(self, index: Index) -> Moments | None:
        if "mean" not in self.arrays:
            return None
        return Moments(self.arrays["mean"][index], self.arrays["square"][index], self._moves[index])

    def state_dict(self) -> dict[str, Any]:
        """How often each was moved, and the arrays if our own."""
        return {"moves": self._moves, **(self.arrays if self._own else {})}

    def load_state_dict(self, state: dict[str, Any], also: Iterable[str]) -> None:
        """Return to a state of `state_dict`, beside which there is `also`.

        Raises:
            ValueError: the state is of another clip or another optimiser.
        """
        mine = self.state_dict()
        if set(state) != {*mine, *also} or any(state[name].shape != mine[name].shape for name in mine):
            got = {name: tuple(value.shape) for name, value in sorted(state.items())}
            raise ValueError(f"state: expected {sorted({*mine, *also})} for {len(self.s)} frames, got {got}")
        self._moves = state["moves"].clone()
        if self._own:
            self.arrays = {name: state[name].clone(memory_format=torch.contiguous_format) for name in self.arrays}


class FrameParticles:
    """Latents of all frames, moved a batch at a time; satisfies the engine's `Particles` and `Stateful`.

    A step carries its own batch to `device` and back, so neither memory grows with the clip.
    """

    def __init__(
        self,
        s: LatentRows,
        config: CsdConfig,
        *,
        batching: Batching,
        device: torch.device | str = "cpu",
        arrays: Mapping[str, LatentRows] | None = None,
    ) -> None:
        """Start at the sources `s`; `arrays` are those of `LatentState`."""
        self._state = LatentState(s, config, arrays)
        self._batching, self._device = batching, torch.device(device)
        self._epochs = Epochs(lambda rng: batching.partition(len(s), rng), shared_t=config)
        self._moving = torch.zeros(0, dtype=torch.int64)

    @property
    def s(self) -> LatentRows:
        """The sources."""
        return self._state.s

    @property
    def z(self) -> LatentRows:
        """The latents as they are now."""
        return self._state.z

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every frame is moved once."""
        return self._batching.steps(len(self.s))

    def draw(self, rng: torch.Generator) -> Batch:
        """The next batch with its anchors."""
        self._moving = self._epochs.batch(rng)
        index = self._batching.coupled(self._moving, len(self.z))
        z, s = (x[index].to(self._device) for x in (self.z, self.s))
        still = (~torch.isin(index, self._moving)).nonzero().flatten()
        return Batch(z, s, index, self._epochs.t, still.to(self._device) if len(still) else None)

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        """A step of the optimiser, with moments and step count of each frame's own; anchors stay."""
        moving = torch.isin(index, self._moving)
        self._state.descend(index[moving], g.cpu()[moving], lr=lr)

    def state_dict(self) -> dict[str, Any]:
        """The batches left in the epoch, its timestep, how often each frame was moved, and the arrays if our own."""
        return {**self._epochs.state_dict(), **self._state.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`. Raises ValueError for that of another clip or optimiser."""
        self._state.load_state_dict(state, self._epochs.state_dict())
        self._epochs.load_state_dict(state)
