"""Particles whose state can be saved, and with it what their score keeps from move to move."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from csd3d.engine.loop import Particles, Stateful
from csd3d.engine.reuse import ReusingScore
from csd3d.engine.sampling import SampledParticles
from csd3d.engine.types import Batch, Index, Latents

_REUSED = "reused."


@runtime_checkable
class StoredParticles(Particles, Stateful, Protocol):
    """Particles whose state can be saved."""


@runtime_checkable
class StoredSampled(SampledParticles, Stateful, Protocol):
    """Sampled particles whose state can be saved."""


@dataclass(frozen=True)
class ReusingParticles:
    """Particles whose saved state has what their score keeps beside it. Satisfies `StoredParticles`."""

    own: StoredParticles
    score: ReusingScore

    @property
    def steps_per_epoch(self) -> int:
        """Those of the particles."""
        return self.own.steps_per_epoch

    def draw(self, rng: torch.Generator) -> Batch:
        """As the particles do."""
        return self.own.draw(rng)

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        """As the particles do."""
        self.own.move(index, g, lr=lr)

    def state_dict(self) -> dict[str, Any]:
        """Of both."""
        return self.own.state_dict() | {f"{_REUSED}{name}": x for name, x in self.score.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`. Raises ValueError for that of a run that reuses nothing."""
        kept = {name.removeprefix(_REUSED): x for name, x in state.items() if name.startswith(_REUSED)}
        if set(kept) != set(self.score.state_dict()):
            raise ValueError("state: expected that of a run with --guide-every above 1, got another")
        self.own.load_state_dict({name: x for name, x in state.items() if not name.startswith(_REUSED)})
        self.score.load_state_dict(kept)
