"""The folder of a video run: what is in it, how it is started, and what must agree when it is resumed.

manifest.json            settings, versions, hashes, notes, timing; rewritten at every phase
sources.safetensors      latents of the source frames, written once
state.safetensors        latents, optimiser, random state, step and curves; rewritten every few steps
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

from csd3d.engine.loop import StepInfo
from csd3d.runs.atomic import remove_leftovers
from csd3d.runs.checkpoint import load_checkpoint, save_checkpoint
from csd3d.runs.manifest import Manifest, differences
from video.particles import FrameParticles

FREE = ("device", "checkpoint_every", "chunk_frames", "crf", "detail", "csd.steps")
"""Settings that may change when a run is resumed: they do not touch the steps already done."""
CURVES = ("t", "lr", "gradient_rms", "residual_rms", "kernel_mean")
"""What is kept of every step."""


@dataclass(frozen=True)
class RunDir:
    """Names of the files of a run."""

    path: Path

    @property
    def manifest(self) -> Path:
        """What the run was told and what it found."""
        return self.path / "manifest.json"

    @property
    def sources(self) -> Path:
        """Latents of the source frames."""
        return self.path / "sources.safetensors"

    @property
    def state(self) -> Path:
        """The latest saved state."""
        return self.path / "state.safetensors"

    @property
    def media(self) -> Path:
        """Folder of the report's players."""
        return self.path / "media"

    @property
    def sheet(self) -> Path:
        """The contact sheet."""
        return self.path / "sheet.png"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"


def new_run_dir(stem: str, prompt: str, *, base: Path = Path("runs")) -> Path:
    """A folder name that is not taken, from what is edited and how."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{stem} {prompt}".lower()).strip("-")[:60] or "run"
    path, number = base / words, 2
    while path.exists():
        path, number = base / f"{words}-{number}", number + 1
    return path


def start(path: Path, manifest: Manifest) -> RunDir:
    """Make the folder of a new run and write its manifest.

    Raises:
        ValueError: the folder already holds a run, or files of something else.
    """
    run = RunDir(path)
    if run.manifest.exists():
        raise ValueError(
            f"run-dir: {path} already holds a run; --resume goes on with it, another --run-dir starts anew"
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"run-dir: expected a new or empty folder, got {path}")
    path.mkdir(parents=True, exist_ok=True)
    manifest.write(run.manifest)
    return run


def resume(path: Path, manifest: Manifest) -> tuple[RunDir, Manifest]:
    """Open the folder of an earlier run that `manifest`, made from what was asked now, must agree with.

    Returns the run and its manifest, with the settings of now (only those in `FREE` can differ).

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the run is of another clip, prior, prompt or settings.
    """
    run = RunDir(path)
    old = Manifest.read(run.manifest)
    if old.command != manifest.command:
        raise ValueError(f"resume: expected a run of {manifest.command}, got one of {old.command} in {path}")
    if changed := differences(old.config, manifest.config, ignore=FREE):
        raise ValueError(f"resume: the run in {path} has other settings ({'; '.join(changed)})")
    if [i["sha256"] for i in old.inputs] != [i["sha256"] for i in manifest.inputs]:
        raise ValueError(f"resume: {manifest.inputs[0]['path']} is not what the run in {path} was started with")
    if old.prior.get("fingerprint") != manifest.prior.get("fingerprint"):
        raise ValueError(
            f"resume: the prior {manifest.prior['name']!r} is not the one the run in {path} was started with"
        )
    for folder in (path, run.media):
        remove_leftovers(folder)
    old.config, old.status, old.versions, old.machine = (
        manifest.config,
        "running",
        manifest.versions,
        manifest.machine,
    )
    return run, old


def save_sources(run: RunDir, s: Float[Tensor, "n c h w"]) -> None:
    """Keep the source latents, so that a resumed run has the very same ones."""
    save_checkpoint(run.sources, {"s": s}, {})


def load_sources(run: RunDir) -> Float[Tensor, "n c h w"] | None:
    """The source latents, or None if the run was stopped before it had them all."""
    return load_checkpoint(run.sources).tensors["s"] if run.sources.exists() else None


def save_state(
    run: RunDir, particles: FrameParticles, rng: torch.Generator, curves: Sequence[StepInfo], step: int
) -> None:
    """Everything needed to go on after `step` steps, in one atomic file.

    `curves` are the steps of this start and the earlier ones together.
    """
    table = torch.tensor([[_number(getattr(i, name)) for name in CURVES] for i in curves], dtype=torch.float64)
    tensors = {f"particles.{name}": value for name, value in particles.state_dict().items()}
    tensors |= {"rng": rng.get_state(), "curves": table.reshape(-1, len(CURVES))}
    save_checkpoint(run.state, tensors, {"step": step, "curves": list(CURVES)})


def load_state(run: RunDir, particles: FrameParticles, rng: torch.Generator) -> tuple[int, list[StepInfo]]:
    """Put particles and random state back; returns the number of steps done and their curves (0 for a fresh run).

    Raises:
        ValueError: the state does not fit this clip.
    """
    if not run.state.exists():
        return 0, []
    saved = load_checkpoint(run.state)
    prefix = "particles."
    particles.load_state_dict({k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)})
    rng.set_state(saved.tensors["rng"])
    steps = []
    for i, row in enumerate(saved.tensors["curves"].tolist()):
        values: dict[str, Any] = dict(zip(saved.record["curves"], row, strict=True))
        kernel = values["kernel_mean"]
        steps.append(
            StepInfo(
                i, int(values["t"]), values["lr"], (), values["gradient_rms"], values["residual_rms"],
                None if kernel != kernel else kernel,
            )
        )  # fmt: skip
    return int(saved.record["step"]), steps


def prior_fingerprint(folder: Path) -> str:
    """A digest of names, sizes and ends of the files of a prior: tells two apart without reading gigabytes."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".json", ".safetensors", ".txt")):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder)}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 16))
            stream.seek(max(size - (1 << 16), 0))
            digest.update(stream.read())
    return digest.hexdigest()


def _number(value: float | int | None) -> float:
    return float("nan") if value is None else float(value)
