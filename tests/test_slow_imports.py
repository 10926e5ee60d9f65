"""Imports without the garbage collector."""

import gc
from unittest.mock import Mock

import pytest

from csd3d.cli.main import main
from csd3d.slow_imports import uncollected


def test_the_collector_rests_and_is_then_as_before() -> None:
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled(), "it was off"
    assert gc.isenabled()
    with pytest.raises(ImportError), uncollected():
        import csd3d.nothing  # noqa: F401  # pyright: ignore
    assert gc.isenabled()


def test_commands_are_imported_so_and_run_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    class Command:
        @staticmethod
        def main(_: list[str]) -> int:
            seen.append(gc.isenabled())
            return 0

    def load(_: str) -> type[Command]:
        seen.append(gc.isenabled())
        return Command

    monkeypatch.setattr("importlib.import_module", load)
    assert main(["doctor"]) == 0
    assert seen == [False, True]


def test_no_garbage_is_looked_for_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    at_the_end = Mock()
    monkeypatch.setattr("atexit.register", at_the_end)
    assert main(["--version"]) == 0
    at_the_end.assert_called_once_with(gc.freeze)
