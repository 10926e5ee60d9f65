"""Progress with an estimate that is measured, not guessed: nothing is promised before steps were timed."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")
LONG_S = 60.0
"""A run that takes longer says so as soon as it is known."""
_LONG_STEP_S = 10.0  # so long a first step is mostly work: it is an estimate where there is no other


class Eta:
    """Remaining time from the median duration of the latest steps.

    The first step is left out (it pays for warm-up) and no estimate is given before `least` others were timed, unless
    steps are so long that a person would wait for it. The median keeps one stalled step from moving the estimate.
    """

    def __init__(self, total: int, *, window: int = 30, least: int = 2) -> None:
        self._total, self._least = total, least
        self._done, self._first = 0, 0.0
        self._recent: deque[float] = deque(maxlen=window)

    def add(self, seconds: float) -> None:
        """One more step took `seconds`."""
        self._done += 1
        if self._done == 1:
            self._first = seconds
        else:
            self._recent.append(seconds)

    def remaining(self) -> float | None:
        """Seconds left, or None while too little was measured."""
        each = self.each()
        return None if each is None else max(self._total - self._done, 0) * each

    def each(self) -> float | None:
        """Seconds of a step, or None while too little was measured."""
        if len(self._recent) < self._least and self._first < _LONG_STEP_S:
            return None
        return statistics.median(self._recent or [self._first])


def words(seconds: float | None) -> str:
    """A duration for people: coarse, because the estimate is."""
    return "measuring" if seconds is None else f"about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class RunProgress:
    """A context in which `track` shows one bar a phase: live on a terminal, a line every tenth elsewhere.

    `quiet` shows nothing at all. The clock is an argument so that tests need not wait.
    """

    def __init__(
        self, console: Console | None = None, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(stderr=True)
        self._quiet, self.clock = quiet, clock
        self._bars: Progress | None = None
        if not quiet and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[eta]}"),
            )
            self._bars = Progress(*columns, console=self.console)

    def __enter__(self) -> "RunProgress":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Print one line above the bars (nothing when quiet)."""
        if not self._quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def track(
        self,
        phase: str,
        items: Iterable[T],
        *,
        total: int,
        start: int = 0,
        unit: int = 1,
        after_s: float = 0.0,
        then: str = "",
    ) -> Iterator[T]:
        """Yield `items`, each worth `unit` of `total`, showing how far they are and how much time is left.

        Args:
            phase: what people call it.
            items: what is done.
            total: of all sessions.
            start: how many were done earlier.
            unit: of an item.
            after_s: seconds that what comes after this phase is known to take, which are part of what is left.
            then: what comes after it and takes a time that is not known yet.
        """
        eta = Eta(-(-(total - start) // unit))
        task = None if self._bars is None else self._bars.add_task(phase, total=total, completed=start, eta="measuring")
        done, shown, since = start, start * 10 // max(total, 1), self.clock()
        announced = False
        for item in items:
            yield item
            now = self.clock()
            eta.add(now - since)
            done, since = min(done + unit, total), now
            remaining = eta.remaining()
            left = words(None if remaining is None else remaining + after_s) + (f", then {then}" if then else "")
            left = left if done < total else "done"
            if self._bars is not None and task is not None:
                self._bars.update(task, completed=done, eta=left)
                continue
            early = not announced and remaining is not None and remaining + after_s >= LONG_S and done < total
            if early or done * 10 // max(total, 1) > shown:
                announced |= remaining is not None
                shown = done * 10 // total
                self.say(f"{phase}: {done}/{total}, {left}")
