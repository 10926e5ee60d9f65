"""The noise schedule: closed forms, known values of Stable Diffusion, refusals."""

import pytest
import torch
from engine_toys import SCHEDULE, generator, latents

from csd3d.engine import Schedule


def test_scaled_linear_is_stable_diffusions() -> None:
    ab = SCHEDULE.alphas_cumprod
    assert SCHEDULE.num_timesteps == 1000
    assert float(ab[0]) == pytest.approx(1 - 0.00085, abs=1e-6)
    assert float(ab[-1] / ab[-2]) == pytest.approx(1 - 0.012, abs=1e-5)
    assert float(ab[-1]) == pytest.approx(0.00466, abs=1e-5)


def test_add_noise_against_loops() -> None:
    z, e = latents(3, 1), latents(3, 2)
    ab = 1.0
    for t in range(301):
        ab *= 1 - (0.00085**0.5 + t / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2
    expected = torch.empty_like(z)
    for k in range(z.numel()):
        expected.view(-1)[k] = ab**0.5 * float(z.view(-1)[k]) + (1 - ab) ** 0.5 * float(e.view(-1)[k])
    torch.testing.assert_close(SCHEDULE.add_noise(z, e, 300), expected)
    assert SCHEDULE.weight(300) == pytest.approx(1 - ab, abs=1e-6)


@pytest.mark.parametrize("t", [0, 500, 999])
def test_noise_keeps_unit_variance(t: int) -> None:
    z, e = (torch.randn(64, 4, 16, 16, generator=generator(seed)) for seed in (1, 2))
    assert float(SCHEDULE.add_noise(z, e, t).var()) == pytest.approx(1, abs=0.03)


def test_gradient_by_z_is_sqrt_ab() -> None:
    z, e = latents(2, 1, torch.float64).requires_grad_(), latents(2, 2, torch.float64)
    SCHEDULE.add_noise(z, e, 700).sum().backward()
    torch.testing.assert_close(z.grad, torch.full_like(z, SCHEDULE.alpha_bar(700) ** 0.5))


def test_dtype_and_arguments_are_kept() -> None:
    z, e = latents(2, 1, torch.float64), latents(2, 2, torch.float64)
    before = z.clone()
    assert SCHEDULE.add_noise(z, e, 10).dtype == torch.float64
    assert torch.equal(z, before)


@pytest.mark.parametrize("t", [-1, 1000])
def test_timestep_outside_is_refused(t: int) -> None:
    with pytest.raises(ValueError, match=rf"t: expected a timestep in \[0, 1000\), got {t}"):
        SCHEDULE.add_noise(latents(1), latents(1), t)


@pytest.mark.parametrize("values", [[], [0.9, 1.1], [0.9, -0.1], [0.5, 0.6], [0.9, float("nan")]])
def test_impossible_schedules_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="alphas_cumprod: expected values"):
        Schedule(torch.tensor(values))


def test_a_shift_multiplies_the_noise() -> None:
    schedule = Schedule.scaled_linear()
    assert [schedule.shifted(t, 1.0) for t in (0, 20, 999)] == [0, 20, 999]
    for t in (20, 200, 500):
        there = schedule.shifted(t, 2.0)
        ratio = [((1 - schedule.alpha_bar(k)) / schedule.alpha_bar(k)) ** 0.5 for k in (t, there)]
        assert ratio[1] / ratio[0] == pytest.approx(2, rel=0.03)
    assert schedule.shifted(990, 4.0) == 999
    assert schedule.shifted(schedule.shifted(300, 2.0), 0.5) == 300
