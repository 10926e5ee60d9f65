"""The frames of a clip as particles: their latents, their turn, and each one's own optimiser state.

When the clip is longer than a step may hold, frames take turns. A round deals all frames into m = ceil(n / budget)
groups, one group a step, so after every round each frame has been moved equally often, at the ends of the clip too:

    window       neighbours; the dealing starts at a random frame and wraps around, so that borders fall elsewhere every
                 round and one group joins the end of the clip to its beginning
    stratified   one frame out of every m consecutive ones, at random: each group spans the whole clip
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import Batch
from video.config import Draw

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def rounds(frames: int, budget: int) -> int:
    """Steps in a round: how many groups of at most `budget` frames hold them all."""
    return -(-frames // budget)


def deal(frames: int, budget: int, draw: Draw, rng: torch.Generator) -> list[Int[Tensor, " _n"]]:
    """The groups of one round in the order of their steps; sorted frame numbers, each frame in exactly one group."""
    m = rounds(frames, budget)
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


class FrameParticles:
    """Latents of all frames, moved a group at a time; satisfies the engine's `Particles`.

    Latents live on the CPU, whatever the prior runs on: a step carries its own group to `device` and back, so device
    memory does not grow with the clip.
    """

    def __init__(
        self,
        s: Float[Tensor, "n c h w"],
        config: CsdConfig,
        *,
        budget: int,
        draw: Draw = "stratified",
        device: torch.device | str = "cpu",
    ) -> None:
        """Start at the sources `s`: what is not asked for does not change."""
        # one memory layout, that of a loaded state: kernels round differently in another, and a resumed run must not
        self.s = s.cpu().contiguous()
        self.z = self.s.clone()
        self._adam = config.optimizer == "adam"
        self._budget, self._device = budget, torch.device(device)
        self._draw: Draw = draw
        self._queue: list[Tensor] = []
        if self._adam:
            self._mean, self._square = torch.zeros_like(self.z), torch.zeros_like(self.z)
            self._moves = torch.zeros(len(self.z), dtype=torch.int64)

    def draw(self, rng: torch.Generator) -> Batch:
        """The next group; a new round is dealt with `rng` when the last one is through."""
        if not self._queue:
            self._queue = deal(len(self.z), self._budget, self._draw, rng)
        index = self._queue.pop(0)
        return Batch(self.z[index].to(self._device), self.s[index].to(self._device), index.to(self._device))

    def apply(self, batch: Batch, g: Float[Tensor, "n c h w"], *, lr: float) -> None:
        """z <- z - lr g, or Adam's step with moments and step count of each frame's own."""
        index, g = batch.index.cpu(), g.cpu()
        if not self._adam:
            self.z[index] -= lr * g
            return
        self._moves[index] += 1
        k = self._moves[index].double().reshape(-1, 1, 1, 1)
        mean = self._mean[index].lerp(g, 1 - _BETA1)
        square = self._square[index].lerp(g * g, 1 - _BETA2)
        self._mean[index], self._square[index] = mean, square
        corrected = (mean / (1 - _BETA1**k)) / ((square / (1 - _BETA2**k)).sqrt() + _EPSILON)
        self.z[index] -= (lr * corrected).to(self.z.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Latents, optimiser state and the rest of the round, as tensors."""
        state: dict[str, Any] = {"z": self.z}
        sizes = [len(group) for group in self._queue]
        state["queue"] = torch.cat(self._queue) if self._queue else torch.zeros(0, dtype=torch.int64)
        state["queue_sizes"] = torch.tensor(sizes, dtype=torch.int64)
        if self._adam:
            state |= {"mean": self._mean, "square": self._square, "moves": self._moves}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`.

        Raises:
            ValueError: the state is of another clip or another optimiser.
        """
        expected = set(self.state_dict())
        if set(state) != expected or state["z"].shape != self.z.shape:
            raise ValueError(
                f"state: expected {sorted(expected)} for latents {tuple(self.z.shape)}, got {sorted(state)}"
                f" for {tuple(state['z'].shape) if 'z' in state else 'none'}"
            )
        self.z = state["z"].clone(memory_format=torch.contiguous_format)
        self._queue = list(state["queue"].split(state["queue_sizes"].tolist()))
        if self._adam:
            self._mean, self._square = state["mean"].clone(), state["square"].clone()
            self._moves = state["moves"].clone()
