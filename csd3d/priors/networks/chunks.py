"""Running a function over a batch in pieces that fit in memory.

How large a piece may be comes from a budget in bytes and an estimate of what one row costs. The estimate only has to be
of the right order: when a GPU runs out of memory all the same, the piece is halved and the work goes on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Shaped
from torch import Tensor

CPU_BUDGET_BYTES = 2 * 1024**3
"""For the activations of one call on a CPU."""
CPU_ROWS = 40
"""In one call on a CPU, where larger ones are no faster."""
CUDA_SHARE = 0.8
"""The part of the free CUDA memory that one call may plan for; the rest is for what the estimate misses."""


@dataclass
class Chunks:
    """How large the pieces are on one device. What it learns from running out of memory it keeps."""

    device: torch.device
    budget_bytes: int | None = None
    """For the activations of one call; None: 2 GiB on a CPU, four fifths of what is free on a GPU."""
    also: tuple[torch.device, ...] = ()
    """GPUs that the same call computes on besides; the one with the least free memory counts."""
    max_rows: int | None = None
    """Never more rows than this in one call; None: 40 on a CPU, 256 elsewhere."""
    notes: list[str] = field(default_factory=list)
    """One sentence for every time that memory ran out, for whoever reports on the run."""
    done: int = 0
    """Rows that were computed so far."""

    def __post_init__(self) -> None:
        for name, value in (("budget_bytes", self.budget_bytes), ("max_rows", self.max_rows)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected 1 or more, got {value}")

    def rows(self, row_bytes: int) -> int:
        """How many rows of `row_bytes` each one call may take: 1 or more."""
        most = self.max_rows or (CPU_ROWS if self.device.type == "cpu" else 256)
        return max(1, min(self._budget() // max(row_bytes, 1), most))

    def map(
        self, call: Callable[[slice], Shaped[Tensor, "_ ..."]], total: int, *, row_bytes: int
    ) -> Shaped[Tensor, "{total} ..."]:
        """`call(slice)` for slices that cover range(total) in order, joined along the first axis.

        Args:
            call: Computes the rows of a slice. It may be called again for part of a slice that failed.
            row_bytes: Estimated memory that one row needs during the call.

        Raises:
            torch.OutOfMemoryError: Not even one row fits.
        """
        if total < 1:
            raise ValueError(f"total: expected 1 row or more, got {total}")
        done: list[Tensor] = []
        start = 0
        while start < total:
            size = self.rows(row_bytes)
            for piece in _even_slices(start, total, size):
                result = self._attempt(call, piece)
                if result is None:
                    self._halve(piece.stop - piece.start, row_bytes)
                    break
                done.append(result)
                start = piece.stop
        self.done += total
        return done[0] if len(done) == 1 else torch.cat(done)

    def _attempt(self, call: Callable[[slice], Tensor], piece: slice) -> Tensor | None:
        """The result, or None when memory ran out. On return nothing of a failed attempt is alive."""
        try:
            return call(piece)
        except torch.OutOfMemoryError as error:
            if piece.stop - piece.start == 1:
                raise torch.OutOfMemoryError(
                    f"{self.device}: not even one picture at a time fits in memory; use smaller pictures, half "
                    f"precision, or another device ({str(error).splitlines()[0] if str(error) else 'out of memory'})"
                ) from None
        return None

    def _halve(self, rows: int, row_bytes: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.budget_bytes = max(1, (rows // 2) * max(row_bytes, 1))
        self.notes.append(f"{self.device} ran out of memory with {rows} rows in one call; going on with {rows // 2}")

    def _budget(self) -> int:
        if self.budget_bytes is not None:
            return self.budget_bytes
        if self.device.type != "cuda":
            return CPU_BUDGET_BYTES
        return int(CUDA_SHARE * min(map(_free_bytes, (self.device, *self.also))))


def _free_bytes(device: torch.device) -> int:
    """Free on a GPU, or cached by torch for what comes next."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _even_slices(start: int, stop: int, most: int) -> Iterator[slice]:
    """As few slices as possible, of sizes that differ by one at most."""
    count = -(-(stop - start) // most)
    edges = [start + (stop - start) * i // count for i in range(count + 1)]
    return (slice(a, b) for a, b in pairwise(edges))
