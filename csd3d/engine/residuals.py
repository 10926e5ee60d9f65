"""What one particle wants, before it hears from the others: a target prediction minus a baseline.

    noise baseline    r_i = eps(z_t,i | target) - e_i                  SDS, CSD
    source baseline   r_i = eps(z_t,i | target) - eps(s_t,i | source)  DDS, CDS, CSD-Edit

    z_t,i = sqrt(ab_t) z_i + sqrt(1 - ab_t) e_i
    s_t,i = sqrt(ab_t) s_i + sqrt(1 - ab_t) e_i       the same t and the same noise as its particle

z  latent of the particle        s  latent of its source, fixed        e  the noise that was drawn
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine.schedule import Schedule


@runtime_checkable
class Score(Protocol):
    """A prior with its prompts and guidance scales: all that the engine knows about a diffusion model.

    `t` is a timestep of `schedule`; `s` the clean source latents; `index` says which particles of the whole set
    these are, for conditions that differ between them. Predictions are guided noise predictions in the dtype and on
    the device of the latents. A particle's prediction depends on that particle alone, so an implementation may split
    the batch into chunks, or over machines, as it likes.
    """

    @property
    def schedule(self) -> Schedule:
        """The noise schedule the model was trained with."""
        ...

    def target(
        self, z_t: Float[Tensor, "n c h w"], t: int, s: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """Noise in the edited latents `z_t` under the condition of the edit (text, and the image if it takes one)."""
        ...

    def source(
        self, s_t: Float[Tensor, "n c h w"], t: int, s: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """Noise in the source latents `s_t` under the condition of the source: image only, or the source prompt."""
        ...


def noise_baseline(
    score: Score,
    z_t: Float[Tensor, "n c h w"],
    s: Float[Tensor, "n c h w"],
    index: Int[Tensor, " n"],
    *,
    t: int,
    e: Float[Tensor, "n c h w"],
) -> Float[Tensor, "n c h w"]:
    """r = eps(z_t | target) - e. Never calls `score.source`."""
    return score.target(z_t, t, s, index) - e


def source_baseline(
    score: Score,
    z_t: Float[Tensor, "n c h w"],
    s: Float[Tensor, "n c h w"],
    index: Int[Tensor, " n"],
    *,
    t: int,
    e: Float[Tensor, "n c h w"],
) -> Float[Tensor, "n c h w"]:
    """r = eps(z_t | target) - eps(s_t | source): zero where the edit asks for nothing."""
    s_t = score.schedule.add_noise(s, e, t)
    return score.target(z_t, t, s, index) - score.source(s_t, t, s, index)
