"""What the page's buttons start. Needs the extra `ui`."""

import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from csd3d.runs.manifest import Manifest
from csd3d.ui.files import RunsFolder
from csd3d.ui.jobs import Jobs
from csd3d.ui.known import Known

pytest.importorskip("gradio", reason="the extra ui is not installed")
doing = pytest.importorskip("csd3d.ui.doing")
BEGUN = ("make it night", "everywhere", "", None, "builtin:instruct", "normal", "by what the file is", "", 1.0, 0, 0)


def started_by(tmp_path: Path, *fields: object) -> list[str]:
    """The flags of the command that is put in the queue."""
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    jobs, folder = Jobs(), RunsFolder(tmp_path / "runs")
    _, name = doing.Doing(folder, jobs, {"builtin:instruct": Known()}).begin(str(tmp_path / "photo.png"), *fields)
    job = jobs.find(folder.place(name))
    assert job is not None
    return sorted(word for word in job.words if word.startswith("--") and not word.startswith("--run-dir"))


def test_what_is_left_alone_is_left_to_the_command(tmp_path: Path) -> None:
    assert started_by(tmp_path, *BEGUN) == ["--effort=normal", "--prior=builtin:instruct", "--prompt=make it night"]


def test_what_is_filled_in_is_a_flag(tmp_path: Path) -> None:
    filled = (
        "make it night",
        "where it belongs",
        "",
        None,
        "builtin:instruct",
        "quick",
        "panorama",
        "a cube ",
        0.5,
        3,
        7,
    )
    flags = ["--mask=auto", "--seed=7", "--source-prompt=a cube", "--steps=3", "--strength=0.5"]
    assert set(flags) <= set(started_by(tmp_path, *filled))


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("raise SystemExit(130)", "**stopped**: before there was anything to save"),
        (
            "print('csd3d image: no dragon; `csd3d priors show a/b` lists what it knows'); raise SystemExit(2)",
            "**refused**: `csd3d image: no dragon`",
        ),
    ],
)
def test_why_nothing_came_of_it_is_said(tmp_path: Path, ends: str, said: str) -> None:
    folder = RunsFolder(tmp_path)
    with Jobs((sys.executable, "-c", ends)) as jobs:
        job = jobs.start(folder.place("a"), [])
        until = time.monotonic() + 60
        while job.status in ("waiting", "running") or not (job.lines or "130" in ends):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert doing.Doing(folder, jobs, {}).view("a")[0] == said


@pytest.mark.parametrize(("tolerance", "said"), [(1, "**finished**: 7 of 20 steps"), (0, "**finished**")])
def test_how_many_steps_a_stopped_run_did_is_said(tmp_path: Path, tolerance: int, said: str) -> None:
    (tmp_path / "a").mkdir()
    manifest = Manifest("image", {"prompt": "x", "csd": {"steps": 20, "tolerance": tolerance}}, seed=0)
    manifest.status, manifest.steps_done, manifest.moves_done = "finished", 14, 7
    manifest.write(tmp_path / "a" / "manifest.json")
    assert doing.Doing(RunsFolder(tmp_path), Jobs(), {}).view("a")[0] == said


def test_a_list_that_was_asked_for_before_a_run_began_does_not_take_it_from_the_page(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Manifest("image", {"prompt": "make it night"}, seed=0).write(tmp_path / "a" / "manifest.json")
    _, names, stamp = doing.Doing(RunsFolder(tmp_path), Jobs(), {}).runs_if_changed("", None)
    assert names.constructor_args == {"choices": ["a"]}
    assert stamp


def test_the_report_of_a_run_of_any_name_is_shown(tmp_path: Path) -> None:
    run_dir = tmp_path / "50% of  it? #2"
    run_dir.mkdir()
    Manifest("image", {"prompt": "make it night"}, seed=0).write(run_dir / "manifest.json")
    (run_dir / "report.html").write_text("x")
    page = doing.Doing(RunsFolder(tmp_path), Jobs(), {})
    assert 'src="./runs/50%25%20of%20%20it%3F%20%232/report.html?interrupted"' in page.view(run_dir.name)[2]


def test_a_run_that_is_no_longer_there_is_said(tmp_path: Path) -> None:
    assert doing.Doing(RunsFolder(tmp_path), Jobs(), {}).view("gone")[0] == "There is no such run."
