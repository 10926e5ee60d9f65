"""Anchors as references: editors that take several pictures are shown the sources of a step's anchors beside the
source that they edit, as further pictures of their call.

As in shared attention a particle depends on itself and on the anchors alone, and no anchor is shown to itself. The
sources of the anchors stay as they are while particles move, so what is recorded of them can be kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from csd3d.attention.attended import anchors_of
from csd3d.engine.residuals import Score
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Index, Latents, Noised, numbers


@dataclass(frozen=True, eq=False)
class Anchors:
    """Those of one step."""

    s: Float[Tensor, "k c h w"]
    """Their sources."""
    index: tuple[int, ...]
    """Their numbers in the whole set of particles."""

    def shown_to(self, index: Index) -> list[list[Float[Tensor, "c h w"]]]:
        """For each particle by its number: the sources of the anchors but for itself."""
        return [[s for s, own in zip(self.s, self.index, strict=True) if own != i] for i in numbers(index)]


@dataclass(frozen=True, eq=False)
class ReferringScore:
    """An editor that sees the anchors of each step. Satisfies `StepScore`."""

    schedule: Schedule
    """The prior's."""
    seeing: Callable[[Anchors], Score]
    """The score of a step with these anchors."""

    def for_step(self, x: Noised) -> Score:
        """The score of one step, of particles that are all of `x` or some of them."""
        places = anchors_of(x)
        return self.seeing(Anchors(x.s[places], tuple(numbers(x.index[places.cpu()]))))

    def target(self, x: Noised) -> Latents:
        """Of a step that is `x`."""
        return self.for_step(x).target(x)

    def source(self, x: Noised) -> Latents:
        """Of a step that is `x`."""
        return self.for_step(x).source(x)
