"""A training that is stopped before a step, as an error would stop it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Stopped(Exception):  # noqa: N818  # nothing went wrong
    """What stops it."""


@contextmanager
def stopped_once(trainer: type[Any], step: int) -> Iterator[list[int]]:
    """Within, the first call of `trainer.step` for that step raises `Stopped`; gives the steps that were called for."""
    plain, calls = trainer.step, list[int]()

    def breaking(self: Any, number: int) -> Any:
        calls.append(number)
        if number == step and calls.count(step) == 1:
            raise Stopped
        return plain(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "step", breaking)
        yield calls
