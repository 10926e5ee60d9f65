"""Files that appear whole or not at all.

Everything is written to a hidden sibling first, flushed to the disk and renamed over the final name, so that a
reader, or the next start after a crash, sees the old file or the new one and never half of either.
"""

import errno
import glob
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PART = ".part-"
_AT_WORK: set[Path] = set()
"""Temporary files that this process is writing."""
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


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
    with _part_of(final) as part:
        try:
            with _naming(final, part):
                yield part
                _flush(part)
                os.replace(part, final)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    _flush(final.parent)


@contextmanager
def atomic_folder(
    final: Path, *, replaces: bool = False, before: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Yield a new folder beside `final` that takes its name if the block succeeds and vanishes otherwise.

    Args:
        final: the folder.
        replaces: a folder that is there already is taken away once the new one is whole; one that a run wrote before.
        before: called with the whole folder under its passing name, right before it takes its own.

    Raises:
        ValueError: `final` is there already and, unless it `replaces` that, is no empty folder.
    """
    if not (replaces and final.is_dir()):
        require_new_folder(final)
    final = final.resolve()
    with _part_of(final) as part:
        part.mkdir()
        try:
            with _naming(final, part):
                yield part
                for path in (part, *part.rglob("*")):
                    _flush(path)
            if before is not None:
                before(part)
            if replaces and final.is_dir():
                with _part_of(final) as old:
                    os.replace(final, old)
                    os.replace(part, final)
                    shutil.rmtree(old)
            else:
                _name(part, final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    _flush(final.parent)


def _name(part: Path, final: Path) -> None:
    """Give a new folder its name. Raises ValueError where something of that name appeared meanwhile."""
    try:
        os.replace(part, final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            require_new_folder(final)
        raise


@contextmanager
def _naming(final: Path, part: Path) -> Iterator[None]:
    """An error of the disk names `final`: the system names no file that it cannot write on, encoders the hidden one."""
    try:
        yield
    except OSError as error:
        named = error.filename is None or str(part) in str(error.filename)
        if named and error.errno in _OF_THE_DISK:
            raise OSError(error.errno, os.strerror(error.errno), str(final)) from error
        raise


def make_folder(path: Path, *, exist_ok: bool = True) -> None:
    """Make a folder with its parents, unless it is there; all of them have their names on the disk then. Raises
    FileExistsError for one that is there, unless that is `exist_ok`."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=exist_ok)
    for folder in missing:
        _flush(folder.parent)


def require_new_folder(path: Path) -> None:
    """Raise ValueError where something is at `path` already that is no empty folder."""
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"output: expected a new or empty folder, got {path}")


@contextmanager
def _part_of(final: Path) -> Iterator[Path]:
    """The name beside `final`, whose folder is made, under which it is written; what killed processes left of writing
    `final` goes first."""
    remove_parts(final)
    make_folder(final.parent)
    part = final.with_name(f".{final.stem}{_PART}{os.getpid()}-{secrets.token_hex(4)}{final.suffix}")
    _AT_WORK.add(part)
    try:
        yield part
    finally:
        _AT_WORK.discard(part)


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete the temporary files that killed processes left in `folder` (not below it); returns what was deleted."""
    left = sorted(p for p in folder.glob(f".*{_PART}*") if p.is_file() and _is_abandoned(p))
    for path in left:
        path.unlink(missing_ok=True)
    return left


def remove_parts(final: Path) -> None:
    """Delete what killed processes left of writing `final`, be that a file or a folder."""
    final = final.resolve()
    for part in final.parent.glob(f".{glob.escape(final.stem)}{_PART}*{glob.escape(final.suffix)}"):
        if _is_abandoned(part):
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def _is_abandoned(part: Path) -> bool:
    """Whether no process is at work on a temporary file any more; its name has the process."""
    found = re.search(rf"{re.escape(_PART)}(\d+)-", part.name)
    if found is None:
        return True
    if (
        process := int(found[1])
    ) == os.getpid():  # numbers are given again: in a container each start may have the same
        return part not in _AT_WORK
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


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
    """Onto the disk. Not all folders can be: some may be written in and not read, and some disks that a network or a
    program serves refuse it."""
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if not path.is_dir() or error.errno in _OF_THE_DISK:
            raise
