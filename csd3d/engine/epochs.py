"""Epochs, for more particles than one step may hold: each epoch deals them into batches, one batch a step."""

from collections.abc import Callable

import torch
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import draw_timestep
from csd3d.engine.types import Index, numbers

Partition = Callable[[torch.Generator], list[Tensor]]
"""The batches of a new epoch, as numbers of particles, drawn with the generator and nothing else."""


def steps_in_epoch(count: int, budget: int) -> int:
    """How many batches of at most `budget` particles hold `count` of them."""
    return -(-count // budget)


def step_sizes(count: int, budget: int) -> set[int]:
    """Particles of the steps of an epoch of `count`, dealt evenly."""
    steps = steps_in_epoch(count, budget)
    return {count // steps, -(-count // steps)}


class Epochs:
    """Batches of one epoch after another."""

    def __init__(self, partition: Partition, *, shared_t: CsdConfig | None = None) -> None:
        """With `shared_t`, all batches of an epoch share one timestep of these settings, whose `steps` count epochs."""
        self._partition, self._shared_t = partition, shared_t
        self._queue: list[Tensor] = []
        self._t = 0
        self._number = -1

    @property
    def exhausted(self) -> bool:
        """Whether no batch of the epoch is left."""
        return not self._queue

    @property
    def t(self) -> int | None:
        """Timestep of the epoch, if its batches share one."""
        return None if self._shared_t is None else self._t

    def batch(self, rng: torch.Generator) -> Index:
        """The particles of the next step; a new epoch begins where the last one is exhausted."""
        if self.exhausted:
            self._queue = self._partition(rng)
            self._number += 1
            if self._shared_t is not None:
                self._t = draw_timestep(rng, self._shared_t, move=self._number)
        return self._queue.pop(0)

    def state_dict(self) -> dict[str, Tensor]:
        """The batches that are left and, if they share one, their timestep; where timesteps descend, the epoch too."""
        queue = torch.cat(self._queue) if self._queue else torch.zeros(0, dtype=torch.int64)
        sizes = torch.tensor([len(batch) for batch in self._queue], dtype=torch.int64)
        shared = {} if self._shared_t is None else {"t": torch.tensor(self._t)}
        if self._counts:
            shared["epoch"] = torch.tensor(self._number)
        return {"queue": queue, "queue_sizes": sizes, **shared}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Return to a state of `state_dict`; other entries of `state` are ignored."""
        self._queue = list(torch.split(state["queue"], numbers(state["queue_sizes"])))
        if self._shared_t is not None:
            self._t = int(state["t"])
        if self._counts:
            self._number = int(state["epoch"])

    @property
    def _counts(self) -> bool:
        return self._shared_t is not None and self._shared_t.timesteps == "descending"
