"""The benchmark of composition: captions, noises and table, and a run with a reading network that learnt nothing."""

from pathlib import Path

import pytest
import torch

from csd3d.runs.progress import RunProgress
from scripts import benchmark_composition as bench
from scripts import evaluate_t2i
from scripts.benchmarks.composition import Reader
from scripts.benchmarks.composition_tables import Row
from scripts.benchmarks.steering_tables import HEADER, Sampled, line
from tests.priors.tiny import write_tiny_prior


def row(*right: bool) -> Row:
    things = [{"shape": "ball", "look": "red", "found": True, "right": r} for r in right]
    return {"caption": "", "things": things, "extra": False, "ground": True, "time": True}


def test_a_line_counts_captions_that_were_won_and_lost() -> None:
    plain = [row(True, True), row(True, False), row(True, True, True), row(False, False)]
    other = Sampled([row(True, True), row(True, True), row(True, False, True)], 1.25)
    cells = dict(zip(HEADER, line("other", other, plain), strict=True))
    assert cells["captions won and lost"] == "+1 -1"
    assert str(cells["all as named"]).startswith("66.7 ")
    assert str(cells["of two"]).startswith("100.0 ")
    assert str(cells["of three"]).startswith("0.0 ")
    assert str(cells["things there"]).startswith("100.0 ")
    assert str(cells["and as named"]).startswith("85.7 ")
    assert cells["captions"] == 3


def test_captions_are_of_two_and_three_things_in_turn() -> None:
    assert [len(scene.things) for scene in bench.chosen(6, 0)] == [2, 3] * 3
    assert bench.chosen(2, 0) == bench.chosen(6, 0)[:2]


def test_noises_of_a_caption_are_the_same_in_all_ways_and_batches() -> None:
    whole = bench.first_noise((4, 2, 2), range(3), 1, among=2)
    assert torch.equal(whole[4:], bench.first_noise((4, 2, 2), range(2, 3), 1, among=2))
    assert torch.equal(whole[::2], bench.first_noise((4, 2, 2), range(3), 1, among=1))


def test_the_benchmark_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = write_tiny_prior(tmp_path / "prior", kind="text-to-image", closed=False)
    reader = Reader().eval()
    monkeypatch.setattr(evaluate_t2i, "train_reader", lambda *_, **__: reader)
    settings = bench.Settings(
        str(prior), work=tmp_path, out=tmp_path, rows=("pick 8", "without t + 1"), size_px=64, device="cpu", quick=True
    )
    assert bench.benchmark(settings, RunProgress(quiet=True)) == tmp_path
    page = (tmp_path / "composition.md").read_text()
    assert all(f"| {name} |" in page for name in ("plain", "pick 8", "without t + 1"))
    assert (tmp_path / "composition.jpg").is_file()
    monkeypatch.setattr(bench, "sample", lambda *_: pytest.fail("is there already"))
    bench.benchmark(settings, RunProgress(quiet=True))
    assert (tmp_path / "composition.md").read_text() == page
    with pytest.raises(ValueError, match="rows: expected names among plain"):
        bench.benchmark(bench.Settings(str(prior), rows=("best",)), RunProgress(quiet=True))
