"""What one particle wants before particles are coupled: a target prediction minus a baseline.

    noise baseline    r_i = eps(z_t,i | target) - e_i                  SDS, CSD
    source baseline   r_i = eps(z_t,i | target) - eps(s_t,i | source)  DDS, CDS, CSD-Edit

z_t, s_t  noisy latents of a particle and of its source, with the same t and the same noise e (see `Noised`)
"""

from typing import Protocol, runtime_checkable

from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Latents, Noised


@runtime_checkable
class Score(Protocol):
    """A prior with its prompts and guidance scales: all that the engine knows about a diffusion model.

    Predictions are guided noise predictions in the dtype and on the device of the latents; `x.index` picks conditions
    that differ between particles. A particle's prediction depends on that particle alone, so an implementation may
    split the batch into chunks, or over machines.
    """

    @property
    def schedule(self) -> Schedule:
        """The noise schedule the model was trained with."""
        ...

    def target(self, x: Noised) -> Latents:
        """Noise in `x.z_t` under the condition of the edit: text, and the clean source `x.s` if the model takes one."""
        ...

    def source(self, x: Noised) -> Latents:
        """Noise in `x.s_t` under the condition of the source: `x.s` alone, or the caption of the source."""
        ...


@runtime_checkable
class StepScore(Score, Protocol):
    """A score that prepares a step: what its particles may look at besides themselves, such as anchors."""

    def for_step(self, x: Noised) -> Score:
        """What predicts in the step whose particles are `x`.

        Again a particle's prediction depends on that particle, and on what was prepared.
        """
        ...


def noise_baseline(score: Score, x: Noised) -> Latents:
    """r = eps(z_t | target) - e. Never calls `score.source`."""
    return score.target(x) - x.e


def source_baseline(score: Score, x: Noised) -> Latents:
    """r = eps(z_t | target) - eps(s_t | source): zero where the edit asks for nothing."""
    return score.target(x) - score.source(x)
