"""The folder of an editor's run: its files, how it is started, what must agree when it is resumed, its state.

manifest.json           settings, versions, hashes, notes, timing; rewritten at every phase
sources.safetensors     latents of the sources, written once
state.safetensors       particles, random state, step and curves; rewritten every few steps
report.html, sheet.png, media/      for people
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.loop import Particles, StepInfo
from csd3d.runs.atomic import remove_leftovers
from csd3d.runs.checkpoint import load_checkpoint, save_checkpoint
from csd3d.runs.manifest import Manifest, differences

CURVES = ("t", "lr", "gradient_rms", "residual_rms", "kernel_mean")
"""What is kept of every step."""
_END_BYTES = 1 << 16


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run are."""

    path: Path

    @property
    def manifest(self) -> Path:
        """What the run was told and what it found."""
        return self.path / "manifest.json"

    @property
    def sources(self) -> Path:
        """Latents of the sources."""
        return self.path / "sources.safetensors"

    @property
    def state(self) -> Path:
        """The latest saved state."""
        return self.path / "state.safetensors"

    @property
    def media(self) -> Path:
        """Folder of what the report shows."""
        return self.path / "media"

    @property
    def sheet(self) -> Path:
        """The contact sheet."""
        return self.path / "sheet.png"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"


def free_name(stem: str, prompt: str, *, base: Path = Path("runs")) -> Path:
    """A folder below `base` that does not exist yet, named after what is edited and how."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{stem} {prompt}".lower()).strip("-")[:60].strip("-") or "run"
    names = (slug if k == 1 else f"{slug}-{k}" for k in range(1, 1_000_000))
    return next(base / name for name in names if not (base / name).exists())


def start_run(path: Path, manifest: Manifest) -> RunFolder:
    """Make the folder of a new run and write its manifest.

    Raises:
        ValueError: the folder already holds a run, or files of something else.
    """
    folder = RunFolder(path)
    if folder.manifest.exists():
        raise ValueError(
            f"run-dir: {path} already holds a run; --resume goes on with it, another --run-dir starts anew"
        )
    if path.is_dir():
        remove_leftovers(path)  # of a start that was killed before it had a manifest
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"run-dir: expected a new or empty folder, got {path}")
    path.mkdir(parents=True, exist_ok=True)
    manifest.write(folder.manifest)
    return folder


def reopen_run(path: Path, manifest: Manifest, *, free: tuple[str, ...]) -> tuple[RunFolder, Manifest]:
    """Open an earlier run that `manifest`, made from what is asked for now, must agree with.

    Returns the folder and the run's manifest with the settings, versions and machine of now.

    Args:
        path: the folder.
        manifest: of what is asked for now.
        free: dotted names of settings that may differ, because they do not touch the steps already done.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the run is of another command, input, prior or other settings.
    """
    folder = RunFolder(path)
    old = Manifest.read(folder.manifest)
    if old.command != manifest.command:
        raise ValueError(f"resume: expected a run of {manifest.command}, got one of {old.command} in {path}")
    if changed := differences(old.config, manifest.config, ignore=free):
        raise ValueError(f"resume: the run in {path} has other settings ({'; '.join(changed)})")
    now, then = ({i["sha256"] for i in m.inputs} for m in (manifest, old))
    if now != then:
        names = ", ".join(i["path"] for i in manifest.inputs if i["sha256"] not in then) or "the input"
        raise ValueError(f"resume: {names} is not what the run in {path} was started with")
    if old.prior.get("fingerprint") != manifest.prior.get("fingerprint"):
        raise ValueError(
            f"resume: the prior {manifest.prior['name']!r} is not the one the run in {path} was started with"
        )
    for place in (folder.path, folder.media):
        remove_leftovers(place)
    old.status, old.config = "running", manifest.config
    old.versions, old.machine = manifest.versions, manifest.machine
    return folder, old


def save_sources(folder: RunFolder, s: Float[Tensor, "n c h w"]) -> None:
    """Keep the source latents, so that a resumed run has the very same ones."""
    save_checkpoint(folder.sources, {"s": s}, {})


def load_sources(folder: RunFolder) -> Float[Tensor, "n c h w"] | None:
    """The source latents, or None when the run was stopped before it had them."""
    return load_checkpoint(folder.sources).tensors["s"] if folder.sources.exists() else None


def save_state(
    folder: RunFolder, particles: Particles, rng: torch.Generator, curves: Sequence[StepInfo], step: int
) -> None:
    """Everything needed to go on after `step` steps, in one atomic file.

    `curves` are the steps of all starts of the run together. The particles' state must be flat: tensors by name.
    """
    rows = [[_as_float(getattr(info, name)) for name in CURVES] for info in curves]
    tensors = {f"particles.{name}": value for name, value in particles.state_dict().items()}
    tensors["rng"] = rng.get_state()
    tensors["curves"] = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(CURVES))
    save_checkpoint(folder.state, tensors, {"step": step, "curves": list(CURVES)})


def load_state(folder: RunFolder, particles: Particles, rng: torch.Generator) -> tuple[int, list[StepInfo]]:
    """Put particles and random state back; the number of steps done and their curves (0 and none for a fresh run).

    Raises:
        ValueError: the state does not fit these particles.
    """
    if not folder.state.exists():
        return 0, []
    saved = load_checkpoint(folder.state)
    mine = {k.removeprefix("particles."): v for k, v in saved.tensors.items() if k.startswith("particles.")}
    particles.load_state_dict(mine)
    rng.set_state(saved.tensors["rng"])
    table = saved.tensors["curves"].tolist()
    curves = [_as_info(i, dict(zip(saved.record["curves"], row, strict=True))) for i, row in enumerate(table)]
    return int(saved.record["step"]), curves


def prior_fingerprint(path: Path) -> str:
    """A digest of the names, sizes and ends of a prior's files: tells two apart without reading gigabytes."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.suffix in (".json", ".safetensors", ".txt") and p.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_END_BYTES))
            stream.seek(max(size - _END_BYTES, 0))
            digest.update(stream.read())
    return digest.hexdigest()


def _as_float(value: float | int | None) -> float:
    return float("nan") if value is None else float(value)


def _as_info(step: int, row: dict[str, Any]) -> StepInfo:
    kernel = row["kernel_mean"]
    return StepInfo(
        step=step,
        t=int(row["t"]),
        lr=row["lr"],
        index=(),
        gradient_rms=row["gradient_rms"],
        residual_rms=row["residual_rms"],
        kernel_mean=None if kernel != kernel else kernel,
    )
