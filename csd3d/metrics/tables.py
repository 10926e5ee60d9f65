"""From many measurements to a table: means, how many they are of, and markdown. NaN means "nothing to measure here"."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

_DRAWS = 1_000_000
"""Values that resamples hold at a time, which bounds their memory."""


@dataclass(frozen=True)
class Mean:
    """A mean and how many numbers it is of."""

    value: float
    """NaN if there are none."""
    n: int


def mean(values: Iterable[float]) -> Mean:
    """The mean of those values that are finite numbers."""
    finite = [float(v) for v in values if math.isfinite(v)]
    return Mean(math.fsum(finite) / len(finite) if finite else math.nan, len(finite))


def ratio(part: float, whole: float) -> float:
    """part / whole; NaN where that is no finite number."""
    return part / whole if whole and math.isfinite(part) and math.isfinite(whole) else math.nan


def aggregate(records: Sequence[Mapping[str, Any]], by: str, values: Sequence[str]) -> dict[Any, dict[str, Mean]]:
    """Mean of every column in `values` over the records that share what they have in column `by`.

    Groups come in the order in which they first appear. A record may lack a column of `values`; it must have `by`.
    """
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(record[by], []).append(record)
    return {
        key: {name: mean(float(r[name]) for r in group if r.get(name) is not None) for name in values}
        for key, group in groups.items()
    }


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of which `right` of `n` were observed (Wilson 1927). (0, 1) when nothing was."""
    if not 0 <= right <= n:
        raise ValueError(f"right: expected 0 to {n}, got {right}")
    if n == 0:
        return 0.0, 1.0
    z = 1.959963985
    share = right / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


def bootstrap_interval(values: Sequence[float], *, resamples: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean of those values that are finite: percentiles of the means of resamples (Efron 1979).

    The same values give the same interval. (NaN, NaN) for fewer than two. It takes the values for independent, which
    neighbouring frames are not: the interval over frames of one clip is too narrow, that over clips is right.
    """
    finite = torch.tensor([v for v in values if math.isfinite(v)], dtype=torch.float64)
    if len(finite) < 2:
        return math.nan, math.nan
    rng = torch.Generator().manual_seed(0)
    n, at_once = len(finite), max(1, _DRAWS // len(finite))
    parts = [min(at_once, resamples - done) for done in range(0, resamples, at_once)]
    means = torch.cat([finite[torch.randint(n, (rows, n), generator=rng)].mean(1) for rows in parts])
    return float(torch.quantile(means, 0.025)), float(torch.quantile(means, 0.975))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], *, digits: int = 2) -> str:
    """A table in markdown, the first column to the left, the others to the right.

    Floats get `digits` decimals; NaN and None are a dash. Raises ValueError for a row of another length than `header`.
    """
    lines = [list(header), ["---", *["---:"] * (len(header) - 1)]]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"row: expected {len(header)} cells, got {len(row)}: {row}")
        lines.append([_cell(value, digits) for value in row])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object, digits: int) -> str:
    if isinstance(value, Mean):
        value = value.value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    text = f"{value:.{digits}f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def jsonable(value: Any) -> Any:
    """The same for strict JSON: numbers that are not finite become None, means become {"mean", "n"}, keys strings."""
    if isinstance(value, Mean):
        return {"mean": jsonable(value.value), "n": value.n}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in cast(Mapping[object, object], value).items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in cast(Sequence[object], value)]
    return value
