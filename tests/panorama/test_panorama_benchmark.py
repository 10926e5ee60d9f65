"""The benchmark's measures against loops and closed forms, and the whole of it on a tiny random prior."""

import json
import math

import pytest
import torch

from csd3d.engine.config import CsdConfig
from csd3d.engine.schedule import Schedule
from csd3d.runs.progress import RunProgress
from scripts import benchmark_panorama
from scripts.benchmarks.panorama_methods import ddim
from scripts.benchmarks.panorama_tables import accuracy, colour_drift, seam_strength, wrap_strength
from tests.priors.tiny import write_tiny_prior


def test_seams_equal_loops():
    rgb = torch.rand(3, 5, 12, generator=torch.Generator().manual_seed(0))
    steps = [(rgb[..., x] - rgb[..., x - 1]).abs().mean() for x in range(1, 12)]
    mean = sum(steps) / len(steps)
    assert seam_strength(rgb, [4, 9, 0, 12]) == pytest.approx(float((steps[3] + steps[8]) / 2 / mean), rel=1e-5)
    assert math.isnan(seam_strength(rgb, []))
    assert wrap_strength(rgb) == pytest.approx(float((rgb[..., 0] - rgb[..., 11]).abs().mean() / mean), rel=1e-5)
    blocks = torch.repeat_interleave(torch.rand(3, 1, 3), 4, -1).expand(3, 5, 12)
    assert seam_strength(blocks, [4, 8]) == pytest.approx(11 / 2, rel=1e-5)


def test_drift_is_what_a_tint_varies_along_the_picture():
    truth = torch.rand(3, 8, 40)
    assert colour_drift(truth + 0.1, truth, 10) == pytest.approx(0, abs=1e-6)
    halves = truth.clone()
    halves[..., 20:] += 0.2
    assert colour_drift(halves, truth, 10) == pytest.approx(0.1, rel=1e-4)
    grain = truth + 0.5 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    assert colour_drift(grain, truth, 10) < 0.06


def test_accuracy_is_the_share_of_windows():
    truths = torch.stack([torch.full((4, 3, 2, 2), v) for v in (0.0, 0.5, 1.0)])
    output = torch.tensor([0.4, 0.6, 0.9, 0.1]).reshape(4, 1, 1, 1).expand(4, 3, 2, 2)
    assert accuracy(output, truths, 1) == 0.5


def test_ddim_finds_the_only_picture_there_is():
    goal = torch.rand(1, 4, 3, 3)
    schedule = Schedule.scaled_linear()

    def predict(z, t):
        ab = schedule.alpha_bar(t)
        return (z - ab**0.5 * goal) / (1 - ab) ** 0.5

    out = ddim(torch.randn(1, 4, 3, 3), predict, schedule, 7)
    assert (out - goal).abs().max() < 0.1  # the last noise level is small, not nothing


@pytest.mark.slow
def test_from_end_to_end(tmp_path, monkeypatch):
    prior = write_tiny_prior(tmp_path / "tiny", closed=False)
    settings = benchmark_panorama.Settings(
        prior=str(prior),
        out=tmp_path / "out",
        panoramas=1,
        edits=1,
        candidates=2,
        window_px=32,
        sampling_steps=2,
        csd=CsdConfig(steps=2, lr=0.1),
        device="cpu",
    )
    known = list(benchmark_panorama.cases(settings, 32))  # their truths take as long as all the rest
    monkeypatch.setattr(benchmark_panorama, "cases", lambda *_: iter(known))
    assert benchmark_panorama.benchmark(settings, RunProgress(quiet=True)) == tmp_path / "out"
    records = json.loads((tmp_path / "out/panorama.json").read_text())["records"]
    assert {r["kind"] for r in records} == {"strip", "turn", "sphere"}
    for kind, rows in (("strip", 5), ("turn", 5), ("sphere", 4)):
        mine = [r for r in records if r["kind"] == kind]
        assert len(mine) == 3 + 2 * rows
        truth = next(r for r in mine if r["row"] == "truth")
        assert truth["accuracy"] == 1
        assert truth["drift"] == 0
        assert (truth["wrap"] is None) == (kind == "strip")
        assert (truth["seam"] is None) == (kind == "sphere")
    page = (tmp_path / "out/panorama.md").read_text()
    assert page.count("csd-edit, SVGD |") == page.count("csd-edit, SVGD, shared anchors |") == 6
    price = {r["row"]: r["unet_rows"] for r in records if r["kind"] == "turn" and r["detail"]}
    assert price["csd-edit, SVGD, shared anchors"] == 1.5 * price["csd-edit, SVGD"]  # four of eight are seen twice
    assert len(list((tmp_path / "out/sheets").glob("*.png"))) == 3
    monkeypatch.setattr(benchmark_panorama, "standard", None)  # a second call has nothing left to edit
    benchmark_panorama.benchmark(settings, RunProgress(quiet=True))
    assert json.loads((tmp_path / "out/panorama.json").read_text())["records"] == records


def test_settings_are_checked():
    with pytest.raises(ValueError, match="panoramas"):
        benchmark_panorama.Settings(panoramas=0)
    assert benchmark_panorama.main(benchmark_panorama.Settings(prior="/nowhere/at/all")) == 2
