"""The benchmark of agreement: truths of clips judge what they should, and the page counts runs, kinds and seeds."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from csd3d.priors.defaults import BUILTIN
from csd3d.runs.progress import RunProgress
from csd3d.world.families import all_families
from csd3d.world.sample import Clip, sample_clip
from scripts.benchmark_agreement import Settings, asked_of, benchmark, main, place_of
from scripts.benchmarks import agreement
from scripts.benchmarks.agreement import OpenEdit, measure, open_edits, to_markdown
from scripts.benchmarks.agreement_places import Pictures, What
from scripts.benchmarks.clips import pairs_of
from tests.priors.tiny import write_tiny_prior


@pytest.fixture(scope="module")
def clip() -> Clip:
    return sample_clip(5000, frames=2, height_px=64, width_px=64)


@pytest.fixture(scope="module")
def sky(clip: Clip) -> OpenEdit:
    return next(a for a in open_edits(clip) if a.family.name == "any sky")


def test_open_edits_hold_the_exact_truth_of_their_members(clip: Clip, sky: OpenEdit) -> None:
    assert len(sky.members) >= 2
    assert set(sky.members) <= set(sky.family.members)
    for edit, truth in zip(sky.members, sky.member_truths(), strict=True):
        torch.testing.assert_close(truth, clip.truth(edit), atol=0.51 / 255, rtol=0)
    torch.testing.assert_close(sky.truths[0].float() / 255, clip.source(), atol=0.51 / 255, rtol=0)


def test_one_member_everywhere_is_full_agreement(sky: OpenEdit) -> None:
    found = measure(sky.member_truths()[1], sky)
    assert (found["accuracy"], found["agreement"], found["windows"], found["choice"]) == (1.0, 1.0, 1.0, 1)
    assert found["psnr"] == 100.0
    assert found["members"] == len(sky.members)


def test_frames_that_decide_for_themselves_are_right_and_disagree(sky: OpenEdit) -> None:
    members = sky.member_truths()
    found = measure(torch.stack([members[0, 0], members[1, 1]]), sky)
    assert (found["accuracy"], found["agreement"], found["windows"]) == (1.0, 0.5, 1.0)
    assert found["chance"] == pytest.approx(0.5 + 0.5 / len(sky.members))


def test_an_unedited_clip_is_no_member(clip: Clip, sky: OpenEdit) -> None:
    assert measure(clip.source(), sky)["accuracy"] == 0.0


def test_the_page_has_a_table_for_all_and_one_for_each_kind() -> None:
    numbers = {"accuracy": 1.0, "agreement": 0.75, "chance": 0.5, "windows": 1.0, "psnr": 30.0, "warp": math.nan}
    about = {"of": "clips", "views": "0", "members": 3}
    records = [
        about | numbers | {"family": f, "kind": k, "row": "SVGD", "seed": s, "choice": c}
        for f, k, s, c in (("any sky", "sky", 0, 1), ("any sky", "sky", 1, 2), ("any time", "time", 0, 0))
    ]
    page = to_markdown(records, {"prior": "p", "command": "c"})
    lines = [line for line in page.splitlines() if line.startswith("| SVGD")]
    assert lines[0].split(" | ")[1:5] == ["3", "100.00", "0.75", "0.50"]
    assert lines[0].endswith("| – | 1.50 |")  # two members on two seeds, one on one
    assert lines[1].endswith("| 2.00 |")
    assert [line for line in page.splitlines() if "## " in line] == ["## Clips", "### Clips, sky", "### Clips, time"]


@pytest.fixture
def few_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three hundred, those that the families of two kinds have: rendering all takes long."""
    few = tuple(e for f in all_families() if f.kind in ("time", "style") for e in f.members)
    monkeypatch.setattr(agreement, "every_edit", lambda: tuple(dict.fromkeys(few)))


@pytest.mark.usefixtures("few_edits")
@pytest.mark.parametrize("what", ["clips", "scenes", "panoramas"])
def test_every_place_gets_a_family_of_each_kind(what: What) -> None:
    settings = Settings(frames=2, size_px=64, kinds=("time", "style"))
    place = place_of(settings, what, 0)
    asked = asked_of(place, settings, 0)
    assert [a.family.kind for a in asked] == ["time", "style"]
    truth = asked[0].member_truths()[1]
    found = measure(truth, asked[0])
    assert (found["accuracy"], found["agreement"], found["choice"]) == (1.0, 1.0, 1)
    assert len(truth) == (12 if what == "panoramas" else 2)  # a turn is 431 px wide: windows of 64, half of that apart
    warp = place.warp(truth, asked[0])
    assert math.isnan(warp) if what == "panoramas" else warp < 0.02


def test_views_of_a_scene_meet_along_depth() -> None:
    """Three quarters of a view are seen in the next, whose exact truth is the same there."""
    place = place_of(Settings(frames=8, size_px=64), "scenes", 0)
    assert isinstance(place, Pictures)
    pairs = pairs_of(place.views, 1)
    assert pairs.visible.float().mean() > 0.5
    assert pairs.error(place.views.source()).mean() < 0.02


@pytest.mark.usefixtures("few_edits")
def test_from_end_to_end_and_again_from_what_is_kept(tmp_path: Path) -> None:
    prior = write_tiny_prior(tmp_path / "tiny", closed=False)
    rows, panorama_rows = ("per-frame sampling", "SVGD, shared anchors"), ("windows sampled one by one",)
    settings = Settings(
        prior=str(prior), out=tmp_path / "out", places=1, frames=2, size_px=64, kinds=("time",), seeds=1,
        sampling_steps=1, csd=replace(BUILTIN, steps=1), rows=(*rows, *panorama_rows), device="cpu",
    )  # fmt: skip
    with pytest.raises(ValueError, match="rows: expected names among"):
        benchmark(replace(settings, rows=("nobody",)), RunProgress(quiet=True))
    with pytest.raises(ValueError, match="seeds: expected 1 or more"):
        replace(settings, seeds=0)
    assert replace(settings, quick=True, seeds=2).effective().seeds == 1
    assert benchmark(settings, RunProgress(quiet=True)) == tmp_path / "out"
    page = (tmp_path / "out" / "agreement.md").read_text()
    found = json.loads((tmp_path / "out" / "agreement.json").read_text())
    own = {what: [r["row"] for r in found["records"] if r["of"] == what] for what in ("clips", "scenes", "panoramas")}
    assert own == {"clips": list(rows), "scenes": list(rows), "panoramas": list(panorama_rows)}
    assert all(0 <= r["accuracy"] <= 1 and 0 < r["agreement"] <= 1 for r in found["records"])
    assert page.count("SVGD, shared anchors") == 4
    kept = {f: f.stat().st_mtime_ns for f in (tmp_path / "out" / "work").rglob("*.json")}
    benchmark(settings, RunProgress(quiet=True))
    assert {f: f.stat().st_mtime_ns for f in kept} == kept
    assert (tmp_path / "out" / "agreement.md").read_text() == page


def test_a_prior_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Settings(prior=str(tmp_path / "none"), out=tmp_path, device="cpu")) == 2
    assert "there is no such directory" in capsys.readouterr().err
