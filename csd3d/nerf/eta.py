"""How long a scene still takes. Knows no nerfstudio.

A batch of edited views takes as long as hundreds of training steps, so the two are timed apart: an estimate that
averages over both jumps with every batch.
"""

import statistics
from collections import deque


class SceneEta:
    """Remaining time from the median of the latest training steps, and of the latest batches."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=100)
        self._batches: deque[float] = deque(maxlen=5)

    def add(self, step_s: float, batch_s: float) -> None:
        """A training step took `step_s` seconds, and a batch of views before it `batch_s`, 0 if there was none."""
        self._steps.append(step_s)
        if batch_s:
            self._batches.append(batch_s)

    def remaining(self, steps: int, batches: int, expected_s: float = 0.0) -> float | None:
        """Seconds that so many steps and batches take, a batch `expected_s` until one was timed; None before any step
        was."""
        if not self._steps:
            return None
        each = statistics.median(self._batches) if self._batches else expected_s
        return steps * statistics.median(self._steps) + batches * each
