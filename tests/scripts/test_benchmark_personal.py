"""The benchmark of personal priors: what is asked for, the table, and a run with a network that learnt nothing."""

from pathlib import Path

import pytest

from csd3d.runs.progress import RunProgress
from scripts import benchmark_personal as bench
from scripts import evaluate_t2i
from scripts.benchmarks.composition import Reader
from scripts.benchmarks.personal_tables import line
from tests.priors.tiny import write_tiny_prior


def test_each_thing_is_asked_for_on_each_ground() -> None:
    asked = bench.questions_of()
    assert len({a.caption for a in asked}) == len(asked) == 30
    assert asked[0].caption == "a {} ball on grass"
    assert "a {} ring on a checkerboard" in [a.caption for a in asked]
    silent = bench.questions_of(said=False)
    assert [a.shape for a in silent] == [a.shape for a in asked[6:]]
    assert not any("{}" in a.caption for a in silent)
    assert (len(bench.asked_of("xti")), len(bench.asked_of("lora"))) == (30, 54)


def test_a_line_tells_the_subject_from_other_things() -> None:
    rows = [{"look": "golden", "of": of, "there": True, "right": r} for of, r in (("subject", 1), ("other", 0))]
    cells = line("xti", rows)
    assert [cells[1], cells[4], cells[7:]] == [1, 1, ["", "", ""]]
    assert [str(cells[k]).split()[0] for k in (2, 3, 5, 6)] == ["100.0", "100.0", "100.0", "0.0"]


def test_the_benchmark_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = write_tiny_prior(tmp_path / "prior", kind="text-to-image", closed=False, sample_size=8)
    reader = Reader().eval()
    monkeypatch.setattr(evaluate_t2i, "train_reader", lambda *_, **__: reader)
    settings = bench.Settings(
        str(prior), work=tmp_path, out=tmp_path, rows=(bench.NONE, "xti", "lora"), device="cpu", quick=True
    )
    assert bench.benchmark(settings, RunProgress(quiet=True)) == tmp_path
    page = (tmp_path / "personal.md").read_text()
    assert all(f"| {name} |" in page for name in (bench.NONE, "xti", "lora"))
    assert (tmp_path / "personal.jpg").is_file()
    monkeypatch.setattr(bench, "drawn", lambda *_: pytest.fail("is there already"))
    bench.benchmark(settings, RunProgress(quiet=True))
    assert (tmp_path / "personal.md").read_text() == page
    with pytest.raises(ValueError, match="looks: expected some of golden"):
        bench.Settings(looks=("shiny",))
