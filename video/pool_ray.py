"""Workers on the machines of a Ray cluster, for `csd3d video batch --ray`; needs the extra `ray`.

A worker is an actor that holds a process like those of `LocalWorkers`, which loads a prior once and edits one clip at a
time. So what is done, tried again and stopped is as with workers of one machine (`video.pool`); where they run is Ray's
affair. Files are read and written by the workers: all machines see the batch's folders under the same paths.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from csd3d.runs.job import Request
from video.batch import Outcome
from video.config import VideoConfig
from video.pool import POLL_S, Answer, LocalWorkers

START_S = 600.0
"""So long a cluster may take to find room for a worker that has an edit to do, such as by starting a machine."""


class Seat:
    """A worker's place on a machine of the cluster: an actor."""

    def __init__(self, folder: str, threads: int, target: Callable[[Connection], None] | None) -> None:
        """Raises FileNotFoundError where the batch's folder is not seen from here."""
        os.chdir(folder)  # from which the paths of requests are taken
        self._worker = LocalWorkers(1, target=target, threads=threads)

    def ready(self) -> None:
        """Answers once there is room for the worker."""

    def edit(self, request: Request[VideoConfig]) -> Answer:
        """Edit a clip, which may take hours."""
        self._worker.begin(0, request)
        while not (said := self._worker.answers([0], POLL_S)):
            pass
        return said[0][1]

    def stop(self, signum: int) -> None:
        """Ask the edit to save its state and end; called while `edit` goes on."""
        self._worker.stop(signum)

    def close(self) -> None:
        """End the process."""
        self._worker.close()


class RayWorkers:
    """Actors of a Ray cluster, each on a GPU of its own where there are GPUs; satisfies `Workers`.

    The cluster is the one that `RAY_ADDRESS` names, or one of this machine alone that ends with the batch.
    """

    def __init__(self, count: int | None = None, *, target: Callable[[Connection], None] | None = None) -> None:
        """`count` workers; None: one for each GPU of the cluster, or for each machine if there are none.

        Raises:
            ValueError: Ray is not installed, or the cluster cannot be reached.
        """
        self._ray: Any = _ray()
        self._began = not self._ray.is_initialized()
        if self._began:
            _join(self._ray)
        resources = self._ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        count = count or gpus or len(self._ray.nodes())
        threads = max(1, cpus // count)
        options = {"max_concurrency": 2, "num_cpus": 1, "num_gpus": min(1, gpus), "scheduling_strategy": "SPREAD"}
        self._make = lambda: self._ray.remote(Seat).options(**options).remote(os.getcwd(), threads, target)
        self._actors: list[Any] = [None] * count
        self._asked: dict[int, tuple[Any, Any, float]] = {}

    def __len__(self) -> int:
        return len(self._actors)

    def begin(self, worker: int, request: Request[VideoConfig]) -> None:
        """See `Workers`."""
        actor = self._actors[worker]
        if actor is None:
            actor = self._actors[worker] = self._make()
        self._asked[worker] = (actor.edit.remote(request), actor.ready.remote(), time.monotonic())

    def answers(self, busy: Sequence[int], timeout_s: float) -> list[tuple[int, Answer]]:
        """See `Workers`."""
        edits = {self._asked[worker][0]: worker for worker in busy}
        done, _ = self._ray.wait(list(edits), num_returns=1, timeout=timeout_s)
        said: list[tuple[int, Answer]] = [(edits[edit], self._answer(edits[edit], edit)) for edit in done]
        late = [w for w in busy if w not in dict(said) and self._is_late(w)]
        return [*said, *((w, self._gone(w)) for w in late)]

    def stop(self, signum: int) -> None:
        """See `Workers`."""
        for actor in self._actors:
            if actor is not None:
                actor.stop.remote(signum)

    def close(self) -> None:
        """See `Workers`. A cluster that was there before stays."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.wait([a.close.remote() for a in self._actors if a is not None] or [self._ray.put(0)], timeout=15)
        for worker in range(len(self._actors)):
            self._gone(worker)
        if self._began:
            self._ray.shutdown()

    def _answer(self, worker: int, edit: Any) -> Answer:
        try:
            answer: Answer = self._ray.get(edit)
        except self._ray.exceptions.RayActorError:  # its machine or its process is gone
            return self._gone(worker)
        except self._ray.exceptions.RayError as error:  # such as a folder that is not there
            self._gone(worker)
            return Outcome("failed", 0.0, str(error).strip().splitlines()[-1], elsewhere=True)
        return answer

    def _is_late(self, worker: int) -> bool:
        """Whether no room was found for a worker in time."""
        _, ready, since = self._asked[worker]
        if time.monotonic() - since < START_S:
            return False
        return not self._ray.wait([ready], timeout=0)[0]

    def _gone(self, worker: int) -> Answer:
        """Let go of an actor; the next edit of this worker has a new one."""
        if (actor := self._actors[worker]) is not None:
            self._ray.kill(actor)
        self._actors[worker] = None
        return "died"


def _ray() -> Any:
    """The package. Raises ValueError with what to do where it is not installed."""
    try:
        import ray  # pyright: ignore[reportMissingImports] - an extra
        import ray.exceptions  # pyright: ignore[reportMissingImports] - likewise
    except ImportError as error:
        raise ValueError(
            'ray: expected the package ray, which is not installed; pip install "csd3d[ray]" (in a checkout: '
            "scripts/setup.sh ray)"
        ) from error
    return ray


def _join(ray: Any) -> None:
    """Join the cluster, or begin one. Raises ValueError where that cannot be done."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours tells nobody
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"ray: expected a cluster that can be joined, got {str(error).splitlines()[0]}") from error
