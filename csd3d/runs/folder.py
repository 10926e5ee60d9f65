"""The folder of an editor's run: its files, how it is started, what must agree when it is resumed, its state.

manifest.json           settings, versions, hashes, notes, timing; rewritten at every phase
sources.safetensors     latents of the sources, written once
state.safetensors       particles, random state and the log of the steps; rewritten every few steps
differences.npy, mask.png or mask/      what `--mask auto` found
report.html, sheet.png, gradient.png, media/      for people
"""

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.loop import Stateful
from csd3d.media.atomic import make_folder, remove_leftovers
from csd3d.runs.checkpoint import as_saved, load_checkpoint, save_checkpoint
from csd3d.runs.log import StepLog
from csd3d.runs.manifest import Manifest, differences


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run are."""

    path: Path

    @property
    def manifest(self) -> Path:
        """Settings, inputs, notes and measurements of the run."""
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
    def differences(self) -> Path:
        """How much a prior's predictions differ at every latent, where a mask is found (`csd3d.runs.found_masks`)."""
        return self.path / "differences.npy"

    @property
    def mask(self) -> Path:
        """The mask that was found for a picture."""
        return self.path / "mask.png"

    @property
    def masks(self) -> Path:
        """Folder of the masks that were found for the frames of a clip."""
        return self.path / "mask"

    @property
    def media(self) -> Path:
        """Folder of what the report shows."""
        return self.path / "media"

    @property
    def sheet(self) -> Path:
        """The contact sheet."""
        return self.path / "sheet.png"

    @property
    def gradient(self) -> Path:
        """The picture of the gradient."""
        return self.path / "gradient.png"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def own_files(self) -> tuple[Path, ...]:
        """What no result may be called."""
        found = self.differences, self.mask, self.masks
        return self.manifest, self.sources, self.state, *found, self.media, self.sheet, self.gradient, self.report

    def save(self, particles: Stateful, rng: torch.Generator, log: StepLog) -> None:
        """Keep everything needed to go on after the steps of `log`, in one atomic file.

        The particles' state must be flat: tensors by name.
        """
        tensors = {f"particles.{name}": value for name, value in particles.state_dict().items()}
        tensors |= {f"log.{name}": value for name, value in log.state_dict().items()}
        save_checkpoint(self.state, {**tensors, "rng": rng.get_state()}, {"step": log.done})

    def load(self, particles: Stateful, rng: torch.Generator, log: StepLog) -> None:
        """Put particles, random state and the log of the steps done back, where a state was saved.

        Raises:
            ValueError: the state does not fit these particles.
        """
        if not self.state.exists():
            return
        saved = load_checkpoint(self.state).tensors
        with as_saved(self.state):
            particles.load_state_dict(_below("particles.", saved))
            rng.set_state(saved["rng"])
            log.load_state_dict(_below("log.", saved))


def free_name(stem: str, prompt: str, *, base: Path = Path("runs")) -> Path:
    """A folder below `base` that does not exist yet, named after what is edited and how."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{stem} {prompt}".lower()).strip("-")[:60].strip("-") or "run"
    names = (slug if k == 1 else f"{slug}-{k}" for k in range(1, 1_000_000))
    return next(base / name for name in names if not os.path.lexists(base / name))


def claim_name(stem: str, prompt: str, *, base: Path = Path("runs")) -> Path:
    """Make the folder of `free_name`: of several runs that begin at once each gets one of its own."""
    while True:
        path = free_name(stem, prompt, base=base)
        make_folder(path.parent)
        try:
            make_folder(path, exist_ok=False)
        except FileExistsError:
            continue
        return path


def require_no_run(path: Path) -> None:
    """Raises ValueError where a folder already holds a run."""
    if RunFolder(path).manifest.exists():
        raise ValueError(
            f"run-dir: {path} already holds a run; --resume goes on with it, another --run-dir starts anew"
        )


@contextmanager
def start_run(path: Path, manifest: Manifest) -> Iterator[RunFolder]:
    """Make the folder of a new run and write its manifest; within the block no other process works in it.

    Raises:
        ValueError: the folder already holds a run, or files of something else, or another process is at work in it.
    """
    folder = RunFolder(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"run-dir: expected a new or empty folder, got {path}")
    make_folder(path)
    with exclusive(path):  # first: of several starts at once, one begins and the others are refused
        require_no_run(path)
        remove_leftovers(path)  # of a start that was killed before it had a manifest
        if any(path.iterdir()):
            raise ValueError(f"run-dir: expected a new or empty folder, got {path}")
        manifest.write(folder.manifest)
        yield folder


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Within the block no other process works in the folder of a run. Raises ValueError if one already does."""
    fd = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"run-dir: another process is at work in {path}") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(fd)


def reopen_run(
    path: Path, old: Manifest, manifest: Manifest, *, free_on_resume: tuple[str, ...]
) -> tuple[RunFolder, Manifest]:
    """Open the earlier run `old`, with which `manifest`, made from what is asked for now, must agree.

    Returns the folder and the run's manifest with the settings, versions and machine of now.

    Args:
        path: the folder.
        old: the run's manifest.
        manifest: of what is asked for now.
        free_on_resume: dotted names of settings that may differ, because they do not touch the steps already done.

    Raises:
        ValueError: the run is of another command, input, prior or other settings.
    """
    folder = RunFolder(path)
    if old.command != manifest.command:
        raise ValueError(f"resume: expected a run of {manifest.command}, got one of {old.command} in {path}")
    if changed := differences(old.config, manifest.config, ignore=free_on_resume):
        raise ValueError(f"resume: the run in {path} has other settings ({'; '.join(changed)})")
    now, then = ([i["sha256"] for i in m.inputs] for m in (manifest, old))
    if now != then:  # in order: each has its part in the run
        changed = [i["path"] for i in manifest.inputs if i["sha256"] not in then]
        moved = [i["path"] for i, sha256 in zip(manifest.inputs, then, strict=False) if i["sha256"] != sha256]
        names = ", ".join(changed or moved) or "the input"
        raise ValueError(f"resume: {names} is not what the run in {path} was started with")
    if old.prior.get("fingerprint") != manifest.prior.get("fingerprint"):
        raise ValueError(
            f"resume: the prior {manifest.prior['name']!r} is not the one the run in {path} was started with"
        )
    for place in (folder.path, folder.media):
        remove_leftovers(place)
    old.status, old.config, old.outputs = "running", manifest.config, old.outputs | manifest.outputs
    old.versions, old.machine = manifest.versions, manifest.machine
    old.write(folder.manifest)
    return folder, old


def save_sources(folder: RunFolder, s: Float[Tensor, "n c h w"]) -> None:
    """Keep the source latents, so that a resumed run has the very same ones."""
    save_checkpoint(folder.sources, {"s": s}, {})


def load_sources(folder: RunFolder) -> Float[Tensor, "n c h w"] | None:
    """The source latents, or None when the run was stopped before it had them."""
    if not folder.sources.exists():
        return None
    saved = load_checkpoint(folder.sources)
    with as_saved(folder.sources):
        if (s := saved.tensors["s"]).dtype != torch.float32 or s.ndim != 4:
            raise ValueError(f"latents of {s.dtype} in {s.ndim} dimensions")
        return s


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
