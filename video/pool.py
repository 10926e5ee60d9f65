"""Many edits at a time: requests are spread over workers, each of which holds a prior and edits one clip at a time.

What fails for no fault of the request, or takes its worker along, is tried once more, by another worker if there is
one.
Workers are processes of this machine (`LocalWorkers`), or actors of a Ray cluster (`video.pool_ray`).
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, Protocol, runtime_checkable

from csd3d.runs.interrupt import RunInterrupted, StopRequest, stoppable
from csd3d.runs.job import Request
from csd3d.runs.progress import RunProgress
from video.batch import LastPrior, Outcome, Say, edit_one, line_of
from video.config import VideoConfig

TRIES = 2
"""Of an edit that fails for no fault of its request."""
POLL_S = 0.5
"""Between two looks at whether somebody asked to stop."""
NETWORKS = "csd3d.priors.networks.sites"
"""A module that imports torch and diffusers: once for all workers."""
Answer = Outcome | Literal["died", "stopped"]
"""What became of an edit, or of the worker that was at it."""


@runtime_checkable
class Workers(Protocol):
    """Workers by number, from 0."""

    def __len__(self) -> int: ...

    def begin(self, worker: int, request: Request[VideoConfig]) -> None:
        """Have an idle worker, a new one if the last has died, edit a clip."""
        ...

    def answers(self, busy: Sequence[int], timeout_s: float) -> list[tuple[int, Answer]]:
        """What busy workers have to say within that time."""
        ...

    def stop(self, signum: int) -> None:
        """Ask all that are at work to save their state and end; they answer "stopped"."""
        ...

    def close(self) -> None:
        """End all of them."""
        ...


@dataclass
class _Queue:
    """Edits that are to be done, and who may not do them."""

    left: deque[int]
    tries: dict[int, int] = field(default_factory=dict[int, int])
    failed_on: dict[int, int] = field(default_factory=dict[int, int])

    def next_for(self, worker: int, workers: int) -> int | None:
        """An edit for a worker that has not failed with it, unless it is the only one."""
        for number in self.left:
            if workers == 1 or self.failed_on.get(number) != worker:
                self.left.remove(number)
                self.tries[number] = self.tries.get(number, 0) + 1
                return number
        return None

    def again(self, number: int, worker: int) -> bool:
        """Whether an edit that failed on a worker is tried once more; it then waits for another."""
        if self.tries[number] >= TRIES:
            return False
        self.failed_on[number] = worker
        self.left.append(number)
        return True


def spread(
    make: Callable[[], Workers],
) -> Callable[[Sequence[Request[VideoConfig]], Say], Iterator[tuple[int, Outcome]]]:
    """Edits spread over workers that `make` makes, for `video.batch.edit_all`."""

    def run(requests: Sequence[Request[VideoConfig]], say: Say) -> Iterator[tuple[int, Outcome]]:
        with stoppable() as stop:
            workers = make()
            try:
                yield from _run(requests, workers, say, stop)
            finally:
                workers.close()

    return run


def _run(
    requests: Sequence[Request[VideoConfig]], workers: Workers, say: Say, stop: StopRequest
) -> Iterator[tuple[int, Outcome]]:
    """Raises RunInterrupted once all have stopped, if somebody asked for it."""
    queue, at_work, asked = _Queue(deque(range(len(requests)))), dict[int, int](), False
    while at_work or (queue.left and not stop):
        for worker in range(len(workers)):
            if not stop and worker not in at_work and (n := queue.next_for(worker, len(workers))) is not None:
                say(f"{line_of(requests, n)}  (worker {worker + 1})")
                workers.begin(worker, requests[n])
                at_work[worker] = n
        if stop.signum is not None and not asked:
            workers.stop(stop.signum)
            asked = True
        for worker, answer in workers.answers(list(at_work), POLL_S):
            number = at_work.pop(worker)
            if isinstance(answer, Outcome) and not answer.elsewhere:
                yield number, answer
            elif answer != "stopped" and not stop:
                outcome = Outcome("failed", 0.0, "its worker died") if answer == "died" else answer
                if queue.again(number, worker):
                    say(f"tried again: {requests[number].source}: {outcome.text}")
                else:
                    yield number, outcome
    if stop.signum is not None:
        run_dir = requests[0].run_dir
        assert run_dir is not None  # of every request of a batch
        raise RunInterrupted(run_dir, stop.signum)


class LocalWorkers:
    """Processes of this machine, each on a GPU of its own as far as there are several; satisfies `Workers`."""

    def __init__(
        self, count: int, *, target: Callable[[Connection], None] | None = None, threads: int | None = None
    ) -> None:
        """`target` is what a worker does with the connection that brings it requests; None: it edits. `threads` of
        each; None: its share of the processors."""
        self._target = target or work
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([self._target.__module__, *(() if target else (NETWORKS,))])
        self._gpus = visible_gpus()
        self._threads = threads or max(1, (os.cpu_count() or 1) // count)
        self._processes: list[Any] = [None] * count
        self._connections: list[Connection | None] = [None] * count

    def __len__(self) -> int:
        return len(self._processes)

    def begin(self, worker: int, request: Request[VideoConfig]) -> None:
        """See `Workers`."""
        process = self._processes[worker]
        if process is None or not process.is_alive():
            self._start(worker)
        connection = self._connections[worker]
        assert connection is not None
        with suppress(BrokenPipeError):  # of one that has just died, which its answer says
            connection.send(request)

    def answers(self, busy: Sequence[int], timeout_s: float) -> list[tuple[int, Answer]]:
        """See `Workers`."""
        connections = {c: w for w in busy if (c := self._connections[w]) is not None}
        said: list[tuple[int, Answer]] = []
        for connection in wait(list(connections), timeout_s):
            assert isinstance(connection, Connection)
            worker = connections[connection]
            try:
                said.append((worker, connection.recv()))
            except (EOFError, ConnectionResetError):
                self._processes[worker].join()
                said.append((worker, "died"))
        return said

    def stop(self, signum: int) -> None:
        """See `Workers`."""
        for process in self._processes:
            if process is not None and process.is_alive():
                os.kill(process.pid, signum)

    def close(self) -> None:
        """See `Workers`."""
        for connection in self._connections:
            if connection is not None:
                connection.close()
        for process in self._processes:
            if process is not None:
                process.join(10)
                if process.is_alive():
                    process.kill()
                    process.join()

    def _start(self, worker: int) -> None:
        ours, theirs = self._context.Pipe()
        gpu = self._gpus[worker % len(self._gpus)] if self._gpus else None
        process = self._context.Process(target=_start, args=(self._target, theirs, self._threads, gpu), daemon=True)
        process.start()
        theirs.close()
        self._processes[worker], self._connections[worker] = process, ours


def _start(target: Callable[[Connection], None], connection: Connection, threads: int, gpu: str | None) -> None:
    """A new worker, on a GPU that it takes for the only one. Signals come from the batch, not from a terminal."""
    import torch

    with suppress(OSError):
        os.setsid()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA is first used
    torch.set_num_threads(threads)
    target(connection)


def visible_gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(k) for k in range(torch.cuda.device_count())])[: torch.cuda.device_count()]


def work(connection: Connection) -> None:
    """Edit what the connection brings until it is closed."""
    priors = LastPrior()
    while True:
        try:
            request = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer: Answer = edit_one(request, priors, progress=RunProgress(quiet=True))
        except KeyboardInterrupt:
            answer = "stopped"
        with suppress(BrokenPipeError):
            connection.send(answer)
        if answer == "stopped":
            return
