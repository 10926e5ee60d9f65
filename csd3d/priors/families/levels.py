"""Every linear noising as a variance-preserving one, so that an engine that knows one of them knows all.

    x = a z + b e           what a network was trained on
    z_t = x / c             what the engine holds        c = sqrt(a^2 + b^2)        ab = a^2 / c^2

    family   a          b            reads as time   says        epsilon
    vp       sqrt ab    sqrt 1-ab    t               epsilon     out
    vp       sqrt ab    sqrt 1-ab    t               v           sqrt(ab) out + sqrt(1 - ab) z_t
    edm      c_in       c_in ve      log(ve) / 4     v           the same            ve^2 = (1 - ab) / ab
    flow     1 - sg     sg           1000 sg         velocity    x + (1 - sg) out    velocity = e - z

vp: Ho et al. 2020, v: Salimans and Ho 2022; edm: Karras et al. 2022 with sigma_data 1; flow: Lipman et al. 2023. Noise
predictions, kernel weights and deterministic steps of the three are equal in the coordinates z_t, at equal ratios of
signal to noise. Flow and EDM networks take any time, so their grid of t is free: that of Stable Diffusion, by which
t_min, t_max, w(t) and learning rates of published settings keep their meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot, log, sqrt
from typing import TYPE_CHECKING, Literal

from jaxtyping import Float
from torch import Tensor

from csd3d.engine.schedule import Schedule

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

Says = Literal["epsilon", "v", "velocity"]
Noising = Literal["vp", "edm", "flow"]


@dataclass(frozen=True)
class Level:
    """One noise level as a network knows it."""

    ab: float
    """Share of the clean latent's variance."""
    says: Says
    """What the network predicts."""
    time: float
    """What its pipeline's loop calls t."""
    scale: float = 1.0
    """c: the network reads scale * z_t."""

    def epsilon(self, out: Float[Tensor, "n c h w"], z_t: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The noise in `z_t` that the network's output means."""
        if self.says == "epsilon":
            return out
        if self.says == "v":
            return sqrt(self.ab) * out + sqrt(1 - self.ab) * z_t
        return self.scale * z_t + (1 - sigma_of(self.ab)) * out


def sigma_of(ab: float) -> float:
    """The flow level with the same ratio of signal to noise: sg / (1 - sg) = sqrt((1 - ab) / ab)."""
    noise = sqrt(1 - ab)
    return noise / (noise + sqrt(ab))


def flow_level(ab: float, num_timesteps: int = 1000) -> Level:
    """A level of a flow model."""
    sg = sigma_of(ab)
    return Level(ab, "velocity", num_timesteps * sg, scale=hypot(1 - sg, sg))


def edm_level(ab: float) -> Level:
    """A level of an EDM model that predicts v. Raises ValueError for ab 0 or 1, which it has not."""
    if not 0 < ab < 1:
        raise ValueError(f"ab: expected a share between 0 and 1, got {ab}")
    return Level(ab, "v", log((1 - ab) / ab) / 8)


@dataclass(frozen=True, eq=False)
class Levels:
    """The noise levels of a model, on the grid of its schedule."""

    noising: Noising
    says: Says
    schedule: Schedule
    num_timesteps: int = 1000

    def at(self, t: int) -> Level:
        """The level at timestep `t` of the schedule. Raises ValueError outside of it."""
        ab = self.schedule.alpha_bar(t)
        if self.noising == "flow":
            return flow_level(ab, self.num_timesteps)
        return edm_level(ab) if self.noising == "edm" else Level(ab, self.says, float(t))


def read_levels(scheduler: "SchedulerMixin") -> Levels:
    """What the network that a scheduler belongs to was trained with.

    Raises:
        ValueError: It predicts something else than epsilon, v or a velocity, or it is an EDM model of another kind.
    """
    from csd3d.priors.store.load import read_schedule  # slow to import

    config: Mapping[str, object] = scheduler.config  # pyright: ignore[reportAttributeAccessIssue]  # of a mixin
    name = type(scheduler).__name__
    prediction = config.get("prediction_type")
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas") or prediction == "flow_prediction":
        count = config.get("num_train_timesteps", 1000)
        assert isinstance(count, int)
        return Levels("flow", "velocity", Schedule.scaled_linear(), count)
    if name.startswith("EDM"):
        if prediction != "v_prediction" or config.get("sigma_data") != 1:
            raise ValueError(
                f"scheduler {name}: expected v_prediction with sigma_data 1, got {prediction!r} with "
                f"{config.get('sigma_data')}"
            )
        return Levels("edm", "v", Schedule.scaled_linear())
    schedule, said = read_schedule(scheduler)
    return Levels("vp", "epsilon" if said == "epsilon" else "v", schedule)
