"""Ablations of the benchmark of agreement: each row differs in what it says, and all of them run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from csd3d.engine.schedule import Schedule
from csd3d.engine.stein import RbfKernel
from csd3d.engine.types import Batch
from csd3d.priors.defaults import BUILTIN
from csd3d.runs.progress import RunProgress
from csd3d.world.families import all_families
from scripts.benchmark_agreement import Settings, benchmark, place_of
from scripts.benchmarks import agreement
from scripts.benchmarks.agreement_ablation import GAMMAS, OwnBaseline, ScaledKernel, ablated
from tests.priors.tiny import write_tiny_prior
from tests.toys import GOALS, ToyScore

EVERY = ("particles", "kernel", "levels", "baseline")


def test_a_multiple_of_gamma_is_a_power_of_the_kernel() -> None:
    rng = torch.Generator().manual_seed(0)
    r, x = (torch.randn(5, 2, 4, 4, generator=rng) for _ in range(2))
    index = torch.arange(5)
    (median,) = RbfKernel("median")(r, x, index)
    for factor in (1.0, *GAMMAS):
        (scaled,) = ScaledKernel(factor)(r, x, index)
        torch.testing.assert_close(scaled.weights, median.weights**factor)
    (alone,) = ScaledKernel(4.0)(r[:1], x[:1], index[:1])
    assert torch.equal(alone.attraction, r[:1])
    assert not alone.repulsion.any()


def test_a_step_holds_no_more_particles_than_there_are() -> None:
    rows = ablated(("particles",), BUILTIN, 8)
    assert list(rows) == ["csd-edit, SVGD", "1 a step", "2 a step", "4 a step", "8 a step"]
    assert "bandwidth, paper" not in ablated(("kernel",), BUILTIN, 2)
    assert "bandwidth, paper" in ablated(("kernel",), BUILTIN, 3)


def test_panoramas_have_no_ablation() -> None:
    settings = Settings(ablate=("kernel",), frames=2, size_px=64)
    assert settings.effective().of == ("clips", "scenes")
    assert set(place_of(settings, "clips", 0).rows) == set(ablated(("kernel",), settings.csd, 2))
    with pytest.raises(ValueError, match="of: expected clips or scenes with ablate"):
        replace(settings, of=("panoramas",))


def test_the_own_baseline_is_the_prediction_for_the_particle() -> None:
    schedule = Schedule(torch.linspace(0.99, 0.01, 100))
    z, s, e = torch.randn(3, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    x = schedule.noised(Batch(z, s, torch.arange(2)), 50, e)
    score = ToyScore([GOALS["make it red"]], schedule)
    own = OwnBaseline(score)
    assert torch.equal(own.target(x), score.target(x))
    assert not torch.allclose(own.source(x), score.source(x))
    assert torch.equal(own.source(replace(x, z_t=x.s_t)), score.source(x))


def test_every_row_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(e for f in all_families() if f.kind == "time" for e in f.members)
    monkeypatch.setattr(agreement, "every_edit", lambda: tuple(dict.fromkeys(few)))
    prior = write_tiny_prior(tmp_path / "tiny", closed=False)
    settings = Settings(
        prior=str(prior), out=tmp_path / "out", of=("clips",), places=1, frames=3, size_px=64, kinds=("time",),
        seeds=1, csd=replace(BUILTIN, steps=2), ablate=EVERY, device="cpu",
    )  # fmt: skip
    benchmark(settings, RunProgress(quiet=True))
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert [r["row"] for r in found["records"]] == list(ablated(EVERY, settings.csd, 3))
    warps = {r["row"]: r["warp"] for r in found["records"]}
    assert warps["t at random"] != warps["csd-edit, SVGD"] != warps["bandwidth 0"]
    assert "--ablate particles kernel" in (tmp_path / "out" / "ablation.md").read_text()
    kept = {f: f.stat().st_mtime_ns for f in (tmp_path / "out" / "work").rglob("*.json")}
    benchmark(replace(settings, ablate=("baseline",)), RunProgress(quiet=True))
    assert {f: f.stat().st_mtime_ns for f in kept} == kept
