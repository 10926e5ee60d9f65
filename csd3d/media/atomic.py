"""Files that appear whole or not at all.

Everything is written to a hidden sibling first, flushed to the disk and renamed over the final name, so that a
reader, or the next start after a crash, sees the old file or the new one and never half of either.
"""

import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PART = ".part-"


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a temporary path beside `final` with the same suffix; rename it over `final` if the block succeeds.

    The suffix is kept because encoders choose the container by it. Missing parent folders are made. If the block
    raises, the temporary file is removed and `final` is untouched.

    Raises:
        ValueError: `final` is an existing folder.
        FileNotFoundError: the block wrote nothing.
    """
    if final.is_dir():
        raise ValueError(f"output: expected a file name, got the folder {final}")
    final = final.resolve()  # a link stays one, and what it leads to is replaced
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f".{final.stem}{_PART}{secrets.token_hex(4)}{final.suffix}")
    try:
        yield part
        _flush(part)
        os.replace(part, final)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _flush(final.parent)


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete the temporary files that a killed process left in `folder` (not below it); returns what was deleted."""
    left = sorted(p for p in folder.glob(f".*{_PART}*") if p.is_file())
    for path in left:
        path.unlink(missing_ok=True)
    return left


def remove_parts(final: Path) -> None:
    """Delete what a killed process left of writing `final`, be that a file or a folder."""
    final = final.resolve()
    for part in final.parent.glob(f".{glob.escape(final.stem)}{_PART}*{glob.escape(final.suffix)}"):
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def write_bytes(final: Path, data: bytes) -> None:
    """Write `data` to `final` atomically."""
    with atomic_path(final) as part:
        part.write_bytes(data)


def write_text(final: Path, text: str) -> None:
    """Write `text` to `final` atomically, in UTF-8."""
    write_bytes(final, text.encode("utf-8"))


def write_json(final: Path, value: Any) -> None:
    """Write `value` to `final` atomically as indented strict JSON (no NaN or Infinity).

    Raises:
        ValueError: `value` holds a number that JSON has no notation for.
    """
    write_text(final, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
