"""Which prior a run used: its entry in a manifest, and the fingerprint that differs between two priors."""

import hashlib
from functools import lru_cache
from pathlib import Path

from csd3d.priors.prior import Prior
from csd3d.priors.store.resolve import parts_of

_PIECE_BYTES = 1 << 20
REMEMBERED = 256
"""Files whose digests are cached for the length of a process."""


def prior_entry(prior: Prior) -> dict[str, str | bool]:
    """What a manifest keeps of a loaded prior."""
    known: dict[str, str | bool] = {
        "name": prior.name, "path": str(prior.path), "builtin": prior.builtin, "kind": prior.kind,
        "device": str(prior.device),
    }  # fmt: skip
    return known | ({"fingerprint": prior_fingerprint(prior.path)} if prior.path.is_dir() else {})


def prior_files(path: Path) -> list[Path]:
    """The files that a prior's pictures depend on, in order; not what is written about it, or lies beside its parts."""
    names = parts_of(path)
    parts = (file for part in names for file in (path / part).glob("**/*"))
    own = {path / "model_index.json", path / "vocabulary.json", *parts}
    return sorted(p for p in own if p.suffix in (".json", ".safetensors", ".txt") and p.is_file())


def prior_fingerprint(path: Path) -> str:
    """SHA-256 of the names and the whole content of a prior's files.

    Within a process a file is read once, unless its size or time of change is another by then. Of what came from the
    hub, the commit, which is a digest too: which of its files are there depends on what was asked for so far.
    """
    if path.parent.name == "snapshots":
        return path.name
    digest = hashlib.sha256()
    for file in prior_files(path):
        status = file.stat()
        content = _file_digest(file.resolve(), status.st_size, status.st_mtime_ns)
        digest.update(f"{file.relative_to(path)}\0{content}\0".encode())
    return digest.hexdigest()


@lru_cache(maxsize=REMEMBERED)
def _file_digest(file: Path, size: int, changed_ns: int) -> str:
    """SHA-256 of a file; size and time of change tell whether a remembered one still holds."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
