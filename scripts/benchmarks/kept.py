"""Finished parts of a benchmark, on disk: a killed one goes on, other settings or weights begin anew."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from csd3d.media.atomic import write_text
from csd3d.metrics import jsonable
from csd3d.priors.store.fingerprint import prior_files
from csd3d.priors.store.resolve import resolve

T = TypeVar("T")


class Kept:
    """Records below `folder`, for as long as `settings` and the weights of `prior` are the same."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], prior: str) -> None:
        self.folder = work_folder(folder, settings, prior)

    def records(self, name: str, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Those of the part `name`, from disk or made now."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_text(path, json.dumps(make()))  # with NaN, which strict JSON does not have
        return json.loads(path.read_text())


def selected(methods: Mapping[str, T], rows: Collection[str]) -> dict[str, T]:
    """The methods whose names are among `rows`; all if there are none. Raises ValueError for a name nobody has."""
    if unknown := set(rows) - set(methods):
        raise ValueError(f"rows: expected names among {', '.join(methods)}, got {', '.join(sorted(unknown))}")
    return {row: method for row, method in methods.items() if not rows or row in rows}


def work_folder(folder: Path, settings: Mapping[str, Any], prior: str) -> Path:
    """The folder below `folder` for what is done with these settings and this prior."""
    key = json.dumps([jsonable(settings), prior_digest(prior)], sort_keys=True, default=str)
    return folder / hashlib.sha256(key.encode()).hexdigest()[:12]


def prior_digest(prior: str) -> str:
    """SHA-256 over all weights and settings of a prior where it is a folder; else its name."""
    folder = resolve(prior).path
    if folder is None:
        return prior
    digest = hashlib.sha256()
    for path in prior_files(folder):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
