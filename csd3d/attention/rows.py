"""What the rows of one call of a network are: named by whoever builds them, never guessed from the batch's size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from csd3d.attention.words import Tokens

Role = Literal["source", "target", "reference"]
"""A noisy source, a noisy particle under its sentence, or a picture of which attention is borrowed."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One entry a row in `branch`, `particle` and `tokens`; the rest holds for all of them."""

    role: Role
    branch: tuple[str, ...]
    """Of guidance, see `csd3d.engine.guidance`: null, text; 00, I0, IT."""
    particle: tuple[int, ...]
    """Number in the whole set."""
    tokens: tuple[Tokens, ...]
    """The sentence that the row reads."""
    noise: float
    """Share t / T of the training schedule: near 1 = noise alone, 0 = clean."""
    size_lat: tuple[int, int]
    """Height and width of the latents."""

    @classmethod
    def of(
        cls,
        role: Role,
        branches: Sequence[str],
        particles: Sequence[int],
        reads: Callable[[str, int], Tokens],
        *,
        noise: float,
        size_lat: tuple[int, int],
    ) -> "Rows":
        """Every branch of every particle, branch by branch. `reads` gives the sentence of a branch and of the particle
        at a place."""
        pairs = [(branch, place) for branch in branches for place in range(len(particles))]
        return cls(
            role,
            tuple(branch for branch, _ in pairs),
            tuple(particles[place] for _, place in pairs),
            tuple(reads(branch, place) for branch, place in pairs),
            noise,
            size_lat,
        )

    def __len__(self) -> int:
        return len(self.branch)

    def __getitem__(self, some: slice) -> "Rows":
        """Some of the rows."""
        return replace(self, branch=self.branch[some], particle=self.particle[some], tokens=self.tokens[some])
