"""The benchmark of matches: what it measures is what it says."""

from pathlib import Path

import pytest
import torch

from csd3d.runs.progress import RunProgress
from scripts.benchmark_matches import Settings, benchmark, measure


def test_moves_are_measured_where_points_can_be_seen() -> None:
    truth = torch.zeros(1, 4, 2), torch.tensor([[True, True, True, False]])
    move = torch.zeros(1, 4, 2)
    move[0, 1, 0], move[0, 3, 0] = 2.0, 9.0
    found = measure((move, torch.tensor([[1.0, 1.0, 0.2, 1.0]])), truth)
    assert found == pytest.approx({"known": 2 / 3, "known, right": 0.5, "known, error": 8.0, "right": 1 / 3})


def test_one_pair_gives_a_page(tmp_path: Path) -> None:
    folder = benchmark(Settings(tmp_path, clips=1, sweeps=(0.1,), size_px=64), RunProgress(quiet=True))
    page = (folder / "matches.md").read_text()
    assert page.count("| features of `builtin`") == 1
    assert (folder / "matches.json").is_file()
