"""Edits are spread over workers: all are done, what a worker's death takes along is tried again, a stop reaches all."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from csd3d.cli.main import main
from csd3d.cli.video_batch import Batch, spread_of
from csd3d.runs.interrupt import RunInterrupted
from csd3d.runs.job import Request
from csd3d.runs.manifest import Manifest
from tests.priors.tiny import write_tiny_prior
from tests.video.pool_toys import toy_work
from video.batch import Outcome, Spread, edit_all
from video.config import VideoConfig
from video.pool import LocalWorkers, spread, visible_gpus


def written(tmp_path: Path, make_clip: Any) -> Path:
    for k in range(2):
        make_clip(f"{k}.mp4", frames=2, height=32, width=32, seed=k)
    prior = write_tiny_prior(tmp_path / "tiny")
    jobs = tmp_path / "jobs.csv"
    lines = [f"{k}.mp4,make it snowy,{prior},1,32,cpu" for k in range(2)]
    jobs.write_text("\n".join(["clip,prompt,prior,steps,size,device", *lines, f"0.mp4,sing,{prior},1,32,cpu"]))
    return jobs


def check(jobs: Path, out: Path, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    command = ["video", "batch", str(jobs), "--out", str(out), *words]
    assert main(command) == 1
    assert "2 of 3 edits are there, 1 failed" in capsys.readouterr().out
    for k in range(2):
        assert (out / f"{k}-make-it-snowy.mp4").is_file()
        assert Manifest.read(out / "runs" / f"{k}-make-it-snowy.mp4" / "manifest.json").status == "finished"
    assert main(command) == 1
    assert capsys.readouterr().out.count("done before") == 2


@pytest.mark.slow
def test_clips_on_two_workers(tmp_path: Path, make_clip: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check(written(tmp_path, make_clip), tmp_path / "out", capsys, "--workers", "2")


def asked(folder: Path, *prompts: str) -> list[Request[VideoConfig]]:
    return [
        Request(folder / f"{k}", prompt, folder / f"{k}.mp4", VideoConfig(), run_dir=folder / f"run-{k}")
        for k, prompt in enumerate(prompts)
    ]


def toys(count: int) -> Any:
    return spread(lambda: LocalWorkers(count, target=toy_work))


def tries(folder: Path, k: int) -> list[list[str]]:
    return [line.split() for line in (folder / f"{k}").read_text().splitlines()]


def test_everything_is_done_and_failures_go_to_another_worker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ("fine", "die once", "refuse", "fail once", "die", *["fine"] * 5)
    outcomes = dict(toys(2)(asked(tmp_path, *prompts), print))
    assert [outcomes[k].status for k in range(10)] == ["edited"] * 2 + ["failed", "edited", "failed"] + ["edited"] * 5
    assert outcomes[4].text == "its worker died"
    assert [len(tries(tmp_path, k)) for k in range(10)] == [1, 2, 1, 2, 2, 1, 1, 1, 1, 1]
    for k in (1, 3, 4):
        first, second = tries(tmp_path, k)
        assert first[0] != second[0]  # another process
    said = capsys.readouterr().out
    assert said.count("tried again: ") == 3
    assert "5/10" in said


def test_one_worker_tries_again_itself(tmp_path: Path) -> None:
    assert [o.status for _, o in toys(1)(asked(tmp_path, "die once", "fine"), lambda _: None)] == ["edited"] * 2


def check_stop(spread_over_two: Spread, folder: Path) -> None:
    """A stop ends both of two workers, and nothing is begun after it."""
    requests = asked(folder, "wait", "wait", "fine")

    def both_at_work() -> None:
        while not all((folder / f"{k}").exists() for k in (0, 1)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=both_at_work).start()
    with pytest.raises(RunInterrupted) as stop:
        list(spread_over_two(requests, lambda _: None))
    assert stop.value.exit_code == 143
    assert not (folder / "2").exists()


def test_a_stop_reaches_all_workers(tmp_path: Path) -> None:
    check_stop(toys(2), tmp_path)


def test_each_worker_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert visible_gpus() == ["5", "7"]
    list(toys(2)(asked(tmp_path, "fine", "fine"), lambda _: None))
    assert {tries(tmp_path, k)[0][1] for k in (0, 1)} == {"5", "7"}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,7"


def test_the_summary_is_in_the_order_of_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def backwards(requests: Any, say: Any) -> Any:
        yield 1, Outcome("edited", 1.0, "b.mp4")
        yield 0, Outcome("failed", 1.0, "no")

    assert edit_all(asked(tmp_path, "before", "after"), backwards) == 1
    printed = capsys.readouterr().out
    assert printed.index("before") < printed.index("after")
    assert "1 of 2 edits are there, 1 failed" in printed


def test_who_does_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.csv"
    assert spread_of(Batch(jobs)) is None
    assert spread_of(Batch(jobs, workers=1)) is None
    assert spread_of(Batch(jobs, workers=2)) is not None
    assert main(["video", "batch", str(jobs), "--workers", "0"]) == 2
    assert "workers: expected 1 or more, got 0" in capsys.readouterr().err
