"""Command lines in a queue: one runs at a time, as a process of its own that can be stopped and resumed.

A job is a run in the folder of runs, whose manifest says how it stands once it has begun. What is known only here is
that a job waits, and what it has printed. Stopping sends what Ctrl-C sends: the run saves its state.
"""

import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from csd3d.runs.manifest import Manifest

Status = Literal["waiting", "running", "interrupted", "finished", "failed", "undone", "refused", "stopped"]
"""Those of a manifest; a job that waits for its turn; one that was refused, or stopped, before it had a manifest."""
CSD3D = (sys.executable, "-m", "csd3d")
LINES = 40
"""Lines of a job's output that are held."""
_PROGRESS = re.compile(r"(?P<phase>[\w ]+): (?P<done>\d+)/(?P<total>\d+), (?P<left>.+)")


@dataclass(frozen=True)
class HowFar:
    """What `csd3d.runs.progress` prints where there is no terminal."""

    phase: str
    done: int
    total: int
    left: str
    """How much time is left, in words."""


@dataclass
class Job:
    """A run that was started from the page."""

    run_dir: Path
    words: Sequence[str]
    """After `csd3d`."""
    waiting: bool = True
    lines: deque[str] = field(default_factory=lambda: deque[str](maxlen=LINES))
    """What it printed last."""
    process: "subprocess.Popen[str] | None" = None
    """None while it waits, and of words of which there can be none."""
    stopping: bool = False
    """It was asked to save its state and end."""
    then: Sequence[str] | None = None
    """What is done next, before any other job, once it has ended with its state saved."""

    @property
    def how_far(self) -> HowFar | None:
        """How far the phase is that it has spoken of last."""
        found = (_PROGRESS.fullmatch(line) for line in reversed(self.lines.copy()))
        match = next(filter(None, found), None)
        if match is None:
            return None
        return HowFar(match["phase"], int(match["done"]), int(match["total"]), match["left"])

    @property
    def status(self) -> Status:
        """How it stands."""
        if self.waiting:
            return "waiting"
        if self.process is None:
            return "refused"
        if self.process.poll() is None:
            return "running"
        return status_of(self.run_dir) or ("refused" if self.process.returncode == 2 else "stopped")


def status_of(run_dir: Path) -> Status | None:
    """How the run in a folder stands by its manifest; None where there is none. A run whose process has ended without
    a word, killed, counts as interrupted: it can be resumed."""
    try:
        status = Manifest.read(run_dir / "manifest.json").status
    except (OSError, ValueError):
        return None
    return "interrupted" if status == "running" else status


class Jobs:
    """The queue. A context manager: leaving it stops what runs, with its state saved, and forgets what waits."""

    def __init__(self, program: Sequence[str] = CSD3D) -> None:
        """`program`: what the words of a job are given to."""
        self._program = program
        self._jobs: dict[Path, Job] = {}
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="csd3d jobs", daemon=True)

    def __enter__(self) -> "Jobs":
        self._worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        for job in list(self._jobs.values()):
            _interrupt(job)
        self._worker.join()

    def start(self, run_dir: Path, words: Sequence[str]) -> Job:
        """Put a command line in the queue.

        Raises:
            ValueError: the run waits or runs already.
        """
        with self._changed:
            if (old := self._jobs.get(run_dir)) is not None and old.status in ("waiting", "running"):
                raise ValueError(f"run: expected one that stands still, got {run_dir.name}, which is {old.status}")
            job = self._jobs[run_dir] = Job(run_dir, tuple(words))
            self._queue.append(job)
            self._changed.notify_all()
        return job

    def stop(self, run_dir: Path, *, then: Sequence[str] | None = None) -> None:
        """Take a job out of the queue, or ask it to save its state and end; nothing where it does not run.

        Args:
            run_dir: of the job.
            then: a command line that is run as soon as the state is saved, before what waits.
        """
        with self._changed:
            job = self._jobs.get(run_dir)
            if job is not None and job.waiting:
                self._queue.remove(job)
                del self._jobs[run_dir]
                _forget_empty(run_dir)
                return
            if job is not None:
                job.then = then
        if job is not None:
            _interrupt(job)

    def find(self, run_dir: Path) -> Job | None:
        """The latest job of a run, if the page has started it."""
        return self._jobs.get(run_dir)

    def ahead_of(self, job: Job) -> int:
        """How many jobs are done before one that waits, that which runs included."""
        with self._changed:
            place = self._queue.index(job) if job in self._queue else 0
            return place + any(other.status == "running" for other in self._jobs.values())

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                job = self._queue.popleft()
                try:
                    job.process = _begin([*self._program, *job.words])
                except (OSError, ValueError) as error:  # a word that is too long, or has a zero in it
                    job.lines.append(f"csd3d {''.join(job.words[:1]):.20}: {error}")
                job.waiting = False
            if job.process is not None:
                assert job.process.stdout is not None
                for line in job.process.stdout:
                    job.lines.append(line.rstrip())
                job.process.wait()
            _forget_empty(job.run_dir)
            with self._changed:
                if job.then is not None and status_of(job.run_dir) == "interrupted" and not self._closed:
                    self._jobs[job.run_dir] = follower = Job(job.run_dir, tuple(job.then))
                    self._queue.appendleft(follower)


def _forget_empty(run_dir: Path) -> None:
    """Remove the folder that was claimed for a run that never was."""
    if run_dir.is_dir() and not any(run_dir.iterdir()):
        run_dir.rmdir()


def run_to_end(words: Sequence[str]) -> list[str]:
    """What a command line prints, once it is done."""
    return _begin([*CSD3D, *words]).communicate()[0].splitlines()


def _begin(command: Sequence[str]) -> "subprocess.Popen[str]":
    """A process in a group of its own: a Ctrl-C at the page's terminal is passed on by the page."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip


def _interrupt(job: Job) -> None:
    """Once: a second Ctrl-C would end it without its state."""
    if job.process is not None and job.process.poll() is None and not job.stopping:
        job.stopping = True
        job.process.send_signal(signal.SIGINT)
