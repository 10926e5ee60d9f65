"""One start of a run, as far as it is the same in all editors: particles are moved, and whatever ends it is recorded.

    with started(path, manifest, results, progress, resume=resume, free=FREE) as start:
        ...
        log = start.move(particles, score, csd, rng, count=n)
        ...
        start.finish(report, log, show, decode)

How sources become latents, and latents a result, is each editor's own.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import Particles, run
from csd3d.engine.residuals import Score
from csd3d.engine.stein import Kernel
from csd3d.media.atomic import remove_parts
from csd3d.media.sheet import save_picture
from csd3d.runs.folder import RunFolder, alone, reopen_run, start_run
from csd3d.runs.interrupt import RunInterrupted, StopRequest, stoppable
from csd3d.runs.log import Show, StepLog
from csd3d.runs.manifest import Manifest, fingerprint
from csd3d.runs.progress import RunProgress
from csd3d.runs.report import Report, write_report


@runtime_checkable
class Kept(Protocol):
    """Where the state of a run is kept; a `RunFolder`, or what keeps more than fits into its state file."""

    def load(self, particles: Any, rng: torch.Generator, log: StepLog) -> None:
        """Put back what was saved, if anything was."""
        ...

    def save(self, particles: Any, rng: torch.Generator, log: StepLog) -> None:
        """Keep the state after the steps of `log`; whenever this is stopped, the earlier state or this one is whole."""
        ...


@dataclass
class Start:
    """One start of a run."""

    folder: RunFolder
    manifest: Manifest
    results: Sequence[Path]
    """What the run writes for the person."""
    progress: RunProgress
    stop: StopRequest

    def note(self, *texts: str) -> None:
        """Say what was not said before, and keep it in the manifest."""
        for text in texts:
            if self.manifest.note(text):
                self.progress.say(f"note: {text}")

    def note_prior(self, prior: Any, asked_device: str | None) -> None:
        """Say what a person should know of the prior and where it computes."""
        if prior.builtin and getattr(prior, "kind", "instruct") == "instruct":
            self.note(
                "the built-in prior is small and knows a closed set of sentences; "
                "--prior timbrooks/instruct-pix2pix (or a folder) uses a big one"
            )
        elif prior.builtin:
            self.note(
                "the built-in prior is small and knows a closed set of words; "
                "--prior takes any Stable Diffusion 1.x or 2.x (a folder or hub id)"
            )
        if asked_device is None and prior.device.type == "cpu":
            self.note("no CUDA device is in use: running on the CPU")

    def stop_if_asked(self, how_far: str, *, alone: bool = True) -> None:
        """Raises `RunInterrupted`, after saying how far the run came, if a person asked it to stop.

        Its text has the command that goes on, if the folder is all that this takes (`alone`).
        """
        if self.stop.signum is not None:
            self.progress.say(f"stopped: {how_far}")
            command = self.manifest.command if alone else None
            raise RunInterrupted(self.folder.path, self.stop.signum, command=command)

    def move(
        self,
        particles: Particles,
        score: Score,
        csd: CsdConfig,
        rng: torch.Generator,
        *,
        count: int,
        turns: int = 1,
        kernel: Kernel | None = None,
        kept: Kept | None = None,
        save_every: int = 10,
        phase: str = "edit",
    ) -> StepLog:
        """Move `count` particles, from the last saved state to the end of `csd.steps`; returns the steps of all starts.

        Args:
            particles: as they begin; a saved state is put back into them.
            score: the prior under its sentences.
            csd: settings. `steps` and `lr_decay_every` count moves, each of which takes `turns` steps of the loop.
            rng: all randomness, on the CPU.
            count: particles of the whole set.
            turns: steps until every particle was moved.
            kernel: replaces the one that `csd.bandwidth` describes.
            kept: where the state is kept; None = in the run's folder.
            save_every: steps between two saved states.
            phase: what people call it.

        Raises:
            ValueError: fewer steps are asked for than were done, or the saved state is of something else.
            FloatingPointError: a residual or gradient is not finite; the last saved state is still there.
            RunInterrupted: the run was asked to stop and its state is saved.
        """
        csd = replace(csd, steps=csd.steps * turns, lr_decay_every=csd.lr_decay_every * turns)
        kept, log = kept or self.folder, StepLog(count)
        kept.load(particles, rng, log)
        if log.done > csd.steps:
            raise ValueError(f"steps: expected at least the {log.done} that this run has done, got {csd.steps}")

        def save() -> None:
            kept.save(particles, rng, log)
            self.manifest.steps_done = log.done

        with self.manifest.timed(phase):
            steps = run(particles, score, csd, rng=rng, start=log.done, kernel=kernel, watch=log.watch)
            for info in self.progress.track(phase, steps, total=csd.steps, start=log.done):
                log.add(info)
                if self.stop or log.done % save_every == 0 or log.done == csd.steps:
                    save()
                self.stop_if_asked(f"{log.done} of {csd.steps} steps are done")
            if not self.folder.state.exists():
                save()
        self.manifest.write(self.folder.manifest)
        return log

    def finish(self, page: Report, log: StepLog, show: Show, decode: Callable[[Tensor], Tensor]) -> None:
        """Write the picture of the gradient, the report and the last word of the manifest.

        Args:
            page: what the editor shows of its own; curves, settings, notes and the like are put in.
            log: the steps, maybe none.
            show: names particles and gives their latents.
            decode: makes pixels in [0, 1] of latents.
        """
        if (picture := log.picture(show, decode)) is not None:
            save_picture(picture, self.folder.gradient)
            page = replace(page, gradient=self.folder.gradient.name)
        self.close(replace(page, curves=log.curves()))

    def close(self, page: Report) -> None:
        """Write the report and the last word of the manifest: that the run is finished, and what it has written."""
        manifest, folder = self.manifest, self.folder
        manifest.status = "finished"
        manifest.measure_memory()
        manifest.outputs |= {"report": str(folder.report.resolve()), "sheet": str(folder.sheet.resolve())}
        manifest.written |= {entry["path"]: entry["sha256"] for entry in map(fingerprint, self.results)}
        seconds = {f"{name} (s)": value for name, value in manifest.timing_s.items()}
        memory = {f"peak {kind} memory (MB)": round(value / 1e6) for kind, value in manifest.memory_bytes.items()}
        page = replace(
            page, command=self._repeat(), sheet=folder.sheet.name, numbers=manifest.numbers, settings=manifest.config,
            notes=manifest.notes,
            environment={**seconds, **memory, "versions": manifest.versions, "machine": manifest.machine},
        )  # fmt: skip
        write_report(folder.report, page)
        manifest.write(folder.manifest)

    def _repeat(self) -> str:
        """The command that does the same again; none where a run takes more than a source and a sentence."""
        manifest = self.manifest
        if "prompt" not in manifest.config:
            return ""
        words = ["csd3d", manifest.command, *(entry["path"] for entry in manifest.inputs[:1])]
        words += ["--prompt", prompt] if (prompt := manifest.config["prompt"]) is not None else []
        return shlex.join([*words, "--preset", str(self.folder.manifest)])


@contextmanager
def started(
    path: Path,
    manifest: Manifest,
    results: Sequence[Path],
    progress: RunProgress,
    *,
    resume: bool,
    free: tuple[str, ...],
) -> Iterator[Start]:
    """A start of the run in `path`; whatever ends the block, the manifest says how the run stands.

    Args:
        path: folder of the run, a new one or, with `resume`, one to go on with.
        manifest: what is asked for now.
        results: what the run writes for the person.
        progress: shows how far things are.
        resume: whether to go on with the run.
        free: see `reopen_run`.

    Raises:
        ValueError, FileNotFoundError: another process is at work in the folder, or it holds no run that goes on like
            this.
    """
    with ExitStack() as stack:
        if resume:
            if path.is_dir():
                stack.enter_context(alone(path))
            folder, manifest = reopen_run(path, manifest, free=free)
            for result in results:
                remove_parts(result)
        else:
            folder = start_run(path, manifest)
            stack.enter_context(alone(path))
        stack.enter_context(progress)
        stop = stack.enter_context(stoppable())
        try:
            yield Start(folder, manifest, results, progress, stop)
        except BaseException as error:
            manifest.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            manifest.measure_memory()
            manifest.write(folder.manifest)
            raise
