"""A prior whose attention can be controlled, as the engine sees it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from csd3d.attention.control import Control
from csd3d.attention.rows import Role
from csd3d.attention.sites import Site
from csd3d.attention.words import Tokens
from csd3d.engine.residuals import Score


@runtime_checkable
class Controllable(Score, Protocol):
    """A `Score` of a network with sites."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where its network can be controlled, in the order in which it computes."""
        ...

    @property
    def source_branch(self) -> Mapping[str, str]:
        """For each branch of a target, the branch of a source that it is compared with."""
        ...

    def read(self, role: Role) -> tuple[Tokens, ...]:
        """The sentences of targets, or of sources; none where they have none."""
        ...

    def controlled(self, controls: Sequence[Control]) -> AbstractContextManager[None]:
        """Within the context its predictions are controlled. Not to be entered twice at a time.

        Raises:
            ValueError: the network cannot be controlled.
        """
        ...
