"""`csd3d runs --json`: what scripts read."""

import json
from pathlib import Path

import pytest

from csd3d.cli.main import main
from csd3d.runs.manifest import Manifest


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of two runs."""
    for name, prompt in (("first", "make it snowy"), ("second", "make it night")):
        (tmp_path / name).mkdir()
        Manifest("video", {"prompt": prompt}, seed=3).write(tmp_path / name / "manifest.json")
    return tmp_path


def test_a_list_for_scripts_holds_the_manifests(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "list", str(runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(run["run_dir"], run["config"]["prompt"], run["status"]) for run in found] == [
        (str(runs / "first"), "make it snowy", "running"),
        (str(runs / "second"), "make it night", "running"),
    ]


def test_an_empty_list_for_scripts_is_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "list", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_one_run_for_scripts_is_its_manifest(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show", str(runs / "first"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("run_dir") == str(runs / "first")
    assert found == json.loads((runs / "first" / "manifest.json").read_text())


def test_steps_are_those_that_were_asked_for_however_many_batches_they_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, moves in (("batches", 15), ("one", None)):
        (tmp_path / name).mkdir()
        manifest = Manifest("video", {"prompt": name}, seed=3, steps_done=30, moves_done=moves)
        manifest.write(tmp_path / name / "manifest.json")
    assert main(["runs", "list", str(tmp_path)]) == 0
    assert main(["runs", "show", str(tmp_path / "batches")]) == 0
    listed = capsys.readouterr().out
    first, second = listed.splitlines()[:2]
    assert "  15 steps  " in first
    assert "  30 steps  " in second
    assert "\nsteps        15\n" in listed
