"""The benchmark of masks: what it measures is what it says, and it goes on where it was stopped."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from csd3d.attention.masks import EDGE, Found
from csd3d.priors.defaults import BUILTIN
from csd3d.priors.instruct import InstructPrior
from csd3d.runs.found_masks import at_pixels
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import find_edit
from scripts import benchmark_masks
from scripts.benchmark_masks import Settings, benchmark
from scripts.benchmarks import masks
from scripts.benchmarks.masks import Case, about_edit, about_map, auc, edits_table, extent_table, words_table
from scripts.benchmarks.masks_panorama import panorama_records

ONE = ("sources", "per_kind", "per_global", "noises")


def case():
    """A grey picture of which the left quarter, which is darker, becomes black."""
    source = torch.full((1, 3, 32, 32), 0.5)
    source[..., :8] = 0.3
    truth = source.clone()
    truth[..., :8] = 0
    return Case("pictures", source, truth, find_edit("make the ball red"), [0], torch.stack([source, truth]), 1)


def found(columns=2):
    """That many columns of four latents."""
    mask = torch.zeros(1, 4, 4)
    mask[:, :, :columns] = 1 / EDGE
    return Found("part", mask, 0.1, 0.0)


def test_auc_by_loops():
    values, of = torch.tensor([0.1, 0.5, 0.5, 0.9]), torch.tensor([False, True, False, True])
    pairs = [(a, b) for a in (0.5, 0.9) for b in (0.1, 0.5)]
    assert auc(values, of) == pytest.approx(sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / 4)
    assert auc(values, torch.zeros(4, dtype=torch.bool)) != auc(values, torch.zeros(4, dtype=torch.bool))  # NaN


def test_a_map_is_measured_by_what_changes():
    maps = torch.zeros(1, 4, 4)
    maps[:, :, 0] = 1
    record = about_map(case(), maps, found(1))
    assert record["auc"] == 1
    assert record["changed"] == 0.25
    assert record["missed"] == 0
    assert 0.25 < record["area"] < 0.5
    nothing = about_map(case(), 1 - maps, Found("part", torch.zeros(1, 4, 4), 0.1, 0.0))
    assert (nothing["auc"], nothing["missed"], nothing["area"]) == (0, 1, 0)


def test_a_result_is_measured_with_and_without_its_mask():
    edited = torch.full((1, 3, 32, 32), 0.4)
    edited[..., :8] = 0.0
    record = about_edit(case(), edited, edited.clamp(max=0.3), found(1))
    assert record["background kept"] == pytest.approx(0.2)
    assert record["right"] == record["right masked"] == 1
    assert record["background"] == pytest.approx(0.1)
    outside = (at_pixels(found(1).mask[:, None], case().source) == 0)[0, 0, :, 8:].float().mean()
    assert record["background masked"] == pytest.approx(0.1 * (1 - float(outside)), abs=0.01)
    assert record["psnr masked"] > record["psnr"]


@pytest.mark.slow
def test_the_benchmark_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    few = Settings(
        tmp_path,
        **dict.fromkeys(ONE, 1),
        clips=0,
        scenes=0,
        photos=0,
        panoramas=0,
        size_px=64,
        csd=replace(BUILTIN, steps=1),
    )
    progress, counts = RunProgress(quiet=True), []
    real = benchmark_masks.measure
    monkeypatch.setattr(benchmark_masks, "world_source", cache(benchmark_masks.world_source))

    def counted(*arguments, **options):
        counts.append(1)
        if len(counts) == 7:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(benchmark_masks, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        benchmark(few, progress)
    benchmark(few, progress)
    done = len(counts)
    benchmark(few, progress)
    assert len(counts) == done
    page = (tmp_path / "masks.md").read_text()
    assert "| pictures |" in page
    assert "No edit of more than 60 % of the pixels masked: " in page
    assert (tmp_path / "masks.json").is_file()


@pytest.mark.slow
def test_panoramas_are_measured_as_the_editor_finds_their_masks():
    prior = InstructPrior.load("builtin", device="cpu")
    csd = replace(BUILTIN, steps=1)
    record = next(panorama_records(prior, "strip", 7000, csd, window_px=64, run_seed=0))
    about = {"what", "kind", "edit", "panorama", "changed", "extent", "spread", "lowest", "auc", "area", "missed"}
    both = {name + how for name in ("right", "background", "psnr") for how in ("", " masked")}
    assert record.keys() == about | both
    assert record["auc"] > 0.8
    assert record["background masked"] <= record["background"]
    assert "| panoramas | 1 |" in edits_table([record])


def test_tables_have_a_row_for_every_group():
    about = {"what": "clips", "kind": "add", "changed": 0.1, "spread": 0.05, "lowest": 0.01, "extent": "part"}
    record = about | dict.fromkeys(("auc", "area", "missed", "psnr", "psnr masked", "right", "right masked"), 0.5)
    record |= {"background": 0.04, "background masked": 0.01}
    assert "| clips: add | 1 | 0.500 | 10 | 50 | 50.0 | 4.00 | 1.00 | 4.0 |" in edits_table([record])
    whole = record | {"changed": 0.9, "extent": "whole"}
    assert "| over 60 % | 1 | 0 |" in extent_table([record, whole])
    word = dict.fromkeys(("auc", "iou", "recall", "peak", "area", "share"), 0.25) | {"how": "the word alone"}
    assert "| the word alone | 1 | 0.250 | 0.25 | 25 | 25 | 25 | 25 |" in words_table([word])
    assert masks.mean_of([{"a": float("nan")}, {"a": 1.0}, {}], "a") == 1
