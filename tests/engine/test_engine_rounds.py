"""Everybody has a turn in every round, and all turns of a round have one timestep."""

import pytest
import torch

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import draw_timestep
from csd3d.engine.rounds import Rounds, steps_in_round


def thirds(rng):
    return list(torch.randperm(7, generator=rng).tensor_split(3))


@pytest.mark.parametrize(("count", "budget", "steps"), [(1, 1, 1), (8, 8, 1), (9, 8, 2), (7, 1, 7), (1, 100, 1)])
def test_a_round_has_as_few_steps_as_hold_everybody(count, budget, steps):
    assert steps_in_round(count, budget) == steps


def test_each_has_one_turn_in_a_round_and_the_steps_of_a_round_share_a_timestep():
    rounds, rng = Rounds(thirds, CsdConfig()), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(5):
        turns = [rounds.turn(rng) for _ in range(3)]
        assert rounds.over
        assert sorted(torch.cat([members for members, _ in turns]).tolist()) == list(range(7))
        assert len({t for _, t in turns}) == 1
        seen.add(turns[0][1])
    assert len(seen) == 5


def test_what_is_drawn_is_the_deal_and_then_the_timestep():
    config = CsdConfig()
    members, t = Rounds(thirds, config).turn(torch.Generator().manual_seed(3))
    rng = torch.Generator().manual_seed(3)
    assert torch.equal(members, thirds(rng)[0])
    assert t == draw_timestep(rng, config)


@pytest.mark.parametrize("taken", [0, 1, 3, 4])
def test_state_goes_on_within_a_round(taken):
    first, rng = Rounds(thirds, CsdConfig()), torch.Generator().manual_seed(0)
    for _ in range(taken):
        first.turn(rng)
    later = Rounds(thirds, CsdConfig())
    later.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    assert later.over == first.over
    other = torch.Generator()
    other.set_state(rng.get_state())
    for _ in range(5):
        (a, t), (b, u) = first.turn(rng), later.turn(other)
        assert torch.equal(a, b)
        assert t == u
