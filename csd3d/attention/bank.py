"""What rows leave behind for rows of other calls."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from csd3d.attention.rows import Role, Rows
from csd3d.attention.sites import Site


class Bank:
    """Tensors by site, role, branch and particle. A second writing replaces the first: gradient checkpointing and a
    call that ran out of memory compute things twice."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Role, str, int], tuple[Tensor, ...]] = {}

    def write(self, site: Site, rows: Rows, *values: Shaped[Tensor, "b ..."]) -> None:
        """Keep one entry of every value for each row."""
        for i, (branch, particle) in enumerate(zip(rows.branch, rows.particle, strict=True)):
            self._kept[site.name, rows.role, branch, particle] = tuple(value[i] for value in values)

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

    def rows(self, site: Site) -> Sequence[tuple[Role, str, int]]:
        """Role, branch and particle of all that was left at a site, sorted."""
        return sorted(key[1:] for key in self._kept if key[0] == site.name)
