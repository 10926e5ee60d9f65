"""Reading a table of somebody else's, CSV or YAML: whatever is in it, it is read or refused in one line."""

import csv
from collections import Counter
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

SUFFIXES = (".csv", ".yaml", ".yml")
SEPARATORS = ",;\t"
"""Between the cells of CSV: what stands most often in the header; a comma, where none does."""

_NOT_READ = (
    ValueError,
    csv.Error,
    yaml.YAMLError,
    RecursionError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
)
"""No UTF-8, or a 13th month; YAML lets what its own words for kinds (!!int) raise pass."""


def load_table(path: Path, what: str) -> list[dict[Any, Any]]:
    """The rows of a CSV file with a header, or of a YAML list, as they are but for empty ones.

    Raises:
        ValueError: it is neither, holds no rows, a column twice, or more cells in a row than columns, or than these
            have names; the text begins with `what` it is.
        OSError: it cannot be read.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{what}: expected a .csv, .yaml or .yml file, got {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _csv_rows(text) if path.suffix.lower() == ".csv" else yaml.safe_load(text)
    except _NOT_READ as error:
        raise ValueError(f"{what}: {path} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{what}: expected at least one row with names of columns in {path}")
    return rows


def _csv_rows(text: str) -> list[dict[Any, Any]]:
    """The rows that have something in them; cells that a row lacks are None."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(SEPARATORS, key=header.count)
    reader = csv.reader(StringIO(text), delimiter=separator, strict=True, skipinitialspace=True)
    filled = ((reader.line_num, cells) for cells in reader if any(map(str.strip, cells)))
    _, columns = next(filled, (0, list[str]()))
    if twice := [name for name, count in Counter(columns).items() if name.strip() and count > 1]:
        raise ValueError(f"expected each column once, got {twice[0]} more often")
    rows: list[dict[Any, Any]] = []
    for line, cells in filled:
        if any(map(str.strip, cells[len(columns) :])):
            raise ValueError(
                f"line {line}: expected {len(columns)} cells between {separator!r}, got {len(cells)}; a cell "
                f"with {separator!r} in it stands in quotes"
            )
        pairs = list(zip_longest(columns, cells[: len(columns)]))
        if nameless := next((cell for name, cell in pairs if cell and cell.strip() and not name.strip()), None):
            raise ValueError(f"line {line}: expected a name above each column, got none above {nameless!r:.40}")
        rows.append({name: cell for name, cell in pairs if name.strip()})
    return rows
