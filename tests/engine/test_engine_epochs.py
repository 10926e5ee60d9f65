"""Everybody has a turn in every round, and a saved state goes on within one."""

import pytest
import torch

from csd3d.engine.epochs import Rounds, steps_in_round


def thirds(rng):
    return list(torch.randperm(7, generator=rng).tensor_split(3))


@pytest.mark.parametrize(("count", "budget", "steps"), [(1, 1, 1), (8, 8, 1), (9, 8, 2), (7, 1, 7), (1, 100, 1)])
def test_a_round_has_as_few_steps_as_hold_everybody(count, budget, steps):
    assert steps_in_round(count, budget) == steps


def test_each_has_one_turn_in_a_round():
    rounds, rng = Rounds(thirds), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(5):
        turns = [rounds.turn(rng) for _ in range(3)]
        assert rounds.over
        assert sorted(torch.cat(turns).tolist()) == list(range(7))
        seen.add(tuple(turns[0].tolist()))
    assert len(seen) > 1


def test_nothing_is_drawn_but_the_deal():
    members = Rounds(thirds).turn(rng := torch.Generator().manual_seed(3))
    expected = thirds(other := torch.Generator().manual_seed(3))
    assert torch.equal(members, expected[0])
    assert torch.equal(rng.get_state(), other.get_state())


@pytest.mark.parametrize("taken", [0, 1, 3, 4])
def test_state_goes_on_within_a_round(taken):
    first, rng = Rounds(thirds), torch.Generator().manual_seed(0)
    for _ in range(taken):
        first.turn(rng)
    later = Rounds(thirds)
    later.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    assert later.over == first.over
    other = torch.Generator()
    other.set_state(rng.get_state())
    for _ in range(5):
        assert torch.equal(first.turn(rng), later.turn(other))
