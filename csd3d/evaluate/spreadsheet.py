"""The first sheet of an .xlsx file as rows of text, by the standard library: it is a zip of XML."""

import re
import zipfile
import zlib
from pathlib import Path
from xml.etree import ElementTree

MOST_BYTES = 50_000_000
"""Of one part of the file, unpacked."""
_SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_SHEET, _TEXTS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"


_DAMAGED = (
    zipfile.BadZipFile, zlib.error, ElementTree.ParseError, KeyError, IndexError, ValueError, OSError, EOFError,
    RuntimeError,
)  # fmt: skip
"""What is raised over a file that is damaged, encrypted, or packed in another way."""


def read_spreadsheet(path: Path) -> list[dict[str, str]]:
    """The rows below the first one, which names the columns; empty cells are empty texts, numbers as they are written.

    Raises:
        ValueError: it is no such file, or has no rows.
    """
    try:
        with zipfile.ZipFile(path) as file:
            texts = _texts(file)
            rows = [_cells(row, texts) for row in _part(file, _SHEET).iter(f"{_SPACE}row")]
    except _DAMAGED as error:
        raise ValueError(f"evaluate: expected a sheet (.xlsx), got {path}, which cannot be read ({error})") from None
    if len(rows) < 2:
        raise ValueError(f"evaluate: expected a sheet with rows, got none in {path}")
    names = rows[0]
    return [{name: row.get(column, "") for column, name in names.items() if name} for row in rows[1:]]


def _part(file: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if file.getinfo(name).file_size > MOST_BYTES:
        raise ValueError(f"evaluate: expected a sheet of at most {MOST_BYTES} bytes, got more in {file.filename}")
    return ElementTree.fromstring(file.read(name))


def _texts(file: zipfile.ZipFile) -> list[str]:
    """The texts that cells refer to by number."""
    if _TEXTS not in file.namelist():
        return []
    return ["".join(t.text or "" for t in one.iter(f"{_SPACE}t")) for one in _part(file, _TEXTS).iter(f"{_SPACE}si")]


def _cells(row: ElementTree.Element, texts: list[str]) -> dict[str, str]:
    """By letters of their columns."""
    found: dict[str, str] = {}
    for cell in row.iter(f"{_SPACE}c"):
        column = re.sub(r"\d", "", cell.get("r", ""))
        value = cell.find(f"{_SPACE}v")
        if cell.get("t") == "inlineStr":
            found[column] = "".join(t.text or "" for t in cell.iter(f"{_SPACE}t"))
        elif value is not None and value.text:
            found[column] = texts[int(value.text)] if cell.get("t") == "s" else value.text
    return found
