"""Work in pieces: the pieces cover the whole, and running out of memory makes them smaller."""

import pytest
import torch
from torch import Tensor

from csd3d.priors.networks.chunks import CPU_BUDGET_BYTES, Chunks

CPU = torch.device("cpu")


class Machine:
    """Squares numbers, and runs out of memory above `room` rows a call."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.x = torch.arange(23.0)[:, None]
        self.sizes: list[int] = []

    def __call__(self, rows: slice) -> Tensor:
        size = rows.stop - rows.start
        if size > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nAnd more lines.")
        self.sizes.append(size)
        return self.x[rows] ** 2


@pytest.mark.parametrize("most", [1, 2, 3, 7, 22, 23, 100])
def test_any_size_of_piece_gives_the_same(most: int) -> None:
    machine = Machine(room=most)
    out = Chunks(CPU, max_rows=most).map(machine, 23, row_bytes=4)
    assert torch.equal(out, machine.x**2)
    assert max(machine.sizes) - min(machine.sizes) <= 1
    assert len(machine.sizes) == -(-23 // most)


@pytest.mark.parametrize("room", [1, 2, 5, 22])
def test_out_of_memory_halves_the_piece_and_goes_on(room: int) -> None:
    machine = Machine(room)
    chunks = Chunks(CPU, max_rows=23)
    assert torch.equal(chunks.map(machine, 23, row_bytes=1000), machine.x**2)
    assert chunks.notes
    assert "ran out of memory with 23 rows in one call; going on with 11" in chunks.notes[0]


def test_what_was_learnt_is_kept_and_scales_with_the_size_of_rows() -> None:
    machine = Machine(room=6)
    chunks = Chunks(CPU, max_rows=23)
    chunks.map(machine, 23, row_bytes=1000)
    notes = len(chunks.notes)
    chunks.map(machine, 23, row_bytes=1000)
    assert len(chunks.notes) == notes  # no second surprise
    assert chunks.rows(1000) <= 6
    assert chunks.rows(4000) <= 2
    assert chunks.rows(250) == 4 * chunks.rows(1000)


def test_finished_pieces_are_not_computed_again() -> None:
    machine = Machine(room=8)
    calls: list[slice] = []

    def call(rows: slice) -> Tensor:
        if rows.start >= 16:
            machine.room = 1
        result = machine(rows)
        calls.append(rows)
        return result

    out = Chunks(CPU, max_rows=8).map(call, 23, row_bytes=4)
    assert torch.equal(out, machine.x**2)
    covered = [i for rows in calls for i in range(rows.start, rows.stop)]
    assert covered == list(range(23))


def test_one_row_that_does_not_fit_is_said_in_one_line() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="not even one picture") as caught:
        Chunks(CPU).map(Machine(room=0), 4, row_bytes=4)
    assert "\n" not in str(caught.value)


def test_other_errors_pass_through() -> None:
    def broken(rows: slice) -> Tensor:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Chunks(CPU).map(broken, 4, row_bytes=4)


def test_the_budget_decides_the_size() -> None:
    assert Chunks(CPU, budget_bytes=1000).rows(100) == 10
    assert Chunks(CPU, budget_bytes=1000).rows(3000) == 1
    assert Chunks(CPU).rows(1) == 40
    assert Chunks(CPU).rows(CPU_BUDGET_BYTES // 3) == 3


@pytest.mark.parametrize("setting", ["budget_bytes", "max_rows"])
def test_settings_that_make_no_sense_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting}: expected 1 or more, got 0"):
        Chunks(CPU, **{setting: 0})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="total"):
        Chunks(CPU).map(Machine(1), 0, row_bytes=4)


def test_gradients_flow_through_the_pieces() -> None:
    x = torch.arange(7.0, requires_grad=True)
    Chunks(CPU, max_rows=3).map(lambda rows: x[rows] ** 2, 7, row_bytes=4).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * x.detach())
