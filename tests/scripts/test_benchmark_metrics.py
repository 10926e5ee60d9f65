"""Metrics without truth beside the truth: the ways to spoil an edit, the ranks, and the whole once, tiny."""

import json

import pytest
import torch

from scripts.benchmark_metrics import TRUTH, Settings, blurred, good, main, moved, rank_correlation, ways
from tests.clips import moving_picture


def test_a_blur_keeps_the_mean_and_takes_contrast() -> None:
    clip = moving_picture(2, 24, 24)
    soft = blurred(clip, 2)
    assert soft.shape == clip.shape
    assert float(soft.mean()) == pytest.approx(float(clip.mean()), abs=0.01)
    assert soft.var() < clip.var()
    torch.testing.assert_close(blurred(torch.full_like(clip, 0.3), 4), torch.full_like(clip, 0.3))


def test_frames_are_moved_by_whole_pixels_exactly() -> None:
    clip = moving_picture(2, 16, 16)
    found = moved(clip, torch.tensor([[0.0, 0.0], [2.0, 1.0]]))
    torch.testing.assert_close(found[0], clip[0])
    torch.testing.assert_close(found[1, :, :-1, :-2], clip[1, :, 1:, 2:])


def test_every_way_is_worse_than_the_truth() -> None:
    source, truth, other = (moving_picture(4, 16, 16, seed) for seed in (0, 1, 2))
    made = ways(source, truth, other, 0)
    assert made[TRUTH].equal(truth)
    assert all(not clip.equal(truth) for name, clip in made.items() if name != TRUTH)
    assert made["blurred, 2 px"].equal(ways(source, truth, other, 1)["blurred, 2 px"])


def test_ranks() -> None:
    assert rank_correlation([1, 5, 9], [0.1, 0.2, 7]) == pytest.approx(1)
    assert rank_correlation([1, 5, 9], [3, 2, 1]) == pytest.approx(-1)
    assert good("warp error", 2) == -2
    assert good("WarpSSIM", 2) == 2


def test_the_whole_once(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("csd3d.evaluate.towers.load.packaged", lambda *names: None)
    assert main(Settings(out=tmp_path, clips=1, frames=3, side_px=64, kinds=("weather", "style"))) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.json", "metrics.md", "metrics.png"]
    records = json.loads((tmp_path / "metrics.json").read_text())["records"]
    assert len(records) == 2 * 11
    assert all(r["PSNR"] == 100 for r in records if r["way"] == TRUTH)
    text = (tmp_path / "metrics.md").read_text()
    assert "| blurred, 2 px |" in text
    assert "| Spearman |" in text
