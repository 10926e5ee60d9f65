"""Ways of moving frames or views together that differ from the editor's in one thing each."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from csd3d.engine.config import CsdConfig
from csd3d.engine.kernels import SAME_RMS, median_gamma, sq_distances
from csd3d.engine.residuals import Score
from csd3d.engine.schedule import Schedule
from csd3d.engine.stein import KernelSums, RbfKernel
from csd3d.engine.types import Index, Latents, Noised
from scripts.benchmarks.video_methods import Method, collaboration

Ablation = Literal["particles", "kernel", "levels", "baseline"]
PARTICLES = (1, 2, 4, 8, 16, 24)
GAMMAS = (0.0625, 0.25, 4.0)
"""Of the median rule's."""
HIGH_NOISE = 500
"""The timestep from which guidance counts where it shall count at high noise only."""


@dataclass(frozen=True)
class ScaledKernel:
    """The scalar kernel with a multiple of the gamma that the median rule gives; satisfies `Kernel`."""

    factor: float

    def __call__(self, r: Latents, x: Latents, index: Index) -> tuple[KernelSums]:
        """One band."""
        gamma = self.factor * median_gamma(sq_distances(x), "median", floor=SAME_RMS**2 * x[0].numel())
        return RbfKernel(float(gamma))(r, x, index)


@dataclass(frozen=True, eq=False)
class OwnBaseline:
    """A `Score` whose baseline is the prediction for the noisy particle without the instruction, not for its source.

    What is left is the direction of the instruction alone, which does not vanish where an edit is done.
    """

    score: Score

    @property
    def schedule(self) -> Schedule:
        """That of the score."""
        return self.score.schedule

    def target(self, x: Noised) -> Latents:
        """That of the score."""
        return self.score.target(x)

    def source(self, x: Noised) -> Latents:
        """Of `x.z_t`."""
        return self.score.source(replace(x, s_t=x.z_t))


def ablated(names: Collection[Ablation], csd: CsdConfig, frames: int) -> dict[str, Method]:
    """The rows of the named ablations of `csd` for `frames` particles, the editor's own way the first of them."""
    svgd = replace(csd, coupling="svgd")
    rows = {"csd-edit, SVGD": collaboration(svgd)}
    if "particles" in names:
        rows |= {f"{n} a step": collaboration(svgd, frames_per_step=n) for n in PARTICLES if n <= frames}
    if "kernel" in names:
        rows |= _kernels(svgd, frames)
    if "levels" in names:
        rows |= {row: collaboration(one) for row, one in _levels(svgd).items()}
    if "baseline" in names:
        rows |= _baselines(svgd)
    return rows


def _kernels(svgd: CsdConfig, frames: int) -> dict[str, Method]:
    """From each for itself to all alike; the published bandwidth needs three particles."""
    rows = {"csd-edit, independent": collaboration(replace(svgd, coupling="independent"))}
    rows |= {f"gamma {f:g} of the median": collaboration(svgd, kernel=ScaledKernel(f)) for f in GAMMAS}
    if frames > 2:
        rows["bandwidth, paper"] = collaboration(replace(svgd, bandwidth="paper"))
    return rows | {
        "bandwidth 0": collaboration(replace(svgd, bandwidth=0.0)),
        "kernel on clean latents": collaboration(replace(svgd, kernel_on="clean")),
        "kernel on features": collaboration(replace(svgd, kernel_on="features")),
    }


def _levels(svgd: CsdConfig) -> dict[str, CsdConfig]:
    """Which noise levels moves are at, and where guidance counts."""
    rows = {
        "t at random": replace(svgd, timesteps="random"),
        "t up to 980": replace(svgd, t_max=980),
        "more moves at high noise, shift 2": replace(svgd, shift=2.0),
        "more moves at high noise, shift 4": replace(svgd, shift=4.0),
        "twice the moves": replace(svgd, steps=2 * svgd.steps, lr=svgd.lr / 2),
    }
    for scale in (1.5, 3.0):
        guided = replace(svgd, s_text=scale, s_image=1.5)
        rows |= {
            f"guidance {scale:g}": guided,
            f"guidance {scale:g} from t = {HIGH_NOISE}": replace(guided, guide_min=HIGH_NOISE),
        }
    return rows


def _baselines(svgd: CsdConfig) -> dict[str, Method]:
    """What the prediction under the instruction is compared with; at the editor's guidance and at a larger one."""
    rows = {}
    for label, base in (("", svgd), (", guidance 3", replace(svgd, s_text=3.0, s_image=1.5))):
        rows |= {
            f"baseline: the noise{label}": collaboration(replace(base, residual="noise")),
            f"baseline: the source{label}": collaboration(base),
            f"baseline: the particle itself{label}": collaboration(base, over=OwnBaseline),
        }
    del rows["baseline: the source"]  # that is the editor's own way
    return rows
