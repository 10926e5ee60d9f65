"""Which prior a run used: its entry in a manifest, and the fingerprint that differs between two priors."""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from csd3d.media.clip.probe import read_as
from csd3d.media.clip.source import open_clip
from csd3d.media.place import at_home
from csd3d.priors.loading import Loading
from csd3d.priors.prior import Prior
from csd3d.priors.store.resolve import parts_of

_PIECE_BYTES = 1 << 20
READ = (".json", ".safetensors", ".txt")
"""Endings of files that a prior, or another network, is read from."""
REMEMBERED = 256
"""Files whose digests are cached for the length of a process."""


def prior_entry(prior: Prior) -> dict[str, Any]:
    """What a manifest keeps of a loaded prior."""
    known: dict[str, Any] = {
        "name": prior.name, "path": str(prior.path), "builtin": prior.builtin, "kind": prior.kind,
        "device": str(prior.device),
    }  # fmt: skip
    known |= {"added": added} if (added := _added(prior)) else {}
    return known | ({"fingerprint": fingerprint_of(prior)} if prior.path.is_dir() else {})


def fingerprint_of(prior: Prior) -> str:
    """`prior_fingerprint` of a loaded prior's directory, with the content of what was put into it, if anything was."""
    own, added = prior_fingerprint(prior.path), _added(prior)
    content = [{k: v for k, v in entry.items() if k != "path"} for entry in added]
    return own if not added else hashlib.sha256(json.dumps([own, content]).encode()).hexdigest()


def _added(prior: Prior) -> list[dict[str, str | float]]:
    """What was read besides a prior's directory, in order, with the SHA-256 of each file."""
    how = prior.how
    parts: list[tuple[str, Path, dict[str, str | float]]] = [
        *(("weights", path, {}) for path in filter(None, [prior.weights])),
        *(("lora", lora.path, {"scale": lora.scale}) for lora in how.loras),
        *(("embedding", path, {"name": path.stem}) for path in how.embeddings),
        *(("control-picture", path, {}) for path in pictures_of(how)),
    ]
    files = [{"what": what, "path": str(path.resolve()), "sha256": _sha256(path), **more} for what, path, more in parts]
    scale: dict[str, str | float] = {"what": "control", "scale": how.control_scale}
    models = [{**scale, "path": str(folder), "sha256": model_fingerprint(folder)} for folder in folders_of(how)]
    return [*files, *models]


def folders_of(how: Loading) -> list[Path]:
    """Where the models of a guard are: folders, or of a hub id what was read last in the hub's cache. Raises
    FileNotFoundError for one that is nowhere."""
    return [_folder_of(name) for name in how.control_models]


def _folder_of(name: str) -> Path:
    if (folder := at_home(Path(name))).is_dir():
        return folder.resolve()
    from huggingface_hub import try_to_load_from_cache  # slow to import

    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        raise FileNotFoundError(f"control: there is no folder {name}, and none in the hub's cache")
    return Path(config).parent


def files_beside(how: Loading) -> tuple[Path, ...]:
    """Files, and folders or patterns of them, that are read besides a prior's directory. Raises as `Loading.check`, and
    for a control clip as `open_clip` does."""
    how.check()
    pictures = () if how.control_picture is None else (at_home(how.control_picture), *pictures_of(how))
    return (*(lora.path for lora in how.loras), *how.embeddings, *pictures)


def models_beside(how: Loading) -> tuple[Path, ...]:
    """Folders of the networks that are read besides a prior's, where they are no hub ids."""
    return tuple(folder for name in how.control_models if (folder := at_home(Path(name))).is_dir())


def pictures_of(how: Loading) -> tuple[Path, ...]:
    """The files of the control pictures, one or those of a clip."""
    path = None if how.control_picture is None else at_home(how.control_picture)
    if path is None or path.is_file():
        return () if path is None else (path,)
    with read_as("control-picture"), open_clip(path) as clip:
        return clip.info.content


def _sha256(path: Path) -> str:
    status = path.stat()
    return _file_digest(path.resolve(), status.st_size, status.st_mtime_ns)


def prior_files(path: Path) -> list[Path]:
    """The files that a prior's pictures depend on, in order; not what is written about it, or lies beside its parts."""
    names = parts_of(path)
    parts = (file for part in names for file in (path / part).glob("**/*"))
    own = {path / "model_index.json", path / "vocabulary.json", *parts}
    return sorted(p for p in own if p.suffix in READ and p.is_file())


def prior_fingerprint(path: Path) -> str:
    """SHA-256 of the names and the whole content of a prior's files.

    Within a process a file is read once, unless its size or time of change is another by then. Of what came from the
    hub, the commit, which is a digest too: which of its files are there depends on what was asked for so far.
    """
    return _digest(path, prior_files(path))


def model_fingerprint(path: Path) -> str:
    """The same of a single network's folder."""
    return _digest(path, sorted(file for file in path.iterdir() if file.suffix in READ))


def _digest(path: Path, files: Iterable[Path]) -> str:
    if path.parent.name == "snapshots":
        return path.name
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path)}\0{_sha256(file)}\0".encode())
    return digest.hexdigest()


@lru_cache(maxsize=REMEMBERED)
def _file_digest(file: Path, size: int, changed_ns: int) -> str:
    """SHA-256 of a file; size and time of change tell whether a remembered one still holds."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
