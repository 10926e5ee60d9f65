"""Sampling and inversion against what is known in closed form."""

import pytest
import torch
from engine_toys import SCHEDULE, ToyScore, latents

from csd3d.engine import Latents, Noised, Schedule, ddim_step, invert, sample, timesteps
from csd3d.engine.ddim import CLEAN, alpha_bar, clean

MEAN, VARIANCE = 0.7, 0.3


class Gaussian:
    """The exact score of data N(MEAN, VARIANCE): eps(x, t) = (x - sqrt(ab) m) sqrt(1 - ab) / (ab v + 1 - ab)."""

    schedule: Schedule = SCHEDULE

    def target(self, x: Noised) -> Latents:
        return self.source(x)

    def source(self, x: Noised) -> Latents:
        ab = self.schedule.alpha_bar(x.t)
        return (x.z_t - ab**0.5 * MEAN) * (1 - ab) ** 0.5 / (ab * VARIANCE + 1 - ab)


class Constant(Gaussian):
    """Of one picture and one noise: whatever it is shown, that noise. Its inverse is exact at any number of steps."""

    def source(self, x: Noised) -> Latents:
        return torch.full_like(x.z_t, 0.25)


def test_timesteps_rise_evenly_to_the_noisiest() -> None:
    assert timesteps(5, 1000) == (199, 399, 599, 799, 999)
    assert timesteps(3, 10) == (3, 6, 9)
    assert timesteps(4, 4) == (0, 1, 2, 3)
    for steps, t_max in ((0, 10), (11, 10)):
        with pytest.raises(ValueError, match="steps: expected 1 to 10"):
            timesteps(steps, t_max)


def test_a_step_there_and_back_is_none_and_goes_to_the_clean_estimate() -> None:
    x, e = latents(2).double(), latents(2, seed=1).double()
    there = ddim_step(x, e, 0.9, 0.2)
    torch.testing.assert_close(ddim_step(there, e, 0.2, 0.9), x, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(ddim_step(x, e, 0.9, 1.0), clean(x, e, 0.9), atol=0, rtol=0)
    torch.testing.assert_close(there, 0.2**0.5 * (x - 0.1**0.5 * e) / 0.9**0.5 + 0.8**0.5 * e, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 7])
def test_where_the_noise_does_not_depend_on_the_latent_the_round_trip_is_exact(steps: int) -> None:
    s, levels = latents(2).double(), timesteps(steps, 1000)
    *_, x = invert(Constant(), s, levels)
    ab = SCHEDULE.alpha_bar(999)
    torch.testing.assert_close(x, ab**0.5 * s + (1 - ab) ** 0.5 * 0.25, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(sample(Constant(), x, s, levels), s, atol=1e-10, rtol=1e-10)


def test_inversion_of_gaussian_data_comes_to_the_known_noise_at_first_order() -> None:
    s, ab, errors, trips = latents(4).double(), SCHEDULE.alpha_bar(999), [], []
    exact = ab**0.5 * MEAN + (s - MEAN) * ((ab * VARIANCE + 1 - ab) / VARIANCE) ** 0.5
    for steps in (50, 200, 1000):
        levels = timesteps(steps, 1000)
        *_, x = invert(Gaussian(), s, levels)
        errors.append(float((x - exact).square().mean().sqrt()))
        trips.append(float((sample(Gaussian(), x, s, levels) - s).square().mean().sqrt()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2], "four or five times as many steps each"
    assert trips[0] > 3 * trips[1] > 9 * trips[2]
    assert errors[2] < 0.005
    assert trips[2] < 0.01


def test_rounds_of_the_fixed_point_make_the_way_back_exact() -> None:
    s, levels, errors = latents(4).double(), timesteps(20, 1000), []
    for rounds in (0, 1, 4, 60):
        *_, x = invert(Gaussian(), s, levels, rounds=rounds)
        errors.append(float((sample(Gaussian(), x, s, levels) - s).square().mean().sqrt()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[3] < 1e-9


def test_levels_between_are_those_of_loops_over_the_formula() -> None:
    s, levels = latents(2), timesteps(3, 1000)
    score, x, t = ToyScore(), s, CLEAN
    for to, got in zip(levels, invert(score, s, levels), strict=True):
        e = score.source(Noised.from_noisy(x, max(t, 0), s, torch.arange(2)))
        x = ddim_step(x, e, alpha_bar(SCHEDULE, t), alpha_bar(SCHEDULE, to))
        t = to
        assert torch.equal(got, x)
