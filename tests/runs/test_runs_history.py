"""Runs of others nearby never stop a run, and taking back deletes results alone."""

import json
import os
from pathlib import Path

import pytest

from csd3d.runs.folder import exclusive
from csd3d.runs.history import earlier_runs, repeat_command, runs_in, sentences, undo
from csd3d.runs.manifest import Manifest, fingerprint

STRANGE = {
    "deep": "[" * 100_000,
    "created": '{"format": 2, "command": "a", "config": {}, "seed": 1, "created": 5}',
    "written": '{"format": 2, "command": "a", "config": {}, "seed": 1, "written": null}',
    "config": '{"format": 2, "command": "a", "config": [], "seed": 1}',
    "history": '{"format": 2, "command": "a", "config": {}, "seed": 1, "history": [{}]}',
    "list": "[]",
    "latin": b"\xff\xfe\xe9",
}


def run_that_wrote(run_dir: Path, *results: Path, known: bool = True) -> Manifest:
    """A finished run; `known`: with the moment of its results."""
    run_dir.mkdir(parents=True)
    manifest = Manifest("image", {"prompt": "make it red"}, 0, status="finished")
    manifest.written = {entry["path"]: entry["sha256"] for entry in map(fingerprint, results)}
    if known:
        manifest.modified_ns = {path: Path(path).stat().st_mtime_ns for path in manifest.written}
    manifest.write(run_dir / "manifest.json")
    return manifest


def test_strange_manifests_are_no_runs(tmp_path):
    for name, text in STRANGE.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    result = tmp_path / "red.png"
    result.write_bytes(b"red")
    run_that_wrote(tmp_path / "good", result)
    assert [path.name for path, _ in runs_in(tmp_path)] == ["good"]
    assert [run["prompt"] for run in earlier_runs(result, fingerprint(result)["sha256"])] == ["make it red"]


def test_a_folder_that_may_not_be_looked_into_holds_no_runs(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert list(runs_in(tmp_path)) == []
    assert earlier_runs(tmp_path / "a.png", "0") == []


@pytest.mark.parametrize("value", [None, 3, "make it red", ["a", "b"], {"a": "b"}])
def test_sentences_of_any_settings(value):
    for name in ("prompt", "prompt_at", "prompt_mask", "tasks"):
        assert isinstance(sentences(Manifest("video", {name: value}, 0)), str)


def test_results_are_deleted(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for name in ("1.png", "2.png", "timestamps.txt"):
        (frames / name).write_bytes(name.encode())
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"clip")
    run_that_wrote(tmp_path / "runs" / "a", clip, frames)
    undo(tmp_path / "runs" / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]


@pytest.mark.parametrize("kind", ["thesis.tex", ".bashrc", "folder", "nested"])
def test_what_no_run_writes_is_left_alone(tmp_path, kind):
    """A manifest from elsewhere may name any file with its right hash."""
    mine = tmp_path / kind
    if kind in ("folder", "nested"):
        mine.mkdir()
        (mine / "1.png").write_bytes(b"1")
        (mine / "deeper").mkdir() if kind == "nested" else (mine / "letter.txt").write_text("mine")
    else:
        mine.write_text("mine")
    run_that_wrote(tmp_path / "runs" / "a", mine)
    with pytest.raises(ValueError, match="left alone"):
        undo(tmp_path / "runs" / "a")
    assert mine.exists()
    assert json.loads((tmp_path / "runs" / "a" / "manifest.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("kind", ["clip.mp4", "photo.png", "model.safetensors", "frames"])
def test_a_manifest_from_elsewhere_deletes_nothing_of_mine(tmp_path, kind):
    """Hashes of public files are known to everybody; when they came here is not."""
    mine = tmp_path / kind
    if kind == "frames":
        mine.mkdir()
        (mine / "1.png").write_bytes(b"1")
    else:
        mine.write_bytes(b"mine")
    run_that_wrote(tmp_path / "runs" / "unknown", mine, known=False)
    altered = run_that_wrote(tmp_path / "runs" / "guessed", mine)
    altered.modified_ns = {path: moment + 1 for path, moment in altered.modified_ns.items()}
    altered.write(tmp_path / "runs" / "guessed" / "manifest.json")
    for name in ("unknown", "guessed"):
        with pytest.raises(ValueError, match="left alone"):
            undo(tmp_path / "runs" / name)
    assert mine.exists()


def test_a_run_of_an_earlier_version_can_be_taken_back_within_its_folder(tmp_path):
    run_dir = tmp_path / "runs" / "a"
    run_that_wrote(run_dir, known=False)
    (run_dir / "a.png").write_bytes(b"a")
    manifest = Manifest.read(run_dir / "manifest.json")
    manifest.written = {str(run_dir / "a.png"): fingerprint(run_dir / "a.png")["sha256"]}
    manifest.write(run_dir / "manifest.json")
    undo(run_dir)
    assert not (run_dir / "a.png").exists()


def test_a_run_at_work_is_not_taken_back(tmp_path):
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"clip")
    run_that_wrote(tmp_path / "a", clip)
    with exclusive(tmp_path / "a"), pytest.raises(ValueError, match="at work"):
        undo(tmp_path / "a")
    assert os.path.exists(clip)


@pytest.mark.parametrize(("tolerance", "more"), [(0, []), (0.05, []), (1, ["--tolerance", "0"])])
def test_what_was_ended_on_its_way_is_repeated_to_its_end(tmp_path, tolerance, more):
    manifest = Manifest("image", {"prompt": "make it red", "csd": {"tolerance": tolerance}}, 0)
    words = repeat_command(tmp_path, manifest).split()
    assert words[words.index("--preset") + 2 :] == more
