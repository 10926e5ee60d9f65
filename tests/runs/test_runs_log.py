"""The log of a run's steps: what it keeps of the gradient, that it goes on where it was, and what is drawn of it."""

import numpy as np
import pytest
import torch

from csd3d.engine.loop import StepInfo
from csd3d.engine.step import StepResult
from csd3d.engine.types import Batch
from csd3d.runs.log import StepLog, heat

COUNT, SHAPE = 7, (4, 3, 5)


def steps(log: StepLog, first: int, last: int) -> list[torch.Tensor]:
    """Steps in which the even particles take part and, every other time, all; returns their gradients."""
    gradients = []
    for step in range(first, last):
        index = torch.arange(0, COUNT, 2 if step % 2 else 1)
        g = torch.randn(len(index), *SHAPE, generator=torch.Generator().manual_seed(step))
        log.watch(Batch(g, g, index), StepResult(g, g, None))
        log.add(StepInfo(step, 100 + step, 0.5, tuple(index.tolist()), 1.0 + step, 2.0, None if step % 2 else 0.25))
        gradients.append(g)
    return gradients


def test_gradients_are_summed_over_stretches_of_updates_that_double() -> None:
    log = StepLog(COUNT)
    gradients = steps(log, 0, 11)
    state = log.state_dict()
    assert {name for name in state if name.startswith("gradient.")} == {"gradient.0", "gradient.3", "gradient.6"}
    assert state["updates"].tolist() == [11, 6, 11]  # particle 3 is odd
    last = torch.stack([g[-1] for g in gradients])  # particle 6 is the last of every step
    wanted = torch.stack([last[a:b].sum(0) for a, b in ((0, 1), (1, 3), (3, 7), (7, 11))])
    torch.testing.assert_close(state["gradient.6"], wanted)
    assert len(state["gradient.3"]) == 3  # 1, 2-3, 4-6


@pytest.mark.parametrize("stop", [0, 1, 4, 10])
def test_stopped_and_gone_on_is_the_same_to_the_bit(stop: int) -> None:
    whole, first, second = StepLog(COUNT), StepLog(COUNT), StepLog(COUNT)
    steps(whole, 0, 11)
    steps(first, 0, stop)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    assert second.done == stop
    steps(second, stop, 11)
    a, b = whole.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name].nan_to_num(), b[name].nan_to_num()) for name in a)
    assert whole.infos == second.infos
    assert whole.infos[0].kernel_mean == 0.25
    assert whole.infos[1].kernel_mean is None


def test_steps_that_were_logged_with_fewer_numbers_are_read() -> None:
    log, other = StepLog(COUNT), StepLog(COUNT)
    steps(log, 0, 4)
    state = log.state_dict()
    other.load_state_dict({**state, "curves": state["curves"][:, :5]})
    assert other.infos == log.infos
    assert other.infos[0].edit_rms is None


def test_the_picture_has_a_row_a_particle_and_shows_where_the_gradient_is() -> None:
    log = StepLog(2)
    g = torch.zeros(1, 4, 4, 4)
    g[0, :, 1, 2] = 0.3
    for _ in range(5):
        log.watch(Batch(g, g, torch.tensor([1])), StepResult(g, g, None))
    shown = []

    def show(i: int) -> tuple[str, torch.Tensor]:
        shown.append(i)
        return f"frame {i}", torch.full((1, 4, 200, 200), 0.5)

    def decode(z: torch.Tensor) -> torch.Tensor:
        assert z.shape[-2:] == (64, 64)  # never a large one
        return z[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)

    picture = log.picture(show, decode)
    assert picture is not None
    assert shown == [1]  # particle 0 had no turn
    white = (np.asarray(picture) == 255).all(2).sum()
    assert white == 3 * (160 // 4) ** 2  # one place in each of three stretches


def test_a_large_particle_is_decoded_smaller_with_even_sides() -> None:
    log, z, seen = StepLog(1), torch.randn(1, 4, 66, 97), list[tuple[int, ...]]()
    log.watch(Batch(z, z, torch.arange(1)), StepResult(z, z, None))

    def decode(z: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(z.shape[-2:]))
        return torch.zeros(1, 3, 8, 8)

    assert log.picture(lambda i: ("a", z), decode) is not None
    assert seen == [(44, 64)], "a codec that reads patches of 2 x 2 can take it"


def test_nothing_moved_nothing_drawn() -> None:
    assert StepLog(2).picture(lambda i: ("", torch.zeros(1, 4, 8, 8)), lambda z: z) is None
    assert StepLog(3).curves() == []


def test_heat_is_black_for_none_and_white_for_the_most() -> None:
    g = torch.zeros(2, 4, 2, 2)
    g[0, 0, 0, 0], g[0, 1, 1, 1] = -4.0, 2.0
    picture = heat(g)
    assert picture[0, :, 0, 0].tolist() == [1, 1, 1]
    assert picture[0, :, 1, 1].tolist() == [1, 0.5, 0]
    assert picture[1].max() == 0
