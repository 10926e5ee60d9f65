"""Every particle is in one batch of every epoch, and a saved state goes on within one."""

import pytest
import torch

from csd3d.engine.config import CsdConfig
from csd3d.engine.epochs import Epochs, steps_in_epoch
from csd3d.engine.loop import draw_timestep


def thirds(rng: torch.Generator) -> list[torch.Tensor]:
    return list(torch.randperm(7, generator=rng).tensor_split(3))


@pytest.mark.parametrize(("count", "budget", "steps"), [(1, 1, 1), (8, 8, 1), (9, 8, 2), (7, 1, 7), (1, 100, 1)])
def test_an_epoch_has_as_few_steps_as_hold_all_particles(count: int, budget: int, steps: int) -> None:
    assert steps_in_epoch(count, budget) == steps


def test_each_particle_is_in_one_batch_of_an_epoch() -> None:
    epochs, rng = Epochs(thirds), torch.Generator().manual_seed(0)
    first = set()
    for _ in range(5):
        batches = [epochs.batch(rng) for _ in range(3)]
        assert epochs.exhausted
        assert epochs.t is None
        assert sorted(torch.cat(batches).tolist()) == list(range(7))
        first.add(tuple(batches[0].tolist()))
    assert len(first) > 1


def test_nothing_is_drawn_but_the_partition() -> None:
    batch = Epochs(thirds).batch(rng := torch.Generator().manual_seed(3))
    expected = thirds(other := torch.Generator().manual_seed(3))
    assert torch.equal(batch, expected[0])
    assert torch.equal(rng.get_state(), other.get_state())


def test_a_shared_timestep_is_drawn_once_an_epoch_after_the_partition() -> None:
    config = CsdConfig()
    epochs, rng, other = Epochs(thirds, shared_t=config), *(torch.Generator().manual_seed(3) for _ in range(2))
    for _ in range(4):
        batches, t = thirds(other), draw_timestep(other, config)
        for batch in batches:
            assert torch.equal(epochs.batch(rng), batch)
            assert epochs.t == t
    assert torch.equal(rng.get_state(), other.get_state())


def test_shared_timesteps_descend_from_epoch_to_epoch() -> None:
    config = CsdConfig(timesteps="descending", steps=5, t_min=0, t_max=500)
    epochs, rng = Epochs(thirds, shared_t=config), torch.Generator().manual_seed(3)
    for number in range(5):
        for _ in range(3):
            epochs.batch(rng)
            assert epochs.t is not None
            assert 400 - 100 * number <= epochs.t < 500 - 100 * number


@pytest.mark.parametrize("taken", [0, 1, 3, 4])
@pytest.mark.parametrize("shared", [None, CsdConfig(), CsdConfig(timesteps="descending", steps=4)])
def test_state_goes_on_within_an_epoch(taken: int, shared: CsdConfig | None) -> None:
    first, rng = Epochs(thirds, shared_t=shared), torch.Generator().manual_seed(0)
    for _ in range(taken):
        first.batch(rng)
    later = Epochs(thirds, shared_t=shared)
    later.load_state_dict({name: value.clone() for name, value in first.state_dict().items()} | {"z": torch.zeros(1)})
    assert later.exhausted == first.exhausted
    other = torch.Generator()
    other.set_state(rng.get_state())
    for _ in range(5):
        assert torch.equal(first.batch(rng), later.batch(other))
        assert first.t == later.t
