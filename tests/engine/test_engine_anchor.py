"""Between DDS and FlowEdit: velocities of a toy flow, against the published updates written out."""

from collections.abc import Callable
from math import hypot
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csd3d.engine import CsdConfig, Latents, Noised, Schedule
from csd3d.engine.loop import Objective, anchor_at, run
from csd3d.engine.step import csd_step
from csd3d.engine.types import Batch
from csd3d.media.json_file import load_json

SCHEDULE = Schedule.scaled_linear()
CONFIGS = Path(__file__).parents[2] / "configs"
FLOW: dict[str, Any] = {"coupling": "independent", "weight": "velocity", "timesteps": "descending"}


def v_target(x: Tensor, sigma: float) -> Tensor:
    return torch.sin(2 * x) * (1 + sigma) + 0.3


def v_source(x: Tensor, sigma: float) -> Tensor:
    return torch.tanh(x - 0.2) - sigma * x


class FlowScore:
    """A flow prior as the engine sees it: its velocities as noise, in variance-preserving coordinates."""

    schedule = SCHEDULE

    def target(self, x: Noised) -> Latents:
        return self._epsilon(v_target, x.z_t, x.t)

    def source(self, x: Noised) -> Latents:
        return self._epsilon(v_source, x.s_t, x.t)

    def _epsilon(self, v: Callable[[Tensor, float], Tensor], x_t: Tensor, t: int) -> Tensor:
        sigma = SCHEDULE.sigma(t)
        x = hypot(1 - sigma, sigma) * x_t
        return x + (1 - sigma) * v(x, sigma)


def latents(seed: int, n: int = 3) -> Tensor:
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("t", [1, 300, 828])
@pytest.mark.parametrize("anchor", [1.0, 0.75, 0.0])
def test_the_step_is_the_published_one(anchor: float, t: int) -> None:
    """DVRF's eta is 1 - anchor: eta 0 is DDS over 1 - sigma, eta 1 FlowEdit."""
    z, s, e = latents(1), latents(2), latents(3)
    x = SCHEDULE.noised(Batch(z, s, torch.arange(3)), t, e)
    g = csd_step(FlowScore(), x, CsdConfig(anchor=anchor, **FLOW)).g
    sigma, eta = SCHEDULE.sigma(t), 1 - anchor
    noisy, beside = (1 - sigma) * z + sigma * e + eta * sigma * (z - s), (1 - sigma) * s + sigma * e
    dvrf = v_target(noisy, sigma) - v_source(beside, sigma) + (1 - eta) * (z - s)
    torch.testing.assert_close(g, dvrf, atol=1e-7, rtol=1e-6)
    if anchor == 0:
        flowedit = v_target(beside + z - s, sigma) - v_source(beside, sigma)
        torch.testing.assert_close(g, flowedit, atol=1e-7, rtol=1e-6)
    if anchor == 1:
        plain = csd_step(FlowScore(), x, CsdConfig(coupling="independent", weight="one")).g
        torch.testing.assert_close((1 - sigma) * g, plain)


@pytest.mark.parametrize("anchor", [1.0, 0.0])
def test_a_term_has_its_own_gradient_whatever_the_anchor(anchor: float) -> None:
    """Of |z_t|^2 / 2, by differences in the term that is added."""
    z, s, e, t = latents(1), latents(2), latents(3), 300
    x, config = SCHEDULE.noised(Batch(z, s, torch.arange(3)), t, e), CsdConfig(anchor=anchor, **FLOW)

    def term(x: Noised) -> Latents:
        return SCHEDULE.alpha_bar(t) ** 0.5 * x.z_t

    added = csd_step(FlowScore(), x, config, regularisers=(term,)).g - csd_step(FlowScore(), x, config).g
    energy = torch.autograd.functional.jacobian(lambda z: SCHEDULE.add_noise(z, e, t).square().sum() / 2, z)
    torch.testing.assert_close(added, energy, atol=1e-7, rtol=1e-6)


def test_the_velocity_weight_makes_sds_the_loss_of_a_flow() -> None:
    """RFDS: the gradient of |v(x) - (e - z)|^2 / 2 by the velocity."""
    z, e, t = latents(1), latents(3), 500
    x = SCHEDULE.noised(Batch(z, z, torch.arange(3)), t, e)
    g = csd_step(FlowScore(), x, CsdConfig(residual="noise", coupling="independent", weight="velocity")).g
    sigma = SCHEDULE.sigma(t)
    torch.testing.assert_close(g, v_target((1 - sigma) * z + sigma * e, sigma) - (e - z), atol=1e-6, rtol=1e-6)


class Free:
    """Latents of which all take part in each step."""

    def __init__(self, z: Tensor, s: Tensor) -> None:
        self.z, self.s, self.steps_per_epoch = z.clone(), s, 1

    def draw(self, rng: torch.Generator) -> Batch:
        return Batch(self.z.clone(), self.s, torch.arange(len(self.z)))

    def move(self, index: Tensor, g: Tensor, *, lr: float) -> None:
        self.z = self.z - lr * g


@pytest.mark.parametrize("name", ["flowedit-sd3", "flowedit-flux", "dvrf"])
def test_presets_run_the_published_loops(name: str) -> None:
    preset: Any = load_json(CONFIGS / f"{name}.json", "preset")
    config = CsdConfig(**preset["csd"])
    s = latents(2, n=1)
    particles, rng, again = Free(s, s), torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    levels = [info.t for info in run(particles, Objective(FlowScore(), config), rng=rng)]
    assert levels == sorted(levels, reverse=True)
    z = s.clone()
    for k, t in enumerate(levels):
        assert torch.randint(config.t_min, config.t_max, (), generator=again) >= 0
        e = torch.randn(s.shape, generator=again).double()
        sigma, eta = SCHEDULE.sigma(t), 1.0 if name != "dvrf" else k / (len(levels) - 1)
        noisy, beside = (1 - sigma) * z + sigma * e + eta * sigma * (z - s), (1 - sigma) * s + sigma * e
        z = z - config.lr * (v_target(noisy, sigma) - v_source(beside, sigma) + (1 - eta) * (z - s))
    torch.testing.assert_close(particles.z, z, atol=1e-6, rtol=1e-6)


def test_the_anchor_falls_straight() -> None:
    config = CsdConfig(anchor=1.0, anchor_last=0.0, steps=5, timesteps="descending")
    assert [anchor_at(k, config) for k in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert anchor_at(3, CsdConfig()) == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchor": 0.0}, "timesteps: expected descending with an anchor below 1, got 'random'"),
        ({"anchor_last": 0.5, "residual": "noise"}, "residual: expected source with an anchor below 1, got 'noise'"),
        ({"anchor": 1.5}, "anchor: expected 0 to 1, got 1.5"),
    ],
)
def test_what_runs_away_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CsdConfig(**changes)
