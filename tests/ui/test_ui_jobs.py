"""The queue: one job after another, stopped with its state, resumed, refused."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from csd3d.runs.manifest import Manifest
from csd3d.ui.jobs import HowFar, Job, Jobs, status_of

PROGRAM = """
import signal, sys, time
from pathlib import Path
what, folder = sys.argv[1], Path(sys.argv[2])
order = folder.parent / "order"
order.write_text((order.read_text() if order.exists() else "") + folder.name)
print("begun", flush=True)
if what == "refuse":
    print("expected another thing")
    sys.exit(2)
folder.joinpath("manifest.json").write_text(folder.parent.joinpath("running.json").read_text())
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
print("works", flush=True)
print("edit: 3/20, about 2 min left", flush=True)
print("note: a thing", flush=True)
while what == "wait" and not stopped:
    time.sleep(0.01)
status = "interrupted" if stopped else "finished"
text = folder.joinpath("manifest.json").read_text().replace('"running"', f'"{status}"')
folder.joinpath("manifest.json").write_text(text)
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    Manifest("image", {}, 0).write(tmp_path / "running.json")
    (tmp_path / "program.py").write_text(PROGRAM)
    with Jobs((sys.executable, str(tmp_path / "program.py"))) as made:
        yield made


def claim(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def wait_for(ready: Callable[[], bool]) -> None:
    for _ in range(3000):
        if ready():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


def started(jobs: Jobs, run_dir: Path, what: str) -> Job:
    return jobs.start(run_dir, [what, str(run_dir)])


def test_jobs_are_done_in_order_one_at_a_time(jobs: Jobs, tmp_path: Path) -> None:
    made = [started(jobs, claim(tmp_path, name), "finish") for name in "abc"]
    wait_for(lambda: all(job.status == "finished" for job in made))
    assert (tmp_path / "order").read_text() == "abc"
    assert list(made[0].lines)[:2] == ["begun", "works"]
    assert made[0].how_far == HowFar("edit", 3, 20, "about 2 min left")


def test_a_job_that_waits_says_how_many_are_before_it(jobs: Jobs, tmp_path: Path) -> None:
    first = started(jobs, claim(tmp_path, "a"), "wait")
    wait_for(lambda: "works" in first.lines)
    second, third = (started(jobs, claim(tmp_path, name), "finish") for name in "bc")
    assert (second.status, third.status) == ("waiting", "waiting")
    assert (jobs.ahead_of(second), jobs.ahead_of(third)) == (1, 2)
    jobs.stop(second.run_dir)
    assert not second.run_dir.exists(), "nothing is left of a run that never was"
    jobs.stop(first.run_dir)
    wait_for(lambda: third.status == "finished")
    assert (first.status, (tmp_path / "order").read_text()) == ("interrupted", "ac")


def test_a_stopped_job_is_gone_on_with(jobs: Jobs, tmp_path: Path) -> None:
    run_dir = claim(tmp_path, "a")
    first = started(jobs, run_dir, "wait")
    wait_for(lambda: "works" in first.lines)
    with pytest.raises(ValueError, match="got a, which is running"):
        started(jobs, run_dir, "finish")
    jobs.stop(run_dir)
    wait_for(lambda: first.status == "interrupted")
    second = started(jobs, run_dir, "finish")
    wait_for(lambda: second.status == "finished")
    assert jobs.find(run_dir) is second


def test_what_follows_a_stop_is_done_before_what_waits(jobs: Jobs, tmp_path: Path) -> None:
    first = started(jobs, claim(tmp_path, "a"), "wait")
    wait_for(lambda: "works" in first.lines)
    waits = started(jobs, claim(tmp_path, "b"), "finish")
    jobs.stop(first.run_dir, then=["finish", str(first.run_dir)])
    jobs.stop(first.run_dir, then=["finish", str(first.run_dir)])  # clicked twice: the state is saved all the same
    wait_for(lambda: waits.status == "finished")
    follower = jobs.find(first.run_dir)
    assert first.status == "finished"
    assert follower is not None
    assert (follower is not first, (tmp_path / "order").read_text()) == (True, "aab")


def test_a_pause_after_a_stop_is_a_pause(jobs: Jobs, tmp_path: Path) -> None:
    job = started(jobs, claim(tmp_path, "a"), "wait")
    wait_for(lambda: "works" in job.lines)
    jobs.stop(job.run_dir, then=["finish", str(job.run_dir)])
    jobs.stop(job.run_dir)
    wait_for(lambda: job.status == "interrupted" and job.process is not None and job.process.poll() is not None)
    other = started(jobs, claim(tmp_path, "b"), "finish")
    wait_for(lambda: other.status == "finished")
    assert jobs.find(job.run_dir) is job


def test_a_refused_job_leaves_its_line_and_no_folder(jobs: Jobs, tmp_path: Path) -> None:
    job = started(jobs, claim(tmp_path, "a"), "refuse")
    wait_for(lambda: job.status == "refused" and not job.run_dir.exists())
    assert job.lines[-1] == "expected another thing"


@pytest.mark.parametrize("word", ["a\0b", "\ud800", "x" * 10**6])
def test_a_command_that_no_program_can_be_given_is_refused_and_the_next_is_done(
    jobs: Jobs, tmp_path: Path, word: str
) -> None:
    first = started(jobs, claim(tmp_path, "a"), word)
    second = started(jobs, claim(tmp_path, "b"), "finish")
    wait_for(lambda: second.status == "finished")
    assert (first.status, first.run_dir.exists()) == ("refused", False)
    assert first.lines[-1].startswith("csd3d ")


def test_the_end_of_the_page_stops_what_runs_with_its_state(tmp_path: Path) -> None:
    Manifest("image", {}, 0).write(tmp_path / "running.json")
    (tmp_path / "program.py").write_text(PROGRAM)
    with Jobs((sys.executable, str(tmp_path / "program.py"))) as jobs:
        job = started(jobs, claim(tmp_path, "a"), "wait")
        wait_for(lambda: "works" in job.lines)
    assert job.status == "interrupted"


def test_a_run_that_was_killed_can_be_gone_on_with(tmp_path: Path) -> None:
    Manifest("image", {}, 0).write(tmp_path / "manifest.json")
    assert status_of(tmp_path) == "interrupted"
    assert status_of(tmp_path / "nothing") is None
