"""What the page may read and write: uploads, and the runs of one folder. Nothing else of the machine."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from csd3d.media.atomic import atomic_path
from csd3d.runs.folder import RunFolder, claim_name
from csd3d.runs.history import runs_in, sentences
from csd3d.runs.manifest import Manifest

SHOWN = frozenset((".html", ".png", ".jpg", ".jpeg", ".webp", ".mp4", ".webm", ".gif"))
"""Kinds of files of a run that a browser may ask for."""


@dataclass(frozen=True)
class Listed:
    """A run in the list."""

    name: str
    prompt: str
    status: str
    picture: Path | None
    """Its contact sheet, once there is one."""


@dataclass(frozen=True)
class RunsFolder:
    """The folder of runs that the page shows, with an `uploads` in it."""

    path: Path

    @property
    def uploads(self) -> Path:
        """Where files that people hand in are held: a run that is resumed reads its source again."""
        return self.path / "uploads"

    def take(self, file: Path) -> Path:
        """Copy a file that was handed in to where it stays, under a name made of its own and of its content."""
        digest = sha256(file.read_bytes()).hexdigest()[:8]
        stem = re.sub(r"[^\w-]+", "-", file.stem).strip("-")[:60] or "file"
        target = self.uploads / f"{stem}-{digest}{file.suffix.lower()}"
        if not target.exists():
            with atomic_path(target) as part:
                shutil.copyfile(file, part)
        return target

    def claim(self, source: Path, prompt: str) -> Path:
        """A new, empty folder for a run."""
        return claim_name(source.stem, prompt, base=self.path)

    def place(self, name: str) -> Path:
        """Where a run of this name lies, or will.

        Raises:
            ValueError: it is no name of a folder directly in this one.
        """
        found = self.path / name
        if Path(name).name != name or name in ("", "..", "uploads") or found.is_symlink():
            raise ValueError(f"run: expected one of {self.path}, got {name!r}")
        return found

    def manifest(self, name: str) -> Manifest:
        """The manifest of a run that reads and writes here alone, so that it may be gone on with or undone.

        Raises:
            ValueError, FileNotFoundError: there is no such run, or it was begun elsewhere and writes elsewhere.
        """
        manifest = Manifest.read(self.place(name) / "manifest.json")
        for path in (*manifest.outputs.values(), *manifest.written):
            if not Path(path).resolve().is_relative_to(self.path):
                raise ValueError(f"run: expected one that writes below {self.path}, got {name}, which writes {path}")
        return manifest

    def file(self, name: str, relative: str) -> Path:
        """A file of a run that a browser asks for.

        Raises:
            ValueError: there is no such file, it lies outside of the run, or is of a kind that is not shown.
        """
        base = self.place(name).resolve()
        found = (base / relative).resolve()
        if not found.is_relative_to(base) or not found.is_file() or found.suffix.lower() not in SHOWN:
            raise ValueError(f"file: expected one of run {name}, got {relative!r}")
        return found

    def stamp(self) -> str:
        """Differs when a run has come, gone or changed since; reads no manifest."""
        changed: list[tuple[str, int]] = []
        for manifest in sorted(self.path.glob("*/manifest.json")):
            for path in (manifest, RunFolder(manifest.parent).sheet):
                with suppress(OSError):  # it is not there yet, or has just gone
                    changed.append((str(path), path.stat().st_mtime_ns))
        return repr(changed)

    def listed(self) -> Iterator[Listed]:
        """Its runs, newest first."""
        for path, manifest in reversed(list(runs_in(self.path))):
            if path != self.path:
                sheet = RunFolder(path).sheet
                there = sheet if sheet.is_file() else None
                yield Listed(path.name, sentences(manifest), manifest.status, there)

    def result(self, name: str) -> Path | None:
        """What a finished run has written, if it is still there and lies here."""
        try:
            written = [Path(path) for path in self.manifest(name).written]
        except (ValueError, OSError):
            return None
        return next((path for path in written if path.is_file()), None)


def may_come_in(body: bytes, uploads: Path) -> bool:
    """Whether a request may be answered: it is JSON, and each `path` in it lies below `uploads`, links followed."""
    try:
        paths = list(_paths_in(json.loads(body or b"null")))
    except (ValueError, RecursionError):
        return False
    return all(isinstance(path, str) and _is_below(path, uploads) for path in paths)


def _is_below(path: str, uploads: Path) -> bool:
    try:
        return Path(path).is_absolute() and Path(path).resolve().is_relative_to(uploads.resolve())
    except (ValueError, OSError, RuntimeError):  # no name of a file, or links in a circle
        return False


def _paths_in(value: object) -> Iterator[object]:
    """All `path` of the objects in a piece of JSON, however deep they lie; None where there is no file."""
    if isinstance(value, dict):
        if value.get("path") is not None:
            yield value["path"]
        for item in value.values():
            yield from _paths_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _paths_in(item)
