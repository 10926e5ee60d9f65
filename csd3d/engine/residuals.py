"""What one particle wants before particles are coupled: a target prediction minus a baseline.

    noise baseline    r_i = eps(z_t,i | target) - e_i                  SDS, CSD
    source baseline   r_i = eps(z_t,i | target) - eps(s_t,i | source)  DDS, CDS, CSD-Edit

z_t, s_t  noisy latents of a particle and of its source, with the same t and the same noise e (see `Noised`)

A source baseline is a difference of velocities and an anchor. With sigma the flow level of t, v = e - z a velocity:

    r_i = (1 - sigma) (v(z_t,i) - v(s_t,i)) + (1 - sigma) (z_i - s_i)

FlowEdit (Kulikov et al. 2024) moves along the velocities alone, and looks at z_t,i + sqrt(1 - ab) (z_i - s_i), where
the particle is as far from its source as without noise. DVRF (Choi et al. 2026, eta = 1 - anchor) goes from the one to
the other. `anchored` moves the noisy particle, `released` takes the anchor away:

    z_t <- z_t + (1 - anchor) sqrt(1 - ab) (z - s)        r <- r - (1 - anchor) (z - s)
"""

from dataclasses import replace
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


def anchored(x: Noised, schedule: Schedule, anchor: float) -> Noised:
    """`x` with particles as near to their noisy sources as `anchor` holds them; 1 = `x` itself."""
    if anchor == 1:
        return x
    return replace(x, z_t=x.z_t + (1 - anchor) * schedule.weight(x.t) ** 0.5 * (x.z - x.s))


def released(r: Latents, x: Noised, anchor: float) -> Latents:
    """A source baseline at `anchored` particles without the part of the anchor that is let go."""
    return r if anchor == 1 else r - (1 - anchor) * (x.z - x.s)
