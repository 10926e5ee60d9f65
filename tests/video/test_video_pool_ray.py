"""Edits are spread over the workers of a Ray cluster as over those of one machine."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csd3d.cli.main import main
from csd3d.cli.video_batch import Batch, spread_of
from tests.video.pool_toys import toy_work
from tests.video.test_video_pool import asked, check, check_stop, tries, written
from video.pool import Workers, spread
from video.pool_ray import RayWorkers, Seat


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Of this machine, with room for two workers."""
    ray: Any = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


def toys(count: int) -> Any:
    return spread(lambda: RayWorkers(count, target=toy_work))


@pytest.mark.slow
def test_everything_is_done_and_failures_go_to_another_worker(cluster: None, tmp_path: Path) -> None:
    prompts = ("fine", "die once", "refuse", "fail once", "die", "fine")
    outcomes = dict(toys(2)(asked(tmp_path, *prompts), lambda _: None))
    assert [outcomes[k].status for k in range(6)] == ["edited"] * 2 + ["failed", "edited", "failed", "edited"]
    assert outcomes[4].text == "its worker died"
    assert [len(tries(tmp_path, k)) for k in range(6)] == [1, 2, 1, 2, 2, 1]
    first, second = tries(tmp_path, 3)
    assert first[0] != second[0]  # another process


@pytest.mark.slow
def test_an_actor_that_is_killed_takes_nothing_along(cluster: None, tmp_path: Path) -> None:
    import ray  # pyright: ignore[reportMissingImports] - an extra

    made: list[RayWorkers] = []

    def make() -> RayWorkers:
        made.append(RayWorkers(2, target=toy_work))
        return made[0]

    assert isinstance(make(), Workers)
    made.clear()

    def kill_one() -> None:
        while not (tmp_path / "0").exists():
            pass
        ray.kill(made[0]._actors[0])

    threading.Thread(target=kill_one).start()
    outcomes = dict(spread(make)(asked(tmp_path, "slow", "fine", "fine"), lambda _: None))
    assert [outcomes[k].status for k in range(3)] == ["edited"] * 3
    assert len(tries(tmp_path, 0)) == 2


@pytest.mark.slow
def test_a_stop_reaches_all_workers(cluster: None, tmp_path: Path) -> None:
    check_stop(toys(2), tmp_path)


@pytest.mark.slow
def test_clips_on_a_cluster(cluster: None, tmp_path: Path, make_clip: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check(written(tmp_path, make_clip), tmp_path / "out", capsys, "--ray", "--workers", "2")


def test_a_seat_edits_as_a_local_worker_does(tmp_path: Path) -> None:
    """Without Ray."""
    seat = Seat(os.getcwd(), 1, toy_work)
    requests = asked(tmp_path, "fine", "die", "fine")
    answers = [seat.edit(request) for request in requests]
    seat.close()
    assert answers[1] == "died"
    assert [getattr(answers[k], "status", None) for k in (0, 2)] == ["edited", "edited"]
    with pytest.raises(FileNotFoundError):
        Seat(str(tmp_path / "not-here"), 1, toy_work)


def test_without_ray_one_line_says_what_to_do(
    tmp_path: Path, make_clip: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    jobs = written(tmp_path, make_clip)
    assert main(["video", "batch", str(jobs), "--out", str(tmp_path / "out"), "--ray"]) == 2
    assert 'pip install "csd3d[ray]"' in capsys.readouterr().err
    assert spread_of(Batch(jobs, ray=True)) is not None
