"""Rows in a file behave as a tensor does, and appear whole or not at all."""

import numpy as np
import pytest
import torch

from csd3d.runs.rows import Rows, copy_rows, writing_rows


def write_rows(path, chunks, count):
    with writing_rows(path, count) as append:
        for chunk in chunks:
            append(chunk)


def made(n=7, shape=(2, 3), dtype=torch.float32):
    return (100 * torch.randn(n, *shape, generator=torch.Generator().manual_seed(n))).to(dtype)


@pytest.fixture
def opened(tmp_path):
    """`opened(values)` -> the rows of a file with these values."""
    found = []

    def make(values, name="a.npy"):
        write_rows(tmp_path / name, values.split(3), len(values))
        found.append(Rows(tmp_path / name))
        return found[-1]

    yield make
    for rows in found:
        rows.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.int64])
def test_reads_and_writes_as_a_tensor_does(opened, dtype):
    values = made(dtype=dtype)
    rows = opened(values)
    assert (len(rows), rows.shape, rows.dtype) == (7, (7, 2, 3), dtype)
    assert np.array_equal(np.load(rows.path), values.numpy())
    for index in (slice(None), slice(2, 5), slice(0, 7, 2), torch.tensor([5, 0, 1, 2, 6]), torch.tensor([3])):
        assert torch.equal(rows[index], values[index])
    index = torch.tensor([6, 2, 3])
    values[index] = rows[index] = made(3, dtype=dtype)
    values[:2] = rows[:2] = made(2, dtype=dtype)
    assert torch.equal(rows[:], values)
    assert len(rows[0:0]) == 0


@pytest.mark.parametrize(
    ("shape", "dtype", "line"),
    [
        ((None, 3, 3), torch.float32, "expected n x 3 x 3 of torch.float32, got 7 x 2 x 3 of torch.float32 in"),
        ((7, 2), torch.float32, "expected 7 x 2 of torch.float32, got 7 x 2 x 3"),
        ((7, 2, 3, None), torch.float32, "expected 7 x 2 x 3 x n"),
        ((7, 2, 3), torch.uint8, "expected 7 x 2 x 3 of torch.uint8, got 7 x 2 x 3 of torch.float32"),
    ],
)
def test_rows_of_another_kind_are_refused(opened, shape, dtype, line):
    rows = opened(made())
    assert rows.of((7, None, 3)) is rows
    with pytest.raises(ValueError, match=f"^rows: {line}"):
        rows.of(shape, dtype)


def test_in_place_arithmetic(opened):
    values = made()
    rows, index = opened(values), torch.tensor([4, 1])
    rows[index] -= 2 * made(2)
    values[index] -= 2 * made(2)
    assert torch.equal(rows[:], values)


def test_what_is_read_is_a_copy(opened):
    rows = opened(made())
    rows[:].zero_()
    assert torch.equal(rows[:], made())


def test_other_layouts_are_stored_in_order(opened):
    rows = opened(made(4, (2, 3, 5)))
    wild = made(4, (2, 3, 5)).neg().to(memory_format=torch.channels_last)
    rows[:] = wild
    assert torch.equal(rows[:], wild)


def test_refusals(opened, tmp_path):
    rows = opened(made())
    for index in (torch.tensor([7]), torch.tensor([-1])):
        with pytest.raises(IndexError, match="below 7"):
            rows[index]
    with pytest.raises(ValueError, match=r"expected \(1, 2, 3\), got \(1, 3, 2\)"):
        rows[:1] = torch.zeros(1, 3, 2)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Rows(tmp_path / "none.npy")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    with rows.path.open("r+b") as file:
        file.truncate(200)
    for name in ("objects.npy", "text.npy", "a.npy"):
        with pytest.raises(ValueError, match="rows: expected"):
            Rows(tmp_path / name)


def test_a_file_that_was_cut_short_is_noticed(opened):
    rows = opened(made())
    with rows.path.open("r+b") as file:
        file.truncate(200)
    with pytest.raises(ValueError, match="ends before row 6"):
        rows[:]


def test_failure_leaves_no_file(tmp_path):
    def chunks():
        yield made()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_rows(tmp_path / "a.npy", chunks(), 14)
    for count in (6, 8):
        with pytest.raises(ValueError, match=f"expected {count}, got 7"):
            write_rows(tmp_path / "a.npy", [made()], count)
    with pytest.raises(ValueError, match="expected 1, got 0"):
        write_rows(tmp_path / "a.npy", [], 0)
    assert list(tmp_path.iterdir()) == []


def test_copies_are_of_their_own(opened, tmp_path):
    rows = opened(made())
    copy_rows(rows.path, tmp_path / "b.npy")
    rows[:] = torch.zeros(7, 2, 3)
    copy = Rows(tmp_path / "b.npy")
    assert torch.equal(copy[:], made())
    copy.close()
