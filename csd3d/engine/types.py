"""The engine's data: the particles of a step, clean and noisy.

z    latents of the particles                      s    latents of their sources, fixed
e    the noise that was drawn for each particle    t    timestep of the prior's training schedule, the same for all
z_t  sqrt(ab_t) z + sqrt(1 - ab_t) e               s_t  sqrt(ab_t) s + sqrt(1 - ab_t) e, with the same t and the same e

Axes of every tensor: n particles, c channels, h rows and w columns of a latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Latents = Float[Tensor, "n c h w"]
"""One latent for each particle."""
Index = Int[Tensor, " n"]
"""Numbers of particles in the whole set, from 0."""


def numbers(index: Index) -> list[int]:
    """An index as Python's numbers."""
    return [int(i) for i in index]


@dataclass(frozen=True, eq=False)
class Batch:
    """The particles of one step."""

    z: Latents
    s: Latents
    index: Index
    """Which particles of the whole set they are. On the CPU, wherever the latents are."""
    t: int | None = None
    """Timestep of the step, where all batches of an epoch share one; None: drawn for this step."""
    anchors: Int[Tensor, " k"] | None = None
    """Places in the batch of particles that are not moved. None: all are."""


@dataclass(frozen=True, eq=False)
class Noised:
    """The particles of one step at noise level t. `Schedule.noised` makes one; z_t and s_t carry no graph."""

    z: Latents
    s: Latents
    index: Index
    e: Latents
    t: int
    z_t: Latents
    s_t: Latents
    anchors: Int[Tensor, " k"] | None = None
    """As in `Batch`."""

    @classmethod
    def from_noisy(cls, x_t: Latents, t: int, s: Latents, index: Index) -> "Noised":
        """Noisy latents `x_t` of which clean part and noise are not known (NaN), as in a sampler.

        `score.target` and `score.source` of it are the predictions for x_t under the two conditions.
        """
        nan = torch.full_like(x_t, torch.nan)
        return cls(nan, s, index, nan, t, x_t, x_t)

    def rows(self, places: Sequence[int] | slice) -> "Noised":
        """Some of the particles, by their places in this batch; none of them is an anchor any more."""
        z, s, index, e, z_t, s_t = (x[places] for x in (self.z, self.s, self.index, self.e, self.z_t, self.s_t))
        return Noised(z, s, index, e, self.t, z_t, s_t)
