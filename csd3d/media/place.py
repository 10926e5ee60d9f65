"""Whether something can be written at a path: the one check of every command, made before the work."""

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

LONGEST_NAME = 255
"""Bytes of a file name."""
_ELSEWHERE = re.compile(r"[A-Za-z][\w+.-]*:[/\\]")
"""How an address begins (s3://, file://), or a path of Windows: as a path it would be a folder or a name like that."""
_LONGEST_OUTPUT = 230  # less what a file is called by until it is whole


def require_place(
    path: Path, *, inputs: Iterable[Path] = (), reserved: Iterable[Path] = (), models: Iterable[Path] = ()
) -> None:
    """Raise `ValueError` unless a file or folder can be made at `path` without harm.

    Paths are compared as the places that they lead to, whatever their spelling: relative, through `..`, links or, where
    the file system sees no difference, in upper case. Nothing is left behind, and nothing is made.

    Args:
        path: of the output.
        inputs: files and folders that are read; the output must be none of them.
        reserved: files and folders that are written besides; the output must not be one, nor lie in one, nor hold one.
        models: folders of networks that are read; the output must not lie in one.
    """
    require_utf8(path, "output")
    if not path.is_absolute() and _ELSEWHERE.match(str(path)) and not os.path.exists(path.parts[0]):
        raise ValueError(f"output: expected a path on this machine, got {path}")
    target = _leads_to(path)
    if path.name == "-":
        raise ValueError("output: expected a file name, got -; nothing is written to standard output")
    if any(_is_same(target, file) for file in inputs):
        raise ValueError(f"output: expected another file than those that are read, got {path}")
    for folder in map(_leads_to, models):
        if target == folder or folder in target.parents:
            raise ValueError(f"output: expected a place outside of the model {folder}, got {path}")
    for other in map(_leads_to, reserved):
        if target == other or other in target.parents or target in other.parents or _is_same(target, other):
            raise ValueError(f"output: expected another place than what the run writes for itself, {other}, got {path}")
    if len(os.fsencode(target.name)) > _LONGEST_OUTPUT:
        raise ValueError(f"output: expected a name of at most {_LONGEST_OUTPUT} bytes, got {path.name}")
    if os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target):
        raise ValueError(f"output: expected a file, got the device or pipe {path}")
    _require_makeable(path, target)


def at_home(path: Path) -> Path:
    """A path with the home folder in the place of ~. Raises ValueError where none is known."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: expected a home folder in the place of {path.parts[0]}, found none") from None


def require_utf8(path: Path, what: str) -> None:
    """Raise `ValueError` for a name of old disks that is no UTF-8, which no manifest can hold."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what}: expected a name in UTF-8, got {os.fsencode(path)!r}") from None


def _require_makeable(path: Path, target: Path) -> None:
    """Raise `ValueError` unless files can be made in the folder of `target`, or in the nearest that is there."""
    missing = [parent for parent in target.parents if not os.path.lexists(parent)]
    if any(len(os.fsencode(parent.name)) > LONGEST_NAME for parent in missing):
        raise ValueError(f"output: expected folders with names of at most {LONGEST_NAME} bytes, got {path}")
    folder = target.parents[len(missing)]
    try:
        tempfile.TemporaryFile(dir=folder).close()  # permissions say nothing of read-only disks, or to the superuser
    except OSError:
        raise ValueError(f"output: expected a folder in which files can be made, got {folder} for {path}") from None


def _leads_to(path: Path) -> Path:
    """The place that a path leads to, which need not exist. Raises ValueError for links that lead in a circle."""
    try:
        return path.resolve()
    except (RuntimeError, OSError) as error:
        raise ValueError(f"output: expected a path that leads somewhere, got {path} ({error})") from None


def _is_same(target: Path, other: Path) -> bool:
    try:
        return target.samefile(other)
    except OSError:  # one of them does not exist, or cannot be looked at
        return target == other.absolute()
