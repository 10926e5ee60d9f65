"""`csd3d evaluate` as a person meets it: files, runs, words, exit codes."""

import json

import pytest
from PIL import Image

from csd3d.cli import main as cli


@pytest.fixture(autouse=True)
def no_networks(monkeypatch):
    monkeypatch.setattr("csd3d.evaluate.towers.load.packaged", lambda *names: None)


def evaluate(*words):
    return cli.main(["evaluate", *map(str, words)])


@pytest.fixture
def clips(make_clip):
    return make_clip("a.mp4")[0], make_clip("b.mp4", seed=1)[0]


def test_results_are_rows_of_a_table_and_files(clips, tmp_path, capsys):
    a, b = clips
    assert evaluate(a, b, f"mine={a}", "--prompt", "x", "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in said.splitlines()[2:5]] == ["source", "b", "mine"]
    assert f"written   {tmp_path / 'out'}/table.md, table.csv, table.json" in said
    found = json.loads((tmp_path / "out" / "table.json").read_text())
    assert list(found["methods"]) == ["source", "b", "mine"]
    assert found["methods"]["mine"]["change"]["mean"] == 0
    assert found["methods"]["b"]["warp error"]["n"] == 6


def test_a_run_knows_what_it_edited(clips, tmp_path, capsys, only_toys):
    a, _ = clips
    for name in ("red", "again"):
        words = ["video", a, "--prompt", "make it red", "--steps", "1", "--size", "32", "--run-dir", tmp_path / name]
        assert cli.main([*map(str, words), "--output", str(tmp_path / f"{name}.mp4")]) == 0
    capsys.readouterr()
    assert evaluate(tmp_path / "red", tmp_path / "again") == 0
    said = capsys.readouterr().out
    rows = [line.split("|") for line in said.splitlines()[2:5]]
    assert [row[1].strip() for row in rows] == ["source", "red", "again"]
    assert rows[1][2:] == rows[2][2:]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["{a}"], "expected a source and results of it"),
        (["{a}", "{tmp}/none.mp4"], "which does not exist"),
        (["{a}", "{b}", "{b}"], "got 'b' twice"),
        (["{a}", "{tmp}/tall.png"], "expected the shape of the source"),
        (["{a}", "{b}", "--mask", "{tmp}/none.png"], "mask: expected a picture"),
        (["{a}", "{b}", "--features", "{tmp}/none.pth"], "features: expected a file of weights"),
        (["{a}", "{b}", "--size", "4"], "size: expected 16 or more"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(words, reason, clips, tmp_path, capsys):
    a, b = clips
    Image.new("RGB", (8, 32)).save(tmp_path / "tall.png")
    given = [word.format(a=a, b=b, tmp=tmp_path) for word in words]
    assert evaluate(*given, "--out", tmp_path / "out") == 2
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if line]
    assert reason in lines[-1]
    assert len(lines) == 1
    assert not (tmp_path / "out").exists()


def test_how_long_it_takes_is_said_before_it_is_done(clips, tmp_path, capsys, monkeypatch):
    a, b = clips
    assert evaluate(a, b, "--out", tmp_path / "silent") == 0
    assert "this takes" not in capsys.readouterr().err
    monkeypatch.setattr("csd3d.evaluate.job.LEAST", 1)
    monkeypatch.setattr("csd3d.runs.estimate.LONG_S", 0.0)
    assert evaluate(a, b, "--out", tmp_path / "said") == 0
    error = capsys.readouterr().err
    assert error.index("this takes about") < error.index("measuring: ")
    assert "frames at" in error
    assert (tmp_path / "said" / "table.csv").read_bytes() == (tmp_path / "silent" / "table.csv").read_bytes()


def test_a_run_that_is_not_finished_is_refused(tmp_path, capsys, clips):
    (tmp_path / "run").mkdir()
    manifest = {
        "format": 2, "command": "video", "config": {}, "seed": 0, "status": "interrupted",
        "inputs": [{"path": str(clips[0]), "sha256": "0" * 64}], "outputs": {"clip": str(tmp_path / "x.mp4")},
    }  # fmt: skip
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    assert evaluate(tmp_path / "run") == 2
    assert "expected a finished run" in capsys.readouterr().err


def test_a_benchmark_is_measured_where_all_methods_have_results(clips, tmp_path, capsys):
    a, b = clips
    (tmp_path / "jobs.csv").write_text(f"clip,prompt,output\n{a},x,one.mp4\n{b},y,two.mp4\n")
    for method, names in {"mine": ("one", "two"), "theirs": ("one",)}.items():
        (tmp_path / method).mkdir()
        for name in names:
            (tmp_path / method / f"{name}.mp4").write_bytes(a.read_bytes())
    words = (
        "batch",
        tmp_path / "jobs.csv",
        tmp_path / "mine",
        f"other={tmp_path / 'theirs'}",
        "--out",
        tmp_path / "out",
    )
    assert evaluate(*words) == 0
    assert "Note: 1 of 2 cases are measured, those that all methods have: other lacks 1" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "out" / "table.json").read_text())["methods"]) == ["source", "mine", "other"]


def test_the_table_of_a_benchmark_is_not_written_over(clips, tmp_path, capsys):
    (tmp_path / "table.csv").write_text(before := f"clip,prompt,output\n{clips[0]},x,one.mp4\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/one.mp4").write_bytes(clips[0].read_bytes())
    assert evaluate("batch", tmp_path / "table.csv", tmp_path / "mine", "--out", tmp_path) == 2
    assert "expected another file than those that are read" in capsys.readouterr().err
    assert (tmp_path / "table.csv").read_text() == before


def test_a_name_that_is_no_utf8_is_refused_before_the_work(clips, capsys):
    a, b = clips
    odd = b.rename(b.with_name("caf\udce9.mp4"))
    for result in (odd, f"\udce9={a}"):
        assert evaluate(a, result) == 2
        assert "evaluate: expected a name in UTF-8" in capsys.readouterr().err


def test_a_run_of_a_pattern_of_frames(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    for i in range(2):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{i}.png")
    manifest = {
        "format": 2, "command": "video", "config": {}, "seed": 0, "status": "finished",
        "inputs": [{"path": str(tmp_path / "*.png"), "sha256": "0" * 64}], "outputs": {"clip": str(tmp_path / "0.png")},
    }  # fmt: skip
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    assert evaluate(tmp_path / "run") == 0
    assert "0.png: 1 frames, its source has 2" in capsys.readouterr().out
