"""The benchmark of decoders: what it prints are ratios of what was timed."""

from pathlib import Path

import pytest

from csd3d.runs.progress import RunProgress
from scripts import benchmark_decoders
from scripts.benchmark_decoders import Settings, benchmark


def test_ratios_are_of_medians(make_clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([4.0, 1.0, 2.0, 1.0, 9.0, 7.0, 3.0, 6.0, 3.0, 6.0, 3.0, 6.0])
    monkeypatch.setattr(benchmark_decoders, "seconds", lambda *_: next(times))
    path, _ = make_clip("a.mp4", frames=6)
    file = benchmark(Settings((path,), tmp_path / "out"), RunProgress(quiet=True))
    assert "| a.mp4 | 4.00 | 0.50 |" in file.read_text()


def test_a_clip_is_read_by_both(make_clip, tmp_path: Path) -> None:
    path, _ = make_clip("a.mp4", frames=6)
    file = benchmark(Settings((path,), tmp_path / "out", picks=2, repeats=1), RunProgress(quiet=True))
    assert file.read_text().count("| a.mp4 |") == 1
