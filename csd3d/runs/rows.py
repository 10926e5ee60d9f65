"""Many equal tensors in a file, read and written a few at a time: what is too much for memory when a clip is long.

A plain file of rows, one after the other, without a header: the owner knows shape and type. Rows are read and written
by position and not mapped into memory, so that resident memory does not grow with what was touched.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from csd3d.runs.atomic import atomic_path


class Rows:
    """`rows[index]` and `rows[index] = values` for a slice or a tensor of row numbers, as with a tensor of
    `len(rows)` rows of `shape`, on the CPU; what is read is a copy."""

    def __init__(self, path: Path, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        """Open the file at `path`, whose rows are `shape`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it does not hold whole rows.
        """
        self.path, self.shape, self.dtype = path, tuple(shape), dtype
        self._bytes = torch.empty(0, dtype=dtype).element_size() * int(torch.Size(self.shape).numel())
        if not path.is_file():
            raise FileNotFoundError(f"rows: expected a file, got {path}, which does not exist")
        size = path.stat().st_size
        if self._bytes == 0 or size % self._bytes:
            raise ValueError(f"rows: expected rows of {self._bytes} bytes, got a file of {size} at {path}")
        self._rows = size // self._bytes
        self._fd = os.open(path, os.O_RDWR)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: slice | Int[Tensor, " n"]) -> Shaped[Tensor, "n *row"]:
        """Copies of some rows.

        Raises:
            IndexError: a number that no row has.
        """
        numbers = self._numbers(index)
        data = bytearray(len(numbers) * self._bytes)
        view = memoryview(data)
        for k, (row, count) in _stretches(numbers):
            part = view[k * self._bytes : (k + count) * self._bytes]
            if os.preadv(self._fd, [part], row * self._bytes) != len(part):
                raise IndexError(f"rows: {self.path} ends before row {row + count - 1}")
        if not numbers:
            return torch.empty(0, *self.shape, dtype=self.dtype)
        return torch.frombuffer(data, dtype=self.dtype).view(len(numbers), *self.shape)

    def __setitem__(self, index: slice | Int[Tensor, " n"], values: Shaped[Tensor, "n *row"]) -> None:
        """Replace some rows.

        Raises:
            IndexError: a number that no row has.
            ValueError: values of another shape.
        """
        numbers = self._numbers(index)
        if tuple(values.shape) != (len(numbers), *self.shape):
            raise ValueError(f"rows: expected {(len(numbers), *self.shape)}, got {tuple(values.shape)}")
        data = values.detach().to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().data.cast("B")
        for k, (row, count) in _stretches(numbers):
            _write_all(self._fd, data[k * self._bytes : (k + count) * self._bytes], row * self._bytes)

    def _numbers(self, index: slice | Int[Tensor, " n"]) -> list[int]:
        if isinstance(index, slice):
            return list(range(*index.indices(self._rows)))
        numbers = index.tolist()
        if any(not 0 <= row < self._rows for row in numbers):
            raise IndexError(f"rows: expected numbers below {self._rows}, got {numbers}")
        return numbers

    def close(self) -> None:
        """Free the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def write_rows(path: Path, chunks: Iterator[Shaped[Tensor, "_n *row"]]) -> None:
    """Write the chunks one after the other to a file that appears when the last one is written."""
    with atomic_path(path) as part, part.open("wb") as file:
        for chunk in chunks:
            file.write(chunk.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        file.flush()


def copy_rows(source: Path, target: Path) -> None:
    """Copy a file of rows; the copy appears whole or not at all."""
    with atomic_path(target) as part:
        shutil.copyfile(source, part)


def _stretches(numbers: Sequence[int]) -> Iterator[tuple[int, tuple[int, int]]]:
    """(place, (first row, how many)) for stretches of numbers that follow each other."""
    k = 0
    while k < len(numbers):
        count = 1
        while k + count < len(numbers) and numbers[k + count] == numbers[k] + count:
            count += 1
        yield k, (numbers[k], count)
        k += count


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
