"""Clips, sentences and methods become one table; what is finished is not done again."""

import csv
import json
from pathlib import Path

import pytest

from csd3d.cli.main import main
from csd3d.evaluate.config import EvaluateConfig
from csd3d.evaluate.layouts import read_layout
from csd3d.runs.progress import RunProgress
from scripts.benchmark_methods import Settings, benchmark, entries_of_folder, read_methods, request_for
from tests.priors.tiny import write_tiny_prior

QUIET = RunProgress(quiet=True)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    small = ("--frames", "2", "--width", "32", "--height", "32")
    for seed in (1, 2):
        assert main(["world", "clip", str(tmp_path / "clips" / f"clip{seed}.mp4"), "--seed", str(seed), *small]) == 0
    return tmp_path / "clips"


def test_a_folder_of_clips_with_sentences_and_methods_makes_one_table(clips: Path, tmp_path: Path) -> None:
    prior = write_tiny_prior(tmp_path / "tiny", closed=False)
    flags = f"--prior {prior} --steps 1 --size 32"
    out, prompts = tmp_path / "out", ("make it snowy",)
    methods = (f"moved={flags}", f"half={flags} --strength 0.5")
    settings = Settings(clips, methods, prompts, out, EvaluateConfig(size=32))
    assert benchmark(settings, QUIET) == out
    written = sorted(path.relative_to(out) for path in out.glob("*/*.mp4"))
    assert len(written) == 4
    assert {path.parent.name for path in written} == {"moved", "half"}
    with (out / "table.csv").open() as file:
        assert {"moved", "half"} <= {row["method"] for row in csv.DictReader(file)}
    notes = " ".join(json.loads((out / "table.json").read_text())["notes"])
    assert "half: csd3d video" in notes
    assert "--strength 0.5" in notes
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.mp4")}
    benchmark(settings, QUIET)
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*.mp4")}


def test_a_published_table_gives_the_requests(clips: Path, tmp_path: Path) -> None:
    (clips / "benchmark_videos.csv").write_text(
        "edited_type,prompt,original_video\nstyle,make it night,videos/clip1.mp4\n", encoding="utf-8"
    )
    (clips / "videos").mkdir()
    (clips / "clip1.mp4").rename(clips / "videos" / "clip1.mp4")
    (entry,) = read_layout(clips)
    request = request_for(entry, "mine", ["--steps", "3"], tmp_path / "out")
    assert request.prompt == "make it night"
    assert request.source == clips / "videos" / "clip1.mp4"
    assert request.output == tmp_path / "out" / "mine" / "clip1.mp4"
    assert request.config.engine.steps == 3


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for given in (["mine"], ["runs="], ["a/b=--steps 1"], ["a=", "a="], []):
        with pytest.raises(ValueError, match="methods: expected"):
            read_methods(given)
    with pytest.raises(FileNotFoundError, match="expected a folder of clips"):
        entries_of_folder(tmp_path / "none", ["make it snowy"])
