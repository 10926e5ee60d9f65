"""Many equal tensors in a file, read and written a few at a time: what is too much for memory when a clip is long.

The file is NumPy's .npy, rows one after the other. Rows are read and written by position and not mapped into memory, so
that resident memory does not grow with what was touched.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from jaxtyping import Int, Shaped
from numpy.lib import format as npy
from torch import Tensor

from csd3d.media.atomic import atomic_path


class Rows:
    """`rows[index]` and `rows[index] = values` for a slice or a tensor of row numbers, as with a tensor on the CPU;
    what is read is a copy. `shape` and `dtype` are the tensor's."""

    def __init__(self, path: Path) -> None:
        """Open the file at `path`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is no .npy file of plain numbers, or cut short.
        """
        if not path.is_file():
            raise FileNotFoundError(f"rows: expected a file, got {path}, which does not exist")
        with path.open("rb") as file:
            try:
                npy.read_magic(file)
                self.shape, fortran, dtype = npy.read_array_header_1_0(file)
                self.dtype = torch.from_numpy(np.empty(0, dtype)).dtype
            except (ValueError, TypeError, SyntaxError, KeyError, RecursionError, TokenError) as error:
                raise ValueError(f"rows: expected a .npy file of numbers, got {path} ({error})") from error
            self._start = file.tell()
        self.path = path
        self._bytes = dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        size = path.stat().st_size - self._start
        if fortran or not self.shape or size != self._bytes * self.shape[0]:
            raise ValueError(f"rows: expected {self.shape} of {dtype} in order, got {size} bytes in {path}")
        self._fd = os.open(path, os.O_RDWR)

    def of(self, shape: Sequence[int | None], dtype: torch.dtype = torch.float32) -> "Rows":
        """Itself. Raises ValueError for numbers of another kind or shape than a run writes there; None: any size."""
        sizes = [own if size is None else size for own, size in zip(self.shape, shape, strict=False)]
        if len(self.shape) != len(shape) or sizes != list(self.shape) or self.dtype != dtype:
            self.close()
            wanted = " x ".join("n" if size is None else str(size) for size in shape)
            got = " x ".join(map(str, self.shape))
            raise ValueError(f"rows: expected {wanted} of {dtype}, got {got} of {self.dtype} in {self.path}")
        return self

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | Int[Tensor, " n"]) -> Shaped[Tensor, "n *row"]:
        """Copies of some rows.

        Raises:
            IndexError: a number that no row has.
            ValueError: the file was cut short since it was opened.
        """
        numbers = self._numbers(index)
        data = bytearray(len(numbers) * self._bytes)
        view = memoryview(data)
        for k, (row, count) in _stretches(numbers):
            part = view[k * self._bytes : (k + count) * self._bytes]
            if os.preadv(self._fd, [part], self._start + row * self._bytes) != len(part):
                raise ValueError(f"rows: {self.path} ends before row {row + count - 1}")
        if not numbers:
            return torch.empty(0, *self.shape[1:], dtype=self.dtype)
        return torch.frombuffer(data, dtype=self.dtype).view(len(numbers), *self.shape[1:])

    def __setitem__(self, index: slice | Int[Tensor, " n"], values: Shaped[Tensor, "n *row"]) -> None:
        """Replace some rows.

        Raises:
            IndexError: a number that no row has.
            ValueError: values of another shape.
        """
        numbers = self._numbers(index)
        if tuple(values.shape) != (len(numbers), *self.shape[1:]):
            raise ValueError(f"rows: expected {(len(numbers), *self.shape[1:])}, got {tuple(values.shape)}")
        data = values.detach().to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().data.cast("B")
        for k, (row, count) in _stretches(numbers):
            _write_all(self._fd, data[k * self._bytes : (k + count) * self._bytes], self._start + row * self._bytes)

    def _numbers(self, index: slice | Int[Tensor, " n"]) -> list[int]:
        if isinstance(index, slice):
            return list(range(*index.indices(len(self))))
        numbers = index.tolist()
        if any(not 0 <= row < len(self) for row in numbers):
            raise IndexError(f"rows: expected numbers below {len(self)}, got {numbers}")
        return numbers

    def flush(self) -> None:
        """Return when what was written is on the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Free the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextmanager
def writing_rows(path: Path, count: int) -> Iterator[Callable[[Shaped[Tensor, "_n *row"]], None]]:
    """Yield a function that appends rows to a file of `count`, which appears if the block succeeds.

    Raises:
        ValueError: more or fewer rows were appended, or none.
    """
    done = 0
    with atomic_path(path) as part, part.open("wb") as file:

        def append(chunk: Shaped[Tensor, "_n *row"]) -> None:
            nonlocal done
            values = chunk.detach().cpu().contiguous().numpy()
            if done == 0:
                header = {"descr": npy.dtype_to_descr(values.dtype), "fortran_order": False}
                npy.write_array_header_1_0(file, header | {"shape": (count, *values.shape[1:])})
            file.write(values.data)
            done += len(values)

        yield append
        if done != count or count == 0:
            raise ValueError(f"rows: expected {max(count, 1)}, got {done}")


def blank_rows(path: Path, count: int, row: Sequence[int]) -> None:
    """A file of `count` rows of float32 zeros, which takes room on the disk only where it is written."""
    with atomic_path(path) as part, part.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, *row)}
        npy.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * count * int(np.prod(row)))


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
