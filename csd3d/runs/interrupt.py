"""Stopping a run politely: the first Ctrl-C or SIGTERM lets the step finish, the second stops at once."""

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


def resume_command(command: str, run_dir: Path) -> str:
    """The command line that goes on with a run."""
    return f"csd3d {command} --resume --run-dir {shlex.quote(str(run_dir))}"


class RunInterrupted(KeyboardInterrupt):
    """A run was asked to stop and has saved its state.

    `run_dir` is the folder to resume from, `exit_code` what a command should return (130 for Ctrl-C, 143 for SIGTERM).
    If `command` is given, the text has the command line that resumes the run.
    """

    def __init__(self, run_dir: Path, signum: int = signal.SIGINT, *, command: str | None = None) -> None:
        how = f"; go on with: {resume_command(command, run_dir)}" if command else ""
        super().__init__(f"stopped; the state is saved in {run_dir}{how}")
        self.run_dir = run_dir
        self.exit_code = 128 + signum


class StopRequest:
    """Whether somebody asked the run to stop; `signum` is the signal, or None."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """Within the block SIGINT and SIGTERM set the yielded request; a second one raises KeyboardInterrupt.

    The handlers are restored afterwards. Outside the main thread, where Python allows no handlers, the request is
    simply never set.
    """
    request = StopRequest()

    def handle(signum: int, frame: FrameType | None) -> None:
        if request:
            raise KeyboardInterrupt
        request.signum = signum

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
