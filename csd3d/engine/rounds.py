"""Particles that are more than a step may hold take turns.

A round is one step of all particles, in parts: each has its turn once, and all steps of the round share one timestep.
Neighbours that had been told of different ones would disagree, by as much as coupling had brought them together.
"""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import draw_timestep

Deal = Callable[[torch.Generator], list[Tensor]]
"""The particles of each step of a new round, chosen with the generator and nothing else."""


def steps_in_round(count: int, budget: int) -> int:
    """How many groups of at most `budget` particles hold `count` of them."""
    return -(-count // budget)


class Rounds:
    """One round after another: whose turn it is, and at which timestep."""

    def __init__(self, deal: Deal, config: CsdConfig) -> None:
        self._deal, self._config = deal, config
        self._queue: list[Tensor] = []
        self._t = 0

    @property
    def over(self) -> bool:
        """Whether nobody is left in the round."""
        return not self._queue

    def turn(self, rng: torch.Generator) -> tuple[Int[Tensor, " n"], int]:
        """The particles of the next step and its timestep; a new round is dealt when the last one is over."""
        if self.over:
            self._queue, self._t = self._deal(rng), draw_timestep(rng, self._config)
        return self._queue.pop(0), self._t

    def state_dict(self) -> dict[str, Tensor]:
        """The rest of the round and its timestep."""
        queue = torch.cat(self._queue) if self._queue else torch.zeros(0, dtype=torch.int64)
        sizes = torch.tensor([len(group) for group in self._queue], dtype=torch.int64)
        return {"queue": queue, "queue_sizes": sizes, "t": torch.tensor(self._t)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Return to a state of `state_dict`; what else is in `state` belongs to others."""
        self._queue = list(state["queue"].split(state["queue_sizes"].tolist()))
        self._t = int(state["t"])
