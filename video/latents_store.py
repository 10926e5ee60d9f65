"""The latents of a run on disk: sources, the latents as they are now, and a saved state that is always complete.

sources.npy             latents of the source frames, written once
greys.npy               the frames in grey, for their motion, written once
now-NAME.npy            what steps read and write; of no use after a crash
state-STEP-NAME.npy     copies of them after STEP steps; state.safetensors, written last, says which STEP counts
noise.npy               of the frames, where they are sampled from it, written once
trajectory.npy          sources at every level, while an inverted run needs them; a repeated step writes the same
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from csd3d.engine.loop import Stateful
from csd3d.runs.checkpoint import as_saved, load_checkpoint
from csd3d.runs.folder import RunFolder
from csd3d.runs.log import StepLog
from csd3d.runs.rows import Rows, copy_rows, writing_rows

_ZEROS = 64


class LatentsStore:
    """Arrays of a clip's particles in the folder of its run."""

    def __init__(self, folder: RunFolder, names: Sequence[str], shape: Sequence[int | None]) -> None:
        """Arrays `names` (see `video.particles.state_arrays`) of a shape [n c h w], of which None may be any size, as
        the last saved state has them, or as they begin.

        Raises:
            FileNotFoundError, ValueError: the saved state lacks an array, or one is damaged or of another shape.
        """
        self._folder, self._names = folder, tuple(names)
        self.sources = Rows(sources_path(folder)).of(shape)
        step = saved_step(folder)
        self._forget(but=step)
        for name in self._names:
            if step is not None:
                copy_rows(self._saved(step, name), self._now(name))
            elif name == "z":
                copy_rows(sources_path(folder), self._now(name))
            else:
                count, row = len(self.sources), self.sources.shape[1:]
                with writing_rows(self._now(name), count) as append:
                    for k in range(0, count, _ZEROS):
                        append(torch.zeros(min(_ZEROS, count - k), *row))
        self.arrays = {name: Rows(self._now(name)).of(self.sources.shape) for name in self._names}
        self.beside = list[Rows]()
        """Files that steps write and no state holds."""

    def load(self, particles: Stateful, rng: torch.Generator, log: StepLog) -> None:
        """Everything else of the saved state."""
        self._folder.load(particles, rng, log)

    def save(self, particles: Stateful, rng: torch.Generator, log: StepLog) -> None:
        """Save the state after the steps of `log`; however it is stopped, the earlier state or this one is complete."""
        for rows in self.beside:
            rows.flush()
        for name in self._names:
            copy_rows(self._now(name), self._saved(log.done, name))
        self._folder.save(particles, rng, log)
        self._forget(but=log.done)

    def close(self) -> None:
        """Free the files and delete what only a running start needs."""
        for rows in (self.sources, *self.arrays.values(), *self.beside):
            rows.close()
        for name in self._names:
            self._now(name).unlink(missing_ok=True)

    def _forget(self, *, but: int | None) -> None:
        """Delete saved arrays of other steps."""
        for path in self._folder.path.glob("state-*.npy"):
            if path.name.split("-")[1] != str(but):
                path.unlink()

    def _now(self, name: str) -> Path:
        return self._folder.path / f"now-{name}.npy"

    def _saved(self, step: int, name: str) -> Path:
        return self._folder.path / f"state-{step}-{name}.npy"


def sources_path(folder: RunFolder) -> Path:
    """The latents of the source frames."""
    return folder.path / "sources.npy"


def greys_path(folder: RunFolder) -> Path:
    """The frames in grey."""
    return folder.path / "greys.npy"


def noise_path(folder: RunFolder) -> Path:
    """The noise of the frames."""
    return folder.path / "noise.npy"


def trajectory_path(folder: RunFolder) -> Path:
    """The sources at every level."""
    return folder.path / "trajectory.npy"


def saved_step(folder: RunFolder) -> int | None:
    """After how many steps the state was saved; None if it was not."""
    if not folder.state.exists():
        return None
    saved = load_checkpoint(folder.state)
    with as_saved(folder.state):
        return int(saved.record["step"])
