"""What rows leave behind for rows of other calls."""

from collections.abc import Iterable

import torch
from jaxtyping import Shaped
from torch import Tensor

from csd3d.attention.rows import Role, Rows
from csd3d.attention.sites import Site
from csd3d.attention.words import Tokens


class Bank:
    """Tensors by site, role, branch and particle. A second writing replaces the first: gradient checkpointing and a
    call that ran out of memory compute things twice."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Role, str, int], tuple[Tensor, ...]] = {}
        self._tokens: dict[tuple[Role, str, int], Tokens] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._tokens.clear()

    def detach(self) -> None:
        """Keep values without their graphs."""
        self._kept = {key: tuple(value.detach() for value in values) for key, values in self._kept.items()}

    def write(self, site: Site, rows: Rows, *values: Shaped[Tensor, "b ..."]) -> None:
        """Keep one entry of every value for each row."""
        for i, (branch, particle) in enumerate(zip(rows.branch, rows.particle, strict=True)):
            self._kept[site.name, rows.role, branch, particle] = tuple(value[i] for value in values)
            self._tokens[rows.role, branch, particle] = rows.tokens[i]

    def read(
        self, site: Site, role: Role, branches: Iterable[str], particles: Iterable[int]
    ) -> tuple[Shaped[Tensor, "b ..."], ...]:
        """The values of some rows, stacked.

        Raises:
            ValueError: such a row has left nothing.
        """
        rows: list[tuple[Tensor, ...]] = []
        for branch, particle in zip(branches, particles, strict=True):
            if (found := self._kept.get((site.name, role, branch, particle))) is None:
                raise ValueError(
                    f"attention: expected what branch {branch} of {role} {particle} left at {site.name}, got nothing: "
                    "guidance has not evaluated it"
                )
            rows.append(found)
        return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))

    def tokens(self, role: Role, branch: str, particle: int) -> Tokens:
        """The sentence that a row read which has left something."""
        return self._tokens[role, branch, particle]
