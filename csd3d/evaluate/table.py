"""One row a method: markdown for people, CSV and JSON for programs."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from csd3d.evaluate.definitions import METRICS
from csd3d.evaluate.measure import Measured
from csd3d.media.atomic import write_json, write_text
from csd3d.metrics.tables import bootstrap_interval, jsonable, markdown_table, mean

FILES = ("table.md", "table.csv", "table.json")
"""What a table is written as."""


@dataclass(frozen=True)
class Cell:
    """A mean with its interval."""

    value: float
    low: float
    high: float
    """Bounds of the 95 % interval; NaN where there are fewer than two numbers."""
    n: int
    """Of how many numbers."""


@dataclass(frozen=True)
class Table:
    """What an evaluation found."""

    rows: Mapping[str, Mapping[str, Cell]]
    """By method, then by metric, in the order of `METRICS`."""
    over: str
    """What intervals are over: "frames" of the one case, or "cases"."""
    cases: Mapping[str, Sequence[str]]
    """By method, the cases it was measured on."""
    notes: Sequence[str] = ()
    each: Sequence[Measured] = field(default=(), repr=False)

    @property
    def metrics(self) -> list[str]:
        """The columns."""
        return [name for name in METRICS if any(name in row for row in self.rows.values())]

    def markdown(self, *, definitions: bool = True) -> str:
        """The table with intervals, then the notes and the definitions of its columns."""
        lines = [
            markdown_table(
                ["method", *(METRICS[name].heading for name in self.metrics)],
                [
                    [method, *(_shown(name, row.get(name)) for name in self.metrics)]
                    for method, row in self.rows.items()
                ],
            )
        ]
        if any(not math.isnan(c.low) for row in self.rows.values() for c in row.values()):
            lines.append(f"\nIn brackets: 95 % of the means of resamples, over {self.over} (bootstrap).\n")
        if self.over == "cases":
            counts = ", ".join(f"{method} {len(cases)}" for method, cases in self.cases.items())
            lines.append(f"Cases: {counts}.\n")
        lines += [f"\nNote: {note}\n" for note in self.notes]
        if definitions:
            lines.append("\n" + "".join(definition(name) for name in self.metrics))
        return "".join(lines)

    def csv(self) -> str:
        """A line for each method and metric: mean, interval, and of how many numbers."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["method", "metric", "mean", "low", "high", "n"])
        for method, row in self.rows.items():
            for name in self.metrics:
                if name in row:
                    cell = row[name]
                    writer.writerow([method, name, *map(_plain, (cell.value, cell.low, cell.high)), cell.n])
        return out.getvalue()

    def json(self) -> dict[str, object]:
        """Everything: the table, and every number of every case."""
        return {
            "over": self.over,
            "methods": {
                method: {
                    name: jsonable({"mean": c.value, "low": c.low, "high": c.high, "n": c.n}) for name, c in row.items()
                }
                for method, row in self.rows.items()
            },
            "cases": [
                {"case": m.case, "method": m.method, "frames": m.frames, "scores": jsonable(dict(m.scores))}
                for m in self.each
            ],
            "definitions": {name: f"{METRICS[name].text} {METRICS[name].papers}".strip() for name in self.metrics},
            "notes": list(self.notes),
        }

    def write(self, folder: Path) -> list[Path]:
        """The three `FILES` in `folder`; returns them."""
        files = [folder / name for name in FILES]
        write_text(files[0], self.markdown())
        write_text(files[1], self.csv())
        write_json(files[2], self.json())
        return files


def definition(name: str) -> str:
    """A line of markdown that says what a metric is."""
    m = METRICS[name]
    way = "" if m.better == "neither" else f" {m.better.capitalize()} is better."
    papers = f" *Papers:* {m.papers}" if m.papers else ""
    return f"- **{m.name}**: {m.text}{way}{papers}\n"


def tabulate(each: Sequence[Measured], extra: Mapping[str, Mapping[str, float]], notes: Sequence[str]) -> Table:
    """One row a method from what was measured; `extra` holds numbers of methods as a whole.

    With one case a mean is over its frames, with several over the means of the cases.
    """
    methods = list(dict.fromkeys(m.method for m in each))
    over = "cases" if len(each) > len(methods) else "frames"  # whatever they are called: clips of two folders
    rows: dict[str, dict[str, Cell]] = {}
    for method in methods:
        own = [m for m in each if m.method == method]
        row: dict[str, Cell] = {}
        for name in METRICS:
            lists = [m.scores[name] for m in own if name in m.scores]
            values = [mean(v).value for v in lists] if over == "cases" else [v for some in lists for v in some]
            if found := mean(values).n:
                row[name] = Cell(mean(values).value, *bootstrap_interval(values), found)
            elif name in extra.get(method, {}):
                row[name] = Cell(extra[method][name], math.nan, math.nan, sum(m.frames for m in own))
        rows[method] = row
    return Table(rows, over, {m: [x.case for x in each if x.method == m] for m in methods}, notes, each)


def _shown(name: str, cell: Cell | None) -> str:
    if cell is None:
        return "–"
    m = METRICS[name]
    low, value, high = (f"{m.factor * x:.{m.digits}f}" for x in (cell.low, cell.value, cell.high))
    return value if math.isnan(cell.low) else f"{value} [{low}, {high}]"


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.8g}"
