"""The speed benchmark: a plain way moves as the video editor does, and costs are what is evaluated."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from csd3d.priors.instruct import InstructPrior
from csd3d.runs.progress import RunProgress
from csd3d.world.sample import sample_clip
from scripts import benchmark_speed
from scripts.benchmarks.speed_ways import WAYS, Way, at, down, moved
from scripts.benchmarks.video_methods import Job, built, move
from tests.priors.tiny import write_tiny_prior

SENTENCES = ["make it snowy", "make it night"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "tiny", closed=False)


@pytest.fixture(scope="module")
def job(directory: Path) -> Job:
    clip = sample_clip(7000, frames=3, height_px=64, width_px=64)
    return Job(InstructPrior.load(directory, device="cpu"), clip.source(), SENTENCES[0], 5, clip)


def rows_of(prior: InstructPrior, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the UNet gets, from now on."""
    counts: list[int] = []
    forward = prior.denoiser._unet.forward

    def counted(x: torch.Tensor, *args: Any, **settings: Any) -> Any:
        counts.append(len(x))
        return forward(x, *args, **settings)

    monkeypatch.setattr(prior.denoiser._unet, "forward", counted)
    return counts


@pytest.mark.parametrize("csd", [at(3, 2.0), at(3, 2.0, s_text=3.0, s_image=1.5), at(3, 0.1, optimizer="adam")])
def test_a_plain_way_moves_as_the_video_editor_does(job: Job, csd: Any) -> None:
    s = job.prior.codec.encode(job.source)
    for sentence, (z, times) in zip(SENTENCES, moved(Way(csd), built(job), SENTENCES, s, job.rng()), strict=True):
        expected = move(replace(job, sentence=sentence), csd, s, None, draw="stratified", budget=24)
        torch.testing.assert_close(z, expected, atol=1e-4, rtol=1e-4)
        assert (z - s).abs().max() > 0.05
        assert len(times) == csd.steps


@pytest.mark.parametrize(
    "way",
    [
        Way(at(4, 2.0)),
        Way(at(4, 2.0, s_text=1.5, s_image=1.5)),
        Way(at(4, 2.0), bank=2),
        Way(at(4, 2.0), keys=2),
        replace(down(4, 2.0), bank=2),
        down(4, 2.0, guidance=1.5, guide_min=450),
        replace(down(4, 2.0, guidance=1.5), reuse=2),
    ],
)
def test_a_way_costs_the_rows_that_it_evaluates(way: Way, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = rows_of(built(job), monkeypatch)
    ((_, rows),) = way.edit(job, SENTENCES[:1])
    assert sum(counts) == pytest.approx(3 * rows)


def test_what_is_reused_at_once_changes_nothing(job: Job) -> None:
    """Branches one by one are the guided predictions."""
    s = job.prior.codec.encode(job.source)
    way = down(3, 2.0, guidance=1.5)
    (a, _), (b, _) = (moved(w, built(job), SENTENCES[:1], s, job.rng())[0] for w in (way, replace(way, reuse=1000)))
    (first, _), (same, _) = (
        moved(replace(w, csd=replace(w.csd, steps=1)), built(job), SENTENCES[:1], s, job.rng())[0]
        for w in (way, replace(way, reuse=1000))
    )
    torch.testing.assert_close(first, same, atol=1e-4, rtol=1e-4)
    assert (a - b).abs().max() > 1e-3


def test_a_sentence_that_has_settled_is_left_alone(job: Job) -> None:
    s = job.prior.codec.encode(job.source)
    (z, times), *_ = moved(down(8, 0.5, tolerance=0.9), built(job), SENTENCES, s, job.rng())
    assert 3 <= len(times) < 8
    (whole, all_times), *_ = moved(down(8, 0.5), built(job), SENTENCES, s, job.rng())
    assert all_times[: len(times)] == times
    assert not torch.equal(z, whole)


@pytest.mark.parametrize("order", ["stratified", "descending"])
def test_timesteps_cover_the_range(order: Any, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    noised = type(job.prior.schedule).noised
    monkeypatch.setattr(
        type(job.prior.schedule), "noised", lambda self, batch, t, e: (seen.append(t), noised(self, batch, t, e))[1]
    )
    moved(Way(at(8, 1.0), order=order), built(job), SENTENCES[:1], torch.randn(1, 4, 8, 8), job.rng())
    times = seen[::2]  # the particles and their sources
    assert [int((t - 20) / 60) for t in sorted(times)] == list(range(8))
    assert (times == sorted(times, reverse=True)) == (order == "descending")


def test_the_mean_of_late_iterates_lies_between_them(job: Job) -> None:
    s = job.prior.codec.encode(job.source)
    first, second, mean = (
        moved(way, built(job), SENTENCES[:1], s, job.rng())[0][0]
        for way in (Way(at(1, 1.0)), Way(at(2, 1.0, lr_decay=1.0)), Way(at(2, 1.0, lr_decay=1.0), averaged=1.0))
    )
    torch.testing.assert_close(mean, (first + second) / 2)


def test_from_end_to_end_and_again(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: replace(way, csd=replace(way.csd, steps=1)) for name, way in list(WAYS.items())[:2]}
    monkeypatch.setattr(benchmark_speed, "WAYS", few)
    settings = benchmark_speed.Settings(
        prior=str(directory), out=tmp_path, clips=1, frames=2, size_px=64, kinds=("weather", "time")
    )
    benchmark_speed.benchmark(settings, RunProgress(quiet=True))
    records = json.loads((tmp_path / "speed.json").read_text())["records"]
    assert [(r["row"], r["kind"]) for r in records] == [(name, kind) for name in few for kind in ("weather", "time")]
    page = (tmp_path / "speed.md").read_text()
    assert "weather (1)" in page
    monkeypatch.setattr(benchmark_speed, "records_of", lambda *_: pytest.fail("nothing is left to do"))
    benchmark_speed.benchmark(settings, RunProgress(quiet=True))
    assert (tmp_path / "speed.md").read_text() == page


def test_panoramas_are_moved_by_the_same_settings(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"few": down(1, 1.5), "before": Way(at(1, 0.5, s_text=1.5, s_image=1.5))}
    monkeypatch.setattr(benchmark_speed, "WAYS", few)
    settings = benchmark_speed.Settings(
        prior=str(directory), out=tmp_path, on="panoramas", clips=1, edits=1, size_px=64, kinds=("weather", "time")
    )
    benchmark_speed.benchmark(settings, RunProgress(quiet=True))
    records = json.loads((tmp_path / "speed.json").read_text())["records"]
    assert [(r["row"], r["unet_rows"], r["panorama"]) for r in records] == [
        ("few", 2, "strip 0"),
        ("before", 4, "strip 0"),
    ]
    assert all(0 < r["psnr"] < 100 for r in records)
    assert "2 edits" not in (page := (tmp_path / "speed.md").read_text())
    assert "1 edits of 1 panoramas (strip 0)" in page
    monkeypatch.setattr(benchmark_speed, "WAYS", {"bank": replace(down(2, 1.5), bank=2)})
    with pytest.raises(ValueError, match="rows: expected settings of the engine alone on panoramas"):
        benchmark_speed.benchmark(settings, RunProgress(quiet=True))
