"""The data of a step: made once, some of it, and what a sampler has."""

import pytest
import torch
from engine_toys import SCHEDULE, ToyScore, latents, noised

from csd3d.engine import Batch, Noised


def test_particles_and_sources_have_the_same_noise_at_the_same_level() -> None:
    z, s, e = (latents(3, seed) for seed in (1, 2, 3))
    x = noised(z.requires_grad_(), s, torch.tensor([7, 2, 5]), t=300, e=e)
    ab = SCHEDULE.alpha_bar(300)
    for i in range(3):
        torch.testing.assert_close(x.z_t[i], ab**0.5 * z.detach()[i] + (1 - ab) ** 0.5 * e[i])
        torch.testing.assert_close(x.s_t[i] - x.z_t[i], ab**0.5 * (s - z.detach())[i])
    assert x.z is z
    assert not x.z_t.requires_grad


def test_rows_are_those_particles_with_all_that_is_theirs() -> None:
    z, s, e = (latents(4, seed) for seed in (1, 2, 3))
    index, places = torch.tensor([7, 2, 5, 9]), [3, 1]
    some = noised(z, s, index, t=300, e=e).rows(places)
    alone = noised(z[places], s[places], index[places], t=300, e=e[places])
    assert some.t == alone.t == 300
    for name in ("z", "s", "index", "e", "z_t", "s_t"):
        assert torch.equal(getattr(some, name), getattr(alone, name))


def test_predictions_for_noisy_latents_alone_are_those_of_the_step() -> None:
    z, s, e = (latents(3, seed) for seed in (1, 2, 3))
    x = noised(z, s, torch.arange(3), t=300, e=e)
    assert torch.equal(ToyScore().target(Noised.from_noisy(x.z_t, 300, s, x.index)), ToyScore().target(x))
    assert torch.equal(ToyScore().source(Noised.from_noisy(x.s_t, 300, s, x.index)), ToyScore().source(x))
    assert Noised.from_noisy(x.z_t, 300, s, x.index).z.isnan().all()


def test_a_timestep_outside_the_schedule_is_refused() -> None:
    z = latents(2)
    with pytest.raises(ValueError, match="t: expected a timestep in"):
        SCHEDULE.noised(Batch(z, z, torch.arange(2)), 1000, z)
