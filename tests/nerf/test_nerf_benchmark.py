"""The benchmark of radiance fields: measures, the rival's sampler, and all of it on a tiny random prior."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Noised
from csd3d.nerf import configs
from csd3d.nerf.drivers import Update
from csd3d.priors.defaults import default_config
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import find_edit
from csd3d.world.families import all_families
from scripts import benchmark_nerf
from scripts.benchmarks import nerf_methods
from scripts.benchmarks.nerf_methods import OneByOne, Plan, captioned, sample_from, standard
from scripts.benchmarks.nerf_scenes import Judge, OpenJudge, Place, place
from scripts.benchmarks.nerf_tables import CEILING, FLOOR, TRUTH, UNEDITED, summarise
from tests.nerf.tiny import make_small
from tests.priors.tiny import write_tiny_prior

pytestmark = pytest.mark.slow

ROWS = (
    "one view at a time", "csd-edit, SVGD", "csd-edit, SVGD by depth, shared anchors",
    "csd-edit, SVGD by depth, the defaults before", f"{CEILING}, through the codec", CEILING,
)  # fmt: skip
"""A row of each kind; the others differ in settings."""
MORE = ("csd by depth", "cds, distil")
"""Rows that show those of distillation and of captions to work."""
PLAN = Plan(
    "", "cpu", size_px=128, scene_steps=800, edit_steps=20, views_per_edit=8, edits=3, edit_every=100,
    sampling_steps=20, sampling_guidance=1.0, s_text=1.0, s_image=1.0, seed=0,
)  # fmt: skip
OPEN = "give the cube another color"
ANY_COLOUR = next(f for f in all_families() if OPEN in f.wordings)


@pytest.fixture(scope="module")
def small() -> Place:
    return place(8, train_views=5, test_views=2, size_px=32, families=[ANY_COLOUR])


def test_the_truth_is_right_and_consistent(small: Place) -> None:
    judge = Judge(small, find_edit("make it snowy"), gap=2)
    own = judge(judge.held_out, judge.train)
    assert own["accuracy"] == 1
    assert own["psnr"] == own["psnr_train"] == 100
    nothing = judge(judge.unedited, small.posed.train.source())
    assert nothing["accuracy"] == 0
    assert nothing["psnr"] < 20
    flicker = 0.1 * torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    trembling = judge(judge.held_out, judge.train + flicker)
    assert trembling["warp"] > 2 * own["warp"]
    assert trembling["warp_far"] > own["warp_far"]


def test_a_new_shape_is_reprojected_by_its_own_depth(small: Place) -> None:
    edit = find_edit("turn the cube into a ball")
    judge = Judge(small, edit, gap=2)
    wrong = Judge(replace(small), find_edit("make it snowy"), gap=2)  # keeps the cube
    assert judge._near.error(judge.train).mean() < wrong._near.error(judge.train).mean()


def test_views_that_chose_one_answer_agree(small: Place) -> None:
    judge = OpenJudge(small, ANY_COLOUR, gap=2)
    answers = [Judge(small, edit, gap=2) for edit in ANY_COLOUR.open_in(small.posed.scene)]
    for answer in answers:
        found = judge(answer.held_out, answer.train)
        assert (found["accuracy"], found["agreement"], found["psnr"], found["psnr_train"]) == (1, 1, 100, 100)
    mixed = judge(answers[1].held_out, torch.cat([answers[0].train[:2], answers[1].train[2:]]))
    assert (mixed["agreement"], mixed["psnr"]) == (0.6, 100)
    assert mixed["warp"] > judge(answers[1].held_out, answers[1].train)["warp"]
    assert judge(judge.unedited, small.posed.train.source())["accuracy"] == 0
    closed = next(f for f in all_families() if not f.open_in(small.posed.scene))
    with pytest.raises(ValueError, match=f"expected 2 answers or more that show, got 0: {closed.name}"):
        OpenJudge(small, closed, gap=2)


def test_moves_of_a_batch_are_as_long_together_as_those_of_the_method() -> None:
    plan = replace(PLAN, prior="builtin")
    rows = captioned(plan, "a red ball", "a blue ball")
    usual = default_config("dds", builtin=True)
    assert rows["dds"].settings["lr"] * plan.edit_steps == pytest.approx(usual.lr * usual.steps)
    assert rows["dds"].settings["source_prompt"] == "a red ball"
    assert "source_prompt" not in rows["csd"].settings
    assert rows["dds"].unet_rows == 3 * 8 * 20 * 4 == 2 * rows["sds"].unet_rows
    assert rows["cds, distil"].unet_rows == 300 * 2 * 4


def test_every_row_has_settings_of_its_own() -> None:
    rows = standard(PLAN, torch.zeros(1, 3, 8, 8))
    moved = [method.settings for name, method in rows.items() if name.startswith("csd-edit")]
    assert len(moved) == 7
    assert all(a != b for i, a in enumerate(moved) for b in moved[:i])


def test_one_view_at_a_time_never_has_views_that_follow_at_once() -> None:
    assert OneByOne.views_left is not Update.views_left


def test_sampling_begins_at_the_noise_that_was_drawn_and_finds_the_only_picture_there_is() -> None:
    goal, schedule = torch.rand(1, 4, 3, 3), Schedule.scaled_linear()
    seen: list[tuple[int, torch.Tensor]] = []

    def target(x: Noised) -> torch.Tensor:
        ab = schedule.alpha_bar(x.t)
        seen.append((x.t, (x.z_t - ab**0.5 * goal) / (1 - ab) ** 0.5))
        return seen[-1][1]

    score = SimpleNamespace(schedule=schedule, target=target)
    prior: Any = SimpleNamespace(score=lambda *_, **__: score)
    plan = replace(PLAN, sampling_steps=7)
    rng = torch.Generator().manual_seed(3)
    out = sample_from(torch.rand(1, 4, 3, 3), torch.zeros(1, 4, 3, 3), prior, "x", plan, rng=rng)
    last = schedule.alpha_bar(0)  # the last noise level is small, not nothing; DDIM keeps the noise it started with
    torch.testing.assert_close(out, last**0.5 * goal + (1 - last) ** 0.5 * seen[0][1])
    times = [t for t, _ in seen]
    assert len(times) == 7
    assert times == sorted(times, reverse=True)
    assert 20 <= times[0] < 980


def test_the_same_budget_buys_as_many_samples() -> None:
    plan = replace(PLAN, edit_steps=60, sampling_guidance=1.5, s_text=1.5, s_image=1.5)
    assert plan.unet_rows == 3 * 8 * 60 * 4
    assert plan.samples * 20 * 2 == plan.unet_rows


def test_the_way_is_measured_from_floor_to_ceiling() -> None:
    values = {TRUTH: 100.0, FLOOR: 20.0, "csd": 24.0, CEILING: 28.0}
    table = summarise([{"row": row, "psnr": value, "warp": 1.0} for row, value in values.items()])
    assert table["csd"]["way"] == pytest.approx(0.5)
    assert table[FLOOR]["way"] == 0


def test_from_end_to_end_and_on_from_where_it_was(
    small: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_nerf, "place", lambda *_, **__: small)  # its truths take longer than all the rest
    method = copy.deepcopy(configs.csd_edit_cpu)
    make_small(method.config.pipeline.model)
    monkeypatch.setattr(configs, "csd_edit_cpu", method)
    monkeypatch.setitem(nerf_methods.BEFORE, "edit_steps", 3)
    prior = write_tiny_prior(tmp_path / "tiny", closed=False)
    t2i = write_tiny_prior(tmp_path / "t2i", kind="text-to-image", closed=False, sample_size=4)
    settings = benchmark_nerf.Settings(
        prior=str(prior),
        t2i=str(t2i),
        out=tmp_path / "out",
        sentences=("make it snowy",),
        scene_steps=4,
        edit_every=3,
        edit_steps=2,
        sampling_steps=2,
        size_px=32,
        quick=True,
        rows=("csd-edit, SVGD",),
    )
    with RunProgress(quiet=True) as progress:
        benchmark_nerf.benchmark(settings, progress)
        first = json.loads((tmp_path / "out" / "nerf.json").read_text())
        benchmark_nerf.benchmark(replace(settings, rows=(*ROWS, *MORE)), progress)
    found = json.loads((tmp_path / "out" / "nerf.json").read_text())
    rows = {r["row"]: r for r in found["records"]}
    assert list(rows)[:3] == [TRUTH, UNEDITED, FLOOR]
    assert set(rows) == {TRUTH, UNEDITED, *ROWS, *MORE}
    assert rows[CEILING]["psnr_train"] > 50 > rows[f"{CEILING}, through the codec"]["psnr_train"]
    before = next(r for r in first["records"] if r["row"] == "csd-edit, SVGD")
    assert rows["csd-edit, SVGD"] == before  # seconds too: it was not run again
    coupled = {rows[name]["psnr_train"] for name in rows if name.startswith("csd-edit")}
    assert len(coupled) == 3  # ways of moving a batch
    assert len({rows[name]["psnr"] for name in MORE}) == len(MORE)
    assert all(0 <= row["structure"] <= 4 and "agreement" not in row for row in rows.values())
    assert "| csd-edit, SVGD |" in (tmp_path / "out" / "nerf.md").read_text()
    assert (tmp_path / "out" / "sheets" / "make-it-snowy.png").is_file()
    several = replace(settings, sentences=(OPEN,), rows=("csd-edit, SVGD", "dds"))
    with RunProgress(quiet=True) as progress:
        benchmark_nerf.benchmark(several, progress)
    found = json.loads((tmp_path / "out" / "nerf.json").read_text())
    assert [r["row"] for r in found["records"]] == [TRUTH, UNEDITED, "csd-edit, SVGD"]  # captions have one
    assert found["records"][0]["agreement"] == 1
    assert 0.2 <= found["records"][-1]["agreement"] <= 1


def test_mistakes_in_one_line(
    small: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_nerf, "place", lambda *_, **__: small)
    assert benchmark_nerf.main(benchmark_nerf.Settings(prior=str(tmp_path / "none"))) == 2
    assert "there is no such directory" in capsys.readouterr().err
    asked = benchmark_nerf.Settings(prior=str(write_tiny_prior(tmp_path / "tiny")), out=tmp_path / "out", quick=True)
    assert benchmark_nerf.main(replace(asked, rows=("best",))) == 2
    assert "rows: expected names among one view at a time, " in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("base*"))  # nothing was trained
    with pytest.raises(ValueError, match="size_px: expected a multiple of 8"):
        benchmark_nerf.Settings(size_px=100)
    with pytest.raises(ValueError, match="train_views: expected more than gap"):
        benchmark_nerf.Settings(train_views=6)
