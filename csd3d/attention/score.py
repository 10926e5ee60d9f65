"""A prior whose attention can be controlled, as the engine sees it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from csd3d.attention.control import Control
from csd3d.attention.rows import Role, Rows
from csd3d.attention.sites import Site
from csd3d.attention.words import Tokens
from csd3d.engine.residuals import Score
from csd3d.engine.types import Index, Latents, Noised

MapEnergy = Callable[[Float[Tensor, "r l a b"], Rows], Float[Tensor, " r"]]
"""From cross-attention maps of some rows and what these are to an energy of each, which depends on its own alone."""


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

    @property
    def wordless_branch(self) -> Mapping[str, str]:
        """For each branch of a target, the one like it without a sentence, in which a reference picture is read."""
        ...

    def read(self, role: Role) -> tuple[Tokens, ...]:
        """The sentences of targets, or of sources; none where they have none."""
        ...

    def target_branch(self, x: Noised, branch: str) -> Latents:
        """Noise in `x.z_t` by one branch of a target alone, without guidance."""
        ...

    def noise_in(self, output: Latents, x: Noised) -> Latents:
        """The noise in `x.z_t` that an output of the network means."""
        ...

    def output_of(self, e: Latents, x: Noised) -> Latents:
        """The output of the network that means noise `e` in `x.z_t`."""
        ...

    def controlled(self, controls: Sequence[Control]) -> AbstractContextManager[None]:
        """Within the context its predictions are controlled. Not to be entered twice at a time.

        Raises:
            ValueError: the network cannot be controlled.
        """
        ...

    def encode(self, sentences: Sequence[str]) -> tuple[Float[Tensor, "k l d"], tuple[Tokens, ...]]:
        """Embeddings of sentences, on the prior's device, and their tokens. Raises UnknownPrompt as the prior does."""
        ...


@dataclass(frozen=True, eq=False)
class MapsRead:
    """Cross-attention maps of particles, and an energy of them."""

    maps: Float[Tensor, "n l a b"]
    energy: Float[Tensor, " n"]
    gradient: Latents | None
    """By the noisy latents; None unless it was asked for."""

    def where(self, z: Latents) -> "MapsRead":
        """On the device of `z`, the gradient in its precision."""
        slope = None if self.gradient is None else self.gradient.to(z)
        return MapsRead(self.maps.to(z.device), self.energy.to(z.device), slope)


@runtime_checkable
class Steerable(Controllable, Protocol):
    """One that differentiates through its maps."""

    def read_energy(
        self,
        z_t: Latents,
        t: int,
        index: Index,
        *,
        sites: Sequence[Site],
        energy: MapEnergy,
        s: Latents | None = None,
        controls: Sequence[Control] = (),
        gradient: bool = True,
    ) -> MapsRead:
        """Maps of `sites`, of one level, in the row of noisy particles that reads their sentence.

        Args:
            z_t: at timestep `t`.
            index: their numbers.
            s: their clean sources, for priors that look at them.
            controls: act meanwhile.
        """
        ...
