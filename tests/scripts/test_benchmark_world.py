"""The rendering benchmark: its one line, and that the bar decides the exit code."""

import pytest

from scripts import benchmark_world
from scripts.benchmark_world import Settings, main, render_some


def test_it_prints_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_world, "BAR_S_PER_PIXEL", 1e9)
    assert main(Settings(images=3, size=16, processes=1)) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("3 pictures of 16 x 16 px, 4 rays a pixel, on 1 processes of one thread: ")
    assert line.endswith(": met")
    monkeypatch.setattr(benchmark_world, "BAR_S_PER_PIXEL", 0.0)
    assert main(Settings(images=1, size=16, processes=1)) == 1
    assert capsys.readouterr().out.endswith(": missed\n")


def test_it_measures_processor_time() -> None:
    assert render_some(0, 1, 16) > 0


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 or more, got"):
        Settings(images=0)
