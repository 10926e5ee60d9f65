"""Estimates of a scene count training steps and batches of views apart."""

from types import SimpleNamespace
from typing import Any

import pytest

from csd3d.nerf import host
from csd3d.nerf.eta import SceneEta
from csd3d.runs.progress import words

pytestmark = pytest.mark.slow
writer = host.writer  # nerfstudio's, which cannot be imported by itself first


def test_a_batch_does_not_shake_the_estimate():
    eta = SceneEta()
    assert eta.remaining(10, 0) is None
    for _ in range(20):
        eta.add(0.1, 0.0)
    assert eta.remaining(100, 2) == pytest.approx(10.0)
    assert eta.remaining(100, 2, 50.0) == pytest.approx(10.0 + 100.0), "one that is foreseen"
    eta.add(0.1, 60.0)
    before = eta.remaining(100, 3, 50.0)
    assert before == pytest.approx(10.0 + 180.0)
    eta.add(0.1, 0.0)
    assert eta.remaining(100, 3) == before


def test_the_log_of_nerfstudio_has_the_estimate_and_steps_without_edits(monkeypatch):
    name = writer.EventName.ITER_TRAIN_TIME.value
    buffer, told = {"events": {name: {"buffer": [0.1, 0.1], "avg": 0.1}}}, []
    monkeypatch.setattr(writer, "GLOBAL_BUFFER", buffer)
    monkeypatch.setattr(writer, "put_scalar", lambda event, value, step: told.append((event, value)))
    driver = SimpleNamespace(edit_s=0.0, expected_s=0.0, batches_left=lambda step, end: 2)
    trainer: Any = host.CsdTrainer.__new__(host.CsdTrainer)
    trainer._eta, trainer._end = SceneEta(), 100
    trainer.pipeline = SimpleNamespace(driver=driver)
    trainer._estimate(10)
    buffer["events"][name]["buffer"].append(30.1)
    driver.edit_s = 30.0
    trainer._estimate(11)
    assert driver.edit_s == 0
    assert buffer["events"][name]["avg"] == pytest.approx(0.1)
    times = dict(told)
    assert times[writer.EventName.ETA] == pytest.approx(88 * 0.1 + 2 * 30.0)
    assert times[writer.EventName.ITER_TRAIN_TIME] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (0, "no more batches of views follow"),
        (1, "one more batch of views follows"),
        (2, "2 more batches of views follow"),
    ],
)
def test_what_is_left_after_a_batch_is_said(left: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = list[str]()
    event = {"buffer": [31.0], "avg": 31.0}
    monkeypatch.setattr(writer, "GLOBAL_BUFFER", {"events": {writer.EventName.ITER_TRAIN_TIME.value: event}})
    monkeypatch.setattr(writer, "put_scalar", lambda *_: None)
    monkeypatch.setattr(host.CONSOLE, "log", lines.append)
    trainer: Any = host.CsdTrainer.__new__(host.CsdTrainer)
    trainer._eta, trainer._end = SceneEta(), 100
    trainer.pipeline = SimpleNamespace(
        driver=SimpleNamespace(edit_s=30.0, expected_s=0.0, batches_left=lambda step, end: left)
    )
    trainer._estimate(10)
    assert lines == [f"{said} until step 100: {words(89 + 30.0 * left)}"]
