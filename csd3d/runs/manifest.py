"""The manifest: everything that is needed to say where a result came from, in one JSON file.

It is rewritten at every phase of a run, so a run that died says how far it came.
"""

import dataclasses
import hashlib
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import torch

from csd3d import __version__
from csd3d.media.atomic import write_json
from csd3d.media.json_file import load_json
from csd3d.runs.settings import fits, override, with_absent, without_prompt

FORMAT = 2
"""Of the manifests that are written. Those of format 1 are read too; a run that has one cannot be resumed."""
_READABLE = (1, FORMAT)
C = TypeVar("C")
Status = Literal["running", "interrupted", "failed", "finished", "undone"]
_PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "decord", "av", "opencv-python-headless", "numpy")


@dataclass
class Manifest:
    """A record of one run; fields are filled in while it goes on and `write` puts it on disk."""

    command: str
    """What ran: `video`, `panorama`, ..."""
    config: dict[str, Any]
    """The complete settings, as plain JSON values."""
    seed: int
    """The seed all randomness of the run descends from."""
    inputs: list[dict[str, Any]] = field(default_factory=list)
    """One entry an input: `path`, `sha256`, `bytes` (see `fingerprint`), and maybe `beside`: it is no source."""
    prior: dict[str, Any] = field(default_factory=dict)
    """Which diffusion model: name as asked for, what it resolved to, kind, where it computes."""
    notes: list[str] = field(default_factory=list)
    """Every fallback and warning of the run, in order, each once."""
    timing_s: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds spent in each phase, over all sessions of the run."""
    memory_bytes: dict[str, int] = field(default_factory=dict)
    """Peak memory by kind of memory."""
    outputs: dict[str, str] = field(default_factory=dict)
    """What was written, by role."""
    written: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the results by absolute path, by which an edit of an edit finds its history."""
    modified_ns: dict[str, int] = field(default_factory=dict)
    """When the results were last modified (ns since 1970), by absolute path: nobody else knows it, so what still has it
    is what the run left there."""
    writing: dict[str, str] = field(default_factory=dict)
    """The same of a folder that is about to appear, by which a run that is killed then knows it for its own."""
    numbers: dict[str, float | int | str] = field(default_factory=dict)
    """Measured results, if any were measured."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Earlier runs this one starts from, oldest first."""
    status: Status = "running"
    """How the run stands."""
    steps_done: int = 0
    """Optimisation steps finished, each of one batch of particles."""
    moves_done: int | None = None
    """Moves of all particles finished, which is what `--steps` counts. None: each step is one."""
    created: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    """When the run was first started (UTC)."""
    versions: dict[str, str] = field(default_factory=lambda: software_versions())
    """Versions of this project and of what it stands on."""
    machine: dict[str, Any] = field(default_factory=lambda: describe_machine())
    """Operating system, processor, accelerator."""
    format: int = FORMAT
    """Which form the manifest has."""

    def note(self, text: str) -> bool:
        """Record a fallback or warning; False if this very text was recorded before."""
        if text in self.notes:
            return False
        self.notes.append(text)
        return True

    def add_time(self, phase: str, seconds: float) -> None:
        """Add `seconds` to what `phase` has taken so far."""
        self.timing_s[phase] = round(self.timing_s.get(phase, 0.0) + seconds, 3)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Within the block time runs for `phase`, however the block ends."""
        since = time.monotonic()
        try:
            yield
        finally:
            self.add_time(phase, time.monotonic() - since)

    def measure_memory(self) -> None:
        """Record the peak memory of this process; a resumed run records the largest of its sessions."""
        for kind, value in peak_memory().items():
            self.memory_bytes[kind] = max(value, self.memory_bytes.get(kind, 0))

    def write(self, path: Path) -> None:
        """Write the manifest to `path` atomically.

        Raises:
            ValueError: a number in it is not finite.
        """
        write_json(path, dataclasses.asdict(self))

    @property
    def steps(self) -> int:
        """Steps finished, as `--steps` counts them."""
        return self.steps_done if self.moves_done is None else self.moves_done

    @property
    def said_steps(self) -> str:
        """How many steps of those asked for were done, in words: fewer where the run ended before."""
        asked = self.config["csd"]["steps"]
        return f"{asked} steps" if self.moves_done in (None, asked) else f"{self.moves_done} of {asked} steps"

    @property
    def source(self) -> str | None:
        """Path of what was edited; None where nothing was."""
        return next((entry["path"] for entry in self.inputs[:1] if not entry.get("beside")), None)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a manifest.

        Raises:
            FileNotFoundError: there is none at `path`.
            ValueError: it is not JSON, of another format, lacks or has unknown fields, or some of another kind.
        """
        if not path.is_file():
            raise FileNotFoundError(f"manifest: expected a run with a manifest, got no file at {path}")
        value = load_json(path, "manifest")
        found = value.get("format") if isinstance(value, dict) else None
        if not isinstance(value, dict) or found not in _READABLE:
            raise ValueError(f"manifest: expected format {FORMAT} or below, got {found} in {path}")
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(value) - known):
            raise ValueError(f"manifest: unknown fields {unknown} in {path}")
        if missing := sorted({"command", "config", "seed"} - set(value)):
            raise ValueError(f"manifest: missing fields {missing} in {path}")
        hints = get_type_hints(cls)
        for name, item in value.items():
            if not fits(item, hints[name]):
                raise ValueError(f"manifest: expected {name} to be another kind of value, got {item!r:.60} in {path}")
        manifest = cls(**value)
        if not all({"path", "sha256"} <= {k for k, v in i.items() if isinstance(v, str)} for i in manifest.inputs):
            raise ValueError(f"manifest: expected a path and a sha256 for each input in {path}")
        if not all("prompt" in run for run in manifest.history):
            raise ValueError(f"manifest: expected a prompt for each run of the history in {path}")
        return manifest


def read_settings(config: C, manifest: Manifest) -> C:
    """`config` with all settings that a run recorded.

    Raises:
        ValueError: an earlier version of this project made the run.
    """
    if manifest.format != FORMAT:
        raise ValueError(
            f"resume: expected a run of this version (format {FORMAT}), got one that an earlier version began "
            f"(format {manifest.format}): begin it anew"
        )
    return override(config, without_prompt(with_absent(manifest.config, type(config))), where="manifest")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, ignore: tuple[str, ...] = ()) -> list[str]:
    """Which settings differ between two plain configs, as readable `name: old -> new` phrases, nested names dotted.

    `ignore` holds dotted names that may differ.
    """
    a, b = _flatten(old), _flatten(new)
    names = sorted(set(a) | set(b))
    return [f"{n}: {a.get(n)!r} -> {b.get(n)!r}" for n in names if a.get(n) != b.get(n) and n not in ignore]


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat.update(_flatten(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def fingerprint(path: Path, files: Sequence[Path] = ()) -> dict[str, Any]:
    """Path, SHA-256 and size in bytes of a file, of `files`, or of all files of a folder taken in name order.

    Raises:
        FileNotFoundError: `path` does not exist, and no files are given.
    """
    if not files and not path.exists():
        raise FileNotFoundError(f"input: {path} does not exist")
    several = bool(files) or path.is_dir()
    if not files:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if several else [path]
    digest, size = hashlib.sha256(), 0
    for file in files:
        if several:
            name = file.relative_to(path) if file.is_relative_to(path) else file.name
            digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        size += _hash_into(digest, file)
    return {"path": str(path.resolve()), "sha256": digest.hexdigest(), "bytes": size}


def _hash_into(digest: Any, file: Path) -> int:
    size = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    return size


def software_versions() -> dict[str, str]:
    """Versions of this project, Python and the packages results depend on; absent packages are left out."""
    found = {"csd3d": __version__, "python": platform.python_version()}
    return found | {name: installed for name in _PACKAGES if (installed := _installed(name)) is not None}


@cache
def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_machine() -> dict[str, Any]:
    """Operating system, processor count and accelerator, without names of persons or hosts."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.machine(),
        "cores": os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        "accelerator": ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "none",
    }


def peak_memory() -> dict[str, int]:
    """Peak resident memory of this process and, with CUDA in use, the largest peak of a device's, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts kilobytes on Linux, bytes on macOS
    peak = {"resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["cuda"] = max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
    return peak
