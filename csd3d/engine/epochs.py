"""Particles that are more than a step may hold take turns: a round is one step of them all, in parts."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

Deal = Callable[[torch.Generator], list[Tensor]]
"""The particles of each step of a new round, chosen with the generator and nothing else."""


def steps_in_round(count: int, budget: int) -> int:
    """How many groups of at most `budget` particles hold `count` of them."""
    return -(-count // budget)


class Rounds:
    """One round after another: whose turn it is."""

    def __init__(self, deal: Deal) -> None:
        self._deal = deal
        self._queue: list[Tensor] = []

    @property
    def over(self) -> bool:
        """Whether nobody is left in the round."""
        return not self._queue

    def turn(self, rng: torch.Generator) -> Int[Tensor, " n"]:
        """The particles of the next step; a new round is dealt when the last one is over."""
        if self.over:
            self._queue = self._deal(rng)
        return self._queue.pop(0)

    def state_dict(self) -> dict[str, Tensor]:
        """The rest of the round."""
        queue = torch.cat(self._queue) if self._queue else torch.zeros(0, dtype=torch.int64)
        sizes = torch.tensor([len(group) for group in self._queue], dtype=torch.int64)
        return {"queue": queue, "queue_sizes": sizes}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Return to a state of `state_dict`; what else is in `state` belongs to others."""
        self._queue = list(state["queue"].split(state["queue_sizes"].tolist()))
