"""The benchmarks: held-out material is even and true, and both scripts run from end to end on a tiny random prior."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from csd3d.engine.config import METHODS
from csd3d.metrics import Mean
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import KINDS, all_edits, find_edit
from scripts import benchmark_video, evaluate_prior
from scripts.benchmarks.clips import Material, material, pick_edits
from scripts.benchmarks.heldout import Source, choose, held_out_photos, photo_source
from scripts.benchmarks.prior_tables import Findings, Outcome, bars, to_json, to_markdown
from scripts.benchmarks.stock import StockEditor
from scripts.benchmarks.video_tables import CODEC, TRUTH, UNEDITED, measure, summarise
from tests.priors.tiny import write_tiny_prior

QUIET = RunProgress(quiet=True)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "tiny", closed=False)


@pytest.fixture(scope="module")
def found() -> Material:
    return material(3, "orbit", frames=4, height_px=64, width_px=64, judged=2, moving=True)


def blank(name: str, words: list[str]) -> Source:
    edits = tuple(find_edit(w) for w in words)
    return Source(name, edits, torch.zeros(1 + len(edits), 3, 8, 8, dtype=torch.uint8))


def test_tasks_are_spread_over_kinds_sources_and_edits() -> None:
    words = ["make it snowy", "add fog", "make it rainy", "make it night", "at sunset"]
    sources = [blank(str(i), words) for i in range(3)]
    tasks = choose(sources, 5, seed=1)
    by_kind = {k: [t for t in tasks if t.edit.kind == k] for k in KINDS}
    assert {k: len(v) for k, v in by_kind.items() if v} == {"weather": 5, "time": 5}
    assert len({(t.source.name, t.edit.name) for t in tasks}) == 10
    for group in by_kind.values():
        for key in ("source", "edit"):
            names = [getattr(t, key).name for t in group]
            counts = [names.count(n) for n in set(names)]
            assert max(counts, default=0) - min(counts, default=0) <= 1
    assert choose(sources, 5, seed=1) == tasks
    assert len(choose(sources, 50, seed=1)) == 15


def test_photographs_come_with_every_style() -> None:
    photos = held_out_photos(None, 64)
    assert set(photos) == {"chelsea.png", "rocket.jpg"}
    source = photo_source("chelsea.png", photos["chelsea.png"])
    assert len(source.edits) == len([e for e in all_edits() if e.kind == "style"])
    sepia = find_edit("make it sepia")
    assert sepia.on_pixels is not None
    assert torch.allclose(source.truth(sepia), sepia.on_pixels(source.picture[None])[0], atol=1 / 100)


def test_photographs_of_a_folder_leave_out_those_of_training(tmp_path: Path) -> None:
    for name in ("mine.png", "astronaut.png", "notes.txt"):
        Image.new("RGB", (90, 70), (10, 200, 30)).save(tmp_path / name, format="png")
    photos = held_out_photos(tmp_path, 32)
    assert "mine.png" in photos
    assert "astronaut.png" not in photos
    assert photos["mine.png"].shape == (3, 32, 32)
    with pytest.raises(FileNotFoundError, match="photos: expected a folder"):
        held_out_photos(tmp_path / "none", 32)


def outcome(kind: str, right: bool, wording: str = "trained") -> Outcome:
    return Outcome("world", f"some {kind}", kind, wording, "…", "unedited", "", right, 20.0, 30.0)  # pyright: ignore[reportArgumentType]


def test_bars_are_measured_as_they_are_written() -> None:
    outcomes = [outcome("sky", True) for _ in range(15)] + [outcome("time", i < 3) for i in range(4)]
    outcomes += [outcome("sky", i < 12, "held-out") for i in range(15)]
    found = Findings(
        outcomes,
        {"output": Mean(28.0, 4), "absent": Mean(24.0, 4), "codec": Mean(30.0, 4)},
        {"world": Mean(29.5, 9), "a.png": Mean(26.0, 1), "b.png": Mean(27.0, 1)},
        [],
        {
            "prior": "x",
            "weights": "y",
            "diffusers": "1",
            "steps": 20,
            "s_text": 2.0,
            "s_image": 1.2,
            "size_px": 128,
            "seed": 0,
            "command": "c",
            "minutes": 1.0,
        },
    )
    measured = {what: (value, reached) for what, value, _, reached in bars(found)}
    assert list(measured.values()) == [
        (pytest.approx(100 * 18 / 19), True),
        (pytest.approx(75.0), True),
        (pytest.approx(100 * 18 / 19 - 80), False),
        (pytest.approx(2.0), False),
        (pytest.approx(29.5), True),
        (pytest.approx(26.5), False),
    ]
    assert json.loads(json.dumps(to_json(found, records=False)))["kinds"]["time"]["trained"] == {"mean": 0.75, "n": 4}
    assert "| sky | 15 | 100.0 | 80–100 | 80.0 |" in to_markdown(found)


def test_a_picture_is_edited_alike_in_every_batch(prior: Path) -> None:
    editor = StockEditor(str(prior), device="cpu", steps=2, batch=4)
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    words, seeds = ["make it snowy", "make it night", "make it snowy"], [5, 6, 7]
    together = editor.edit(pictures, words, seeds, s_text=2.0, s_image=1.2)
    alone = editor.edit(pictures[1:2], words[1:2], seeds[1:2], s_text=2.0, s_image=1.2)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=0)
    other = editor.edit(pictures[1:2], words[1:2], [8], s_text=2.0, s_image=1.2)
    assert (other - alone).abs().max() > 1e-3


def test_evaluate_prior_from_end_to_end(prior: Path, tmp_path: Path) -> None:
    settings = evaluate_prior.Settings(
        prior=str(prior), out=tmp_path, sources=1, per_kind=1, steps=2, size_px=64, device="cpu", records=True
    )
    assert evaluate_prior.evaluate(settings, QUIET) == tmp_path
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert {o["wording"] for o in found["outcomes"]} == {"trained", "held-out"}
    for record in found["outcomes"]:
        edit = find_edit(record["sentence"])
        assert edit.name == record["edit"]
        assert (record["sentence"] == edit.held_out) == (record["wording"] == "held-out")
    edited = {o["edit"] for o in found["outcomes"] if "photo" not in o["kind"]}
    assert 1 <= found["codec"]["world"]["n"] - len(edited) <= 4  # sources
    assert "| instruction accuracy, % |" in (tmp_path / "evaluation.md").read_text()
    assert Image.open(tmp_path / "evaluation.png").width > 3 * 64


def test_evaluate_prior_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate_prior.main(evaluate_prior.Settings(prior=str(tmp_path / "none"), device="cpu")) == 2
    assert "there is no such directory" in capsys.readouterr().err
    with pytest.raises(ValueError, match="size_px: expected a multiple of 8"):
        evaluate_prior.Settings(size_px=100)


def test_the_true_edited_clip_is_right_steady_and_harmless(found: Material) -> None:
    edits = pick_edits(found, ("weather", "colour", "shape"), seed=0)
    assert [e.kind for e in edits] == ["weather", "colour", "shape"]
    for edit in edits:
        truth, pairs = found.clip.truth(edit), (found.pairs(edit, 1), found.pairs(edit, 2))
        own = measure(truth, found, edit, truth, *pairs)
        nothing = measure(found.source, found, edit, truth, *pairs)
        noise = 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
        trembling = measure((truth + noise).clamp(0, 1), found, edit, truth, *pairs)
        assert own["accuracy"] == 1
        assert own["psnr"] == 100
        assert nothing["accuracy"] == 0
        assert nothing["background"] == 0 or edit.kind == "weather"
        assert trembling["warp"] > own["warp"] + 0.03
        assert trembling["flicker"] > own["flicker"] + 0.001


def test_true_motion_explains_a_clip(found: Material) -> None:
    pairs = found.pairs(None, 1)
    still = replace(pairs, flow=torch.zeros_like(pairs.flow))
    assert pairs.error(found.source).mean() < 0.5 * still.error(found.source).mean()
    assert len(found.pairs(None, 4).first) == 0  # as long as the clip


def test_edits_are_dealt_over_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    dealt: list[list[str]] = []
    monkeypatch.setattr(benchmark_video, "material", lambda *args, **how: None)
    monkeypatch.setattr(benchmark_video, "pick_edits", lambda found, kinds, seed: dealt.append(kinds) or [])
    list(benchmark_video.cases(benchmark_video.Settings(clips=4, per_clip=2, kinds=("weather", "time", "style"))))
    assert dealt == [["weather", "time"], ["style", "weather"], ["time", "style"], ["weather", "time"]]


def test_unknown_rows_are_refused(prior: Path, tmp_path: Path) -> None:
    settings = benchmark_video.Settings(prior=str(prior), out=tmp_path, rows=("best",), device="cpu")
    with pytest.raises(ValueError, match=r"rows: expected names among per-frame sampling, .*got best"):
        benchmark_video.benchmark(settings, QUIET)


def test_benchmark_video_from_end_to_end(prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = benchmark_video.Settings(
        prior=str(prior),
        out=tmp_path,
        clips=1,
        frames=3,
        height_px=64,
        width_px=72,
        kinds=("weather",),
        sampling_steps=1,
        csd=replace(METHODS["csd-edit"], steps=1),
        judged=1,
        gap=2,
        keys=2,
        device="cpu",
    )
    known = list(benchmark_video.cases(settings))  # their truths take as long as all the rest
    monkeypatch.setattr(benchmark_video, "cases", lambda _: iter(known))
    assert benchmark_video.benchmark(settings, QUIET) == tmp_path
    found = json.loads((tmp_path / "video.json").read_text())
    bare = found["means"]["none"]
    assert list(bare)[:3] == [TRUTH, CODEC, UNEDITED]
    assert len(bare) == 14
    assert bare[TRUTH]["accuracy"]["mean"] == 1
    assert bare[TRUTH]["warp_ratio"] == 1
    assert bare[UNEDITED]["accuracy"]["mean"] == 0
    assert bare["csd-edit, SVGD"]["unet_calls"]["mean"] == 5
    assert bare["2 key frames, carried along the flow"]["unet_calls"]["mean"] == pytest.approx(10 / 3)
    assert bare["csd-edit, SVGD"]["seconds"]["mean"] > 0
    page = (tmp_path / "video.md").read_text()
    assert page.count("| csd-edit, SVGD along motion |") == 4  # three ways of finishing, and by kind of edit
    assert len(list((tmp_path / "sheets").glob("*.png"))) == 1

    (row,) = (tmp_path / "work").rglob("csd-edit-SVGD.json")
    row.unlink()
    benchmark_video.benchmark(settings, QUIET)  # what is missing is measured again, the rest is read
    again = json.loads((tmp_path / "video.json").read_text())
    prices = ("seconds", "peak_mb")
    for a, b in zip(found["records"], again["records"], strict=True):
        assert {k: v for k, v in a.items() if k not in prices} == {k: v for k, v in b.items() if k not in prices}
        assert a["seconds"] == b["seconds"] if a["row"] != "csd-edit, SVGD" and a.get("seconds") else True


def test_summaries_are_ratios_of_means() -> None:
    records = [
        {"row": row, "accuracy": 1.0, "psnr": 20.0, "warp": w, "warp_far": w, "background": 0.0, "flicker": w}
        for row, w in ((TRUTH, 0.1), ("ours", 0.1), (TRUTH, 0.3), ("ours", 0.7))
    ]
    assert summarise(records)["ours"]["warp_ratio"] == pytest.approx(2.0)
