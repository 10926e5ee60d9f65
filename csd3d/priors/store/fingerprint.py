"""Which prior it was: what a manifest keeps of one, and by what two are told apart."""

import hashlib
from pathlib import Path
from typing import Any

from csd3d.priors.editor import Loaded, kind_of
from csd3d.priors.store.resolve import PARTS

_END_BYTES = 1 << 16


def prior_entry(prior: Loaded) -> dict[str, Any]:
    """What a manifest keeps of a loaded prior."""
    known = {
        "name": prior.name, "path": str(prior.path), "builtin": prior.builtin, "kind": kind_of(prior),
        "device": str(prior.device),
    }  # fmt: skip
    return known | ({"fingerprint": prior_fingerprint(prior.path)} if prior.path.is_dir() else {})


def prior_files(path: Path) -> list[Path]:
    """The files that a prior's pictures depend on, in order; not what is written about it, or lies beside its parts."""
    parts = (file for part in PARTS for file in (path / part).glob("**/*"))
    own = {path / "model_index.json", path / "vocabulary.json", *parts}
    return sorted(p for p in own if p.suffix in (".json", ".safetensors", ".txt") and p.is_file())


def prior_fingerprint(path: Path) -> str:
    """A digest of the names, sizes and ends of a prior's files: tells two apart without reading gigabytes.

    Of what came from the hub, the commit: which of its files are there depends on what was asked for so far.
    """
    if path.parent.name == "snapshots":
        return path.name
    digest = hashlib.sha256()
    for file in prior_files(path):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_END_BYTES))
            stream.seek(max(size - _END_BYTES, 0))
            digest.update(stream.read())
    return digest.hexdigest()
