"""One session of a run, the same in all editors: particles are moved, and whatever ends it is recorded.

    with open_session(path, manifest, results, progress, resumed=None, free_on_resume=()) as session:
        s = session.sources(encode)
        log = session.move(particles, score, csd, rng, count=n)
        session.close(session.with_gradient(report, log, show, decode))

A run is stopped and resumed any number of times; each of its sessions is one process at work.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import Objective, Stateful, StepInfo, run, settled
from csd3d.engine.residuals import Score
from csd3d.engine.reuse import ReusingScore, reusing
from csd3d.engine.sampling import Sampling, run_sampling
from csd3d.engine.stein import Kernel
from csd3d.media.sheet import save_picture
from csd3d.metrics.change import change_note, change_of, growth_note, move_note
from csd3d.priors.prior import Prior
from csd3d.priors.prompts.photographs import prior_note
from csd3d.runs.config import RunConfig
from csd3d.runs.estimate import Estimate
from csd3d.runs.folder import RunFolder, exclusive, load_sources, reopen_run, save_sources, start_run
from csd3d.runs.history import repeat_command
from csd3d.runs.interrupt import RunInterrupted, StopRequest, resume_command, stoppable
from csd3d.runs.live import LivePage, Look
from csd3d.runs.log import Show, StepLog
from csd3d.runs.manifest import Manifest, fingerprint
from csd3d.runs.progress import RunProgress
from csd3d.runs.report import Report, write_report
from csd3d.runs.stored import ReusingParticles, StoredParticles, StoredSampled
from csd3d.user_errors import out_of_memory

T = TypeVar("T")
ROWS, ROWS_EACH = "network rows", "network rows a particle"
"""Names of the rows of the prior's network that an edit took, among the numbers of a run."""


@dataclass(frozen=True)
class Phase:
    """A part of the steps of a run, which has a bar of its own."""

    name: str
    """What people call it."""
    end: int
    """Steps of the run when it is done."""
    begin: int = 0
    """Steps before it."""
    batches: int = 1
    """Of all particles, each of which takes a step."""
    writes: float = 0.0
    """How many times as long as encoding the sources what comes after it takes."""
    then: str = ""
    """What comes after it and takes a time that is not known yet."""

    def moves(self, done: int) -> int:
        """Of all particles, which is what `--steps` counts, after so many steps of the run."""
        return max(done - self.begin, 0) // self.batches


@runtime_checkable
class Checkpointer(Protocol):
    """Storage for the state of a run: a `RunFolder`, or one for states that do not fit into its state file."""

    def load(self, particles: Any, rng: torch.Generator, log: StepLog) -> None:
        """Put back what was saved, if anything was."""
        ...

    def save(self, particles: Any, rng: torch.Generator, log: StepLog) -> None:
        """Save the state after the steps of `log`; however it is stopped, the earlier state or this one is complete."""
        ...


@dataclass
class Session:
    """One session of a run."""

    folder: RunFolder
    manifest: Manifest
    results: Sequence[Path]
    """What the run writes for the person."""
    progress: RunProgress
    stop: StopRequest
    resources: ExitStack
    """What is freed when the session ends."""
    live: LivePage | None = None
    """What shows the run while particles are moved."""
    rows_of: Callable[[], int] = lambda: 0
    """Rows that the prior's network has computed so far."""

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Enter a context that is left when the session ends."""
        return self.resources.enter_context(context)

    def note(self, *texts: str) -> None:
        """Print texts that are new to the run, and record them in the manifest."""
        for text in texts:
            if self.manifest.note(text):
                self.progress.say(f"note: {text}")

    def note_prior(self, prior: Prior, sentences: Sequence[str], asked_device: str | None) -> None:
        """Say what a person should know of the prior under these sentences, and where it computes."""
        self.note(*filter(None, [prior_note(prior, sentences)]), *prior.said)
        if asked_device is None and prior.device.type == "cpu":
            self.note("no CUDA device is in use: running on the CPU")

    def announce_time(self, estimate: Estimate | None) -> None:
        """Say how long the run will take, if that is long, and keep it beside the time that it then takes."""
        if estimate is not None:
            self.manifest.numbers["estimated (s)"] = round(estimate.total_s, 1)
            estimate.announce(self.progress.say)

    def note_change(
        self,
        prior: Prior,
        sentences: Sequence[str],
        source: Float[Tensor, "n 3 H W"],
        edited: Float[Tensor, "n 3 H W"],
        where: Float[Tensor, "n 1 H W"] | None = None,
    ) -> None:
        """Record how much some pictures in [0, 1] were changed, and say where that is nothing, or far too much.

        Args:
            prior: what edited them.
            sentences: by which it did.
            source: as they were.
            edited: as they are.
            where: how much of the edit is shown at each place, in [0, 1]. None: all.
        """
        change = change_of(source, edited, where)
        self.manifest.numbers |= {"changed (share)": round(change.share, 4), "most changed by": round(change.peak, 4)}
        self.note(*filter(None, [change_note(change, sentences, prior.kinds_of(sentences))]))

    def note_growth(self, z: Float[Tensor, "n c h w"], s: Float[Tensor, "n c h w"] | None = None) -> None:
        """Say where latents at the end are far larger than those of their sources (None: they began as noise)."""
        self.note(*filter(None, [growth_note(z, s)]))

    def stop_if_asked(self, how_far: str) -> None:
        """Raises `RunInterrupted`, after saying how far the run came, if a person asked it to stop.

        Its text has the command that goes on.
        """
        if self.stop.signum is not None:
            self.progress.say(f"stopped: {how_far}")
            raise RunInterrupted(self.folder.path, self.stop.signum, command=self.manifest.command)

    def move(
        self,
        particles: StoredParticles,
        score: Score,
        config: RunConfig,
        *,
        count: int,
        rng: torch.Generator | None = None,
        kernel: Kernel | None = None,
        checkpointer: Checkpointer | None = None,
        phase: str = "edit",
        writes: float = 0.0,
        look: Look | None = None,
    ) -> StepLog:
        """Move `count` particles, from the last saved state to the end; returns the steps of all sessions.

        Args:
            particles: as they begin; a saved state is put back into them.
            score: the prior under its sentences.
            config: settings. `csd.steps` and `csd.lr_decay_every` count moves of all particles, each of which takes
                `particles.steps_per_epoch` steps of the loop.
            count: particles of the whole set.
            rng: all randomness, on the CPU; None: from `config.seed`.
            kernel: replaces the one that `csd.bandwidth` describes.
            checkpointer: where the state is saved; None: in the run's folder.
            phase: what people call it.
            writes: how many times as long as encoding the sources writing the results takes, for the estimate of time.
            look: how particles look now, for the page that shows the run while it goes on.

        Raises:
            ValueError: fewer steps are asked for than were done, or the saved state is of something else.
            FloatingPointError: a residual or gradient is not finite; the last saved state is still there.
            RunInterrupted: the run was asked to stop and its state is saved.
        """
        csd, epoch = config.engine, particles.steps_per_epoch
        csd = replace(csd, steps=csd.steps * epoch, lr_decay_every=csd.lr_decay_every * epoch)
        rng = rng or torch.Generator().manual_seed(config.seed)
        if isinstance(score := reusing(score, csd), ReusingScore):
            particles = ReusingParticles(particles, score)
        log = self._loaded(particles, rng, StepLog(count), checkpointer)
        if log.done > csd.steps:
            done = -(-log.done // epoch)
            raise ValueError(f"steps: expected at least the {done} that this run has done, got {config.engine.steps}")
        steps = self._watched(
            run(particles, Objective(score, csd, kernel), rng=rng, start=log.done, watch=log.watch), csd, log, epoch
        )
        part = Phase(phase, csd.steps, batches=epoch, writes=writes)
        self._do(part, steps, log, self._saver(particles, rng, log, checkpointer, part, look), config.checkpoint_every)
        return log

    def sample(
        self,
        particles: StoredSampled,
        sampling: Sampling,
        config: RunConfig,
        *,
        count: int,
        checkpointer: Checkpointer | None = None,
        writes: float = 0.0,
    ) -> StepLog:
        """Sample `count` particles, from the last saved state to the end; returns the steps of all sessions.

        Arguments and errors are those of `move`. All randomness is in the particles.
        """
        epoch, rng = particles.steps_per_epoch, torch.Generator().manual_seed(config.seed)
        log = self._loaded(particles, rng, StepLog(count), checkpointer)
        inversions, total = sampling.inversions * epoch, len(sampling.transitions) * epoch
        steps = run_sampling(particles, sampling, start=log.done)
        last = Phase("sample", total, begin=inversions, batches=epoch, writes=writes)
        save = self._saver(particles, rng, log, checkpointer, last, None)
        first = Phase("invert", inversions, batches=epoch, then="sampling")
        for part in (first, last) if log.done < inversions else (last,):
            self._do(part, islice(steps, part.end - log.done), log, save, config.checkpoint_every)
        return log

    def _watched(self, steps: Iterator[StepInfo], csd: CsdConfig, log: StepLog, epoch: int) -> Iterator[StepInfo]:
        """The steps, until those of `log` say that the edit has stopped changing; of the first that makes noise
        something is said at once."""
        while (share := settled(log.infos, csd, steps_per_epoch=epoch)) is None:
            if (info := next(steps, None)) is None:
                return
            self.note(*filter(None, [move_note(info.move_rms(csd), csd.lr)]))
            yield info
        if log.done < csd.steps:
            done, asked = log.done // epoch, csd.steps // epoch
            self.note(
                f"ended after {done} of {asked} moves: the last ones were {100 * share:.2g} % of the edit so far, "
                f"below tolerance {csd.tolerance:g}"
            )

    def _loaded(
        self, particles: Stateful, rng: torch.Generator, log: StepLog, checkpointer: Checkpointer | None
    ) -> StepLog:
        """The log of the steps done, after what was saved is put back."""
        (checkpointer or self.folder).load(particles, rng, log)
        return log

    def _saver(
        self,
        particles: Stateful,
        rng: torch.Generator,
        log: StepLog,
        checkpointer: Checkpointer | None,
        part: Phase,
        look: Look | None,
    ) -> Callable[[], None]:
        """What saves the state, counts what it took until the end of `part`, and shows it."""
        live = self.live = LivePage(self.folder, self.manifest, self.progress, log, part.moves(part.end), look)
        since = self.rows_of()

        def count() -> None:
            self.manifest.steps_done, self.manifest.moves_done = log.done, part.moves(log.done)

        def save() -> None:
            nonlocal since
            (checkpointer or self.folder).save(particles, rng, log)
            count()
            if (now := self.rows_of()) > since:  # of what a stop has undone, no row is counted
                rows = self.manifest.numbers[ROWS] = int(self.manifest.numbers.get(ROWS, 0)) + now - since
                self.manifest.numbers[ROWS_EACH] = round(rows / log.count, 1)
                since = now
            self.manifest.write(self.folder.manifest)
            live.update()

        if log.done:  # a kill between the state and the manifest leaves this one behind
            count()
        return save

    def _do(self, part: Phase, steps: Iterable[StepInfo], log: StepLog, save: Callable[[], None], every: int) -> None:
        """The steps of a part, with its bar, saved now and then and at its end."""
        total, done = part.end - part.begin, log.done - part.begin
        after_s = part.writes * self.manifest.timing_s.get("encode", 0.0)
        with self.manifest.timed(part.name):
            shown = self.progress.track(part.name, steps, total=total, start=done, after_s=after_s, then=part.then)
            saved = log.done if self.folder.state.exists() else -1
            for info in shown:
                log.add(info)
                if self.stop or log.done % every == 0 or log.done == part.end:
                    save()
                    saved = log.done
                self.stop_if_asked(f"{part.moves(log.done)} of {part.moves(part.end)} steps are done")
            if saved != log.done:
                save()
        self.manifest.write(self.folder.manifest)

    def sources(
        self, encode: Callable[[], Float[Tensor, "n c h w"]], *, again: bool = False
    ) -> Float[Tensor, "n c h w"]:
        """Latents of the sources: those that an earlier session saved, or those that `encode` makes. `again`: make them
        anyway, for a prior that has to see the pictures in every session."""
        s = None if again else load_sources(self.folder)
        if s is None:
            with self.manifest.timed("encode"):
                s = encode()
                save_sources(self.folder, s)
        return s

    def with_gradient(self, page: Report, log: StepLog, show: Show, decode: Callable[[Tensor], Tensor]) -> Report:
        """`page` with the curves of the steps and the picture of the gradient, which is written.

        Args:
            page: what an editor shows of its own.
            log: the steps, maybe none.
            show: names particles and gives their latents.
            decode: makes pixels in [0, 1] of latents.
        """
        page = replace(page, curves=log.curves())
        if (picture := log.picture(show, decode)) is None:
            return page
        save_picture(picture, self.folder.gradient)
        return replace(page, gradient=self.folder.gradient.name)

    def announce(self, result: Path, folder: Path) -> None:
        """Record that `folder`, whole under a passing name, is about to be the result."""
        self.manifest.writing = {str(result.resolve()): fingerprint(folder)["sha256"]}
        self.manifest.write(self.folder.manifest)

    def close(self, page: Report) -> None:
        """Write the report, `page` with settings, notes and numbers put in, and the last state of the manifest: that
        the run is finished, and what it has written."""
        manifest, folder = self.manifest, self.folder
        manifest.status = "finished"
        manifest.measure_memory()
        manifest.outputs |= {"report": str(folder.report.resolve()), "sheet": str(folder.sheet.resolve())}
        manifest.writing = {}
        manifest.written |= {entry["path"]: entry["sha256"] for entry in map(fingerprint, self.results)}
        manifest.modified_ns |= {str(path.resolve()): path.stat().st_mtime_ns for path in self.results}
        seconds = {f"{name} (s)": value for name, value in manifest.timing_s.items()}
        memory = {f"peak {kind} memory (MB)": round(value / 1e6) for kind, value in manifest.memory_bytes.items()}
        page = replace(
            page, command=repeat_command(folder.path, manifest),
            sheet="" if page.panels else folder.sheet.name,  # which panels show already
            numbers=manifest.numbers, settings=manifest.config, notes=manifest.notes,
            environment={**seconds, **memory, "versions": manifest.versions, "machine": manifest.machine},
        )  # fmt: skip
        write_report(folder.report, page)
        manifest.write(folder.manifest)


@contextmanager
def open_session(
    path: Path,
    manifest: Manifest,
    results: Sequence[Path],
    progress: RunProgress,
    *,
    resumed: Manifest | None,
    free_on_resume: tuple[str, ...],
) -> Iterator[Session]:
    """A session of the run in `path`; whatever ends the block, the manifest says how the run stands.

    Args:
        path: folder of the run, a new one or that of the run to go on with.
        manifest: what is asked for now.
        results: what the run writes for the person.
        progress: shows how far things are.
        resumed: the manifest of the run to go on with; None begins a run.
        free_on_resume: see `reopen_run`.

    Raises:
        ValueError, FileNotFoundError: another process is at work in the folder, or it holds no run that goes on like
            this.
    """
    with ExitStack() as stack:
        if resumed is not None:
            stack.enter_context(exclusive(path))
            folder, manifest = reopen_run(path, resumed, manifest, free_on_resume=free_on_resume)
        else:
            folder = stack.enter_context(start_run(path, manifest))
        stack.enter_context(progress)
        stop = stack.enter_context(stoppable())
        session = Session(folder, manifest, results, progress, stop, ExitStack())
        try:
            with session.resources:
                yield session
        except BaseException as error:
            manifest.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            manifest.measure_memory()
            if isinstance(error, OSError | FloatingPointError) or out_of_memory(error):
                progress.say(f"the run is kept: go on with {resume_command(manifest.command, path)}")
            with suppress(OSError):  # of a full disk; the error that is on its way says so
                manifest.write(folder.manifest)
            if session.live is not None:
                with suppress(OSError):
                    session.live.stop()
            raise
