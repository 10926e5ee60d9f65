"""Finished parts of a benchmark, on disk: a killed one goes on, other settings or weights begin anew."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from csd3d.metrics import jsonable
from csd3d.priors.resolve import resolve
from csd3d.runs.atomic import write_text


class Kept:
    """Records below `folder`, for as long as `settings` and the weights of `prior` are the same."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], prior: str) -> None:
        key = json.dumps([jsonable(settings), weights_digest(prior)], sort_keys=True, default=str)
        self.folder = folder / hashlib.sha256(key.encode()).hexdigest()[:12]

    def records(self, name: str, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Those of the part `name`, from disk or made now."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_text(path, json.dumps(make()))  # with NaN, which strict JSON does not have
        return json.loads(path.read_text())


def weights_digest(prior: str) -> str:
    """SHA-256 over a prior's weights where it is a folder; else its name."""
    folder = resolve(prior).path
    if folder is None:
        return prior
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
