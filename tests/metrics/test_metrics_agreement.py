"""Agreement: exact cases, edge sizes, chance by counting."""

import itertools
import math

import pytest
import torch

from csd3d.metrics import agreement, chance_agreement, is_any_nearest, variety, window_choices


def _flat(*levels: float, size_px: int = 4) -> torch.Tensor:
    return torch.tensor(levels)[:, None, None, None].expand(-1, 3, size_px, size_px).contiguous()


def test_agreement_is_the_share_of_the_most_frequent_choice() -> None:
    assert agreement(torch.tensor([2, 2, 2, 2])) == 1.0
    assert agreement(torch.tensor([0, 1, 1, 4])) == 0.5
    assert agreement(torch.tensor([0, 1])) == 0.5
    assert agreement(torch.tensor([3])) == 1.0
    assert math.isnan(agreement(torch.zeros(0, dtype=torch.long)))


def test_agreement_knows_no_order() -> None:
    choices = torch.randint(0, 4, (17,), generator=torch.Generator().manual_seed(0))
    assert agreement(choices) == agreement(choices.flip(0)) == agreement((choices + 1) % 4)


@pytest.mark.parametrize(("count", "members"), [(1, 3), (2, 3), (3, 3), (4, 2), (5, 4), (6, 1)])
def test_chance_agreement_is_the_mean_over_all_choices(count: int, members: int) -> None:
    every = [agreement(torch.tensor(c)) for c in itertools.product(range(members), repeat=count)]
    assert chance_agreement(count, members) == pytest.approx(sum(every) / len(every))


def test_chance_agreement_of_many_nears_an_equal_share() -> None:
    drawn = torch.randint(0, 5, (20_000, 24), generator=torch.Generator().manual_seed(0))
    largest = torch.nn.functional.one_hot(drawn, 5).sum(1).amax(1).double().mean().item() / 24
    assert chance_agreement(24, 5) == pytest.approx(largest, abs=0.003)
    assert 1 / 3 < chance_agreement(100, 3) < 0.4


@pytest.mark.parametrize(("count", "members"), [(0, 3), (3, 0)])
def test_chance_agreement_refuses_nothing(count: int, members: int) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        chance_agreement(count, members)


def test_variety_counts_members_that_come_equally_often() -> None:
    assert variety(torch.tensor([1, 1, 1])) == 1.0
    assert variety(torch.tensor([0, 1, 2, 3])) == pytest.approx(4.0)
    assert variety(torch.tensor([0, 0, 5, 5])) == pytest.approx(2.0)
    assert 1 < variety(torch.tensor([0, 0, 0, 1])) < 2
    assert math.isnan(variety(torch.zeros(0, dtype=torch.long)))


def test_any_of_the_right_truths_will_do() -> None:
    truths = torch.stack([_flat(0.0, 0.0), _flat(0.5, 0.5), _flat(1.0, 1.0)])
    output = _flat(0.9, 0.1)
    assert is_any_nearest(output, truths, (1, 2)).tolist() == [True, False]
    assert is_any_nearest(output, truths, (0, 2)).tolist() == [True, True]
    assert is_any_nearest(_flat(0.25, 0.75), truths, (1,)).tolist() == [True, True]  # ties


@pytest.mark.parametrize("right", [(), (3,), (-1, 0)])
def test_what_is_right_must_be_there(right: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="right: expected some numbers of truths, 0 to 2"):
        is_any_nearest(_flat(0.0), torch.stack([_flat(0.0)] * 3), right)


def test_windows_choose_for_themselves() -> None:
    truths = _flat(0.0, 1.0, size_px=8)
    output = torch.zeros(3, 8, 8)
    output[:, :, 4:] = 0.8  # the right half shows the other member
    choices = window_choices(output, truths, size_px=4, stride_px=4)
    assert choices.tolist() == [0, 1, 0, 1]
    assert agreement(choices) == 0.5
    assert window_choices(output, truths, size_px=8, stride_px=1).tolist() == [0]
    assert len(window_choices(output, truths, size_px=4, stride_px=2)) == 9


def test_windows_that_cannot_tell_are_left_out() -> None:
    truths = torch.zeros(3, 3, 8, 8)
    truths[1, :, :4, :4], truths[2, :, :4, :4] = 0.5, 1.0  # the members differ in one quarter
    assert window_choices(truths[2], truths, size_px=4, stride_px=4).tolist() == [2]
    assert len(window_choices(truths[0], truths[:1].expand(2, -1, -1, -1), size_px=4, stride_px=4)) == 0


@pytest.mark.parametrize(("size_px", "stride_px"), [(0, 1), (9, 1), (4, 0)])
def test_windows_must_fit(size_px: int, stride_px: int) -> None:
    with pytest.raises(ValueError, match="windows: expected sizes of 1 to 8 px"):
        window_choices(torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8), size_px=size_px, stride_px=stride_px)


def test_one_member_leaves_no_choice() -> None:
    with pytest.raises(ValueError, match="expected those of 2 members or more, got 1"):
        window_choices(torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8), size_px=4, stride_px=4)
