"""The viewer: that it starts, what it shows, and that clicks do what they say, in their order. Needs nerfstudio."""

import math
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from viser import ClientHandle

from csd3d.nerf import host
from csd3d.nerf.viewer import ChangePrompt, Controls, Pause, Reset, SetScale, Undo
from csd3d.nerf.viewer_page import CPU_MAX_PX, middle_camera, photograph_distance, set_up
from csd3d.runs.interrupt import StopRequest
from tests.forking import in_fork
from tests.nerf.tiny import config_for, trainer_for

pytestmark = pytest.mark.slow


SMALL = {
    "csd-edit-cpu": "--pipeline.scene-steps 1 --pipeline.views-per-edit 3 --pipeline.edit-steps 1 --pipeline.size 32 "
    "--pipeline.model.num-levels 2 --pipeline.model.log2-hashmap-size 10 --max-num-iterations 2",
    "csd-3d-cpu": "--pipeline.render-px 8 --pipeline.datamanager.eval-px 16 --max-num-iterations 1",
}
"""What is added to the lines of the README, by method; and that the viewer is left when training ends."""


def test_all_lines_of_the_readme_run_with_the_default_viewer_in_an_empty_folder(
    tmp_path: Path, server: dict[str, str], scene_server: dict[str, str]
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```bash\n(.*?)```", readme, re.S) if "ns-train" in block]
    run = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    methods = []
    for line in block.splitlines():
        program, *words = shlex.split(line, comments=True)
        if program == "csd3d":
            process = in_fork(server, *words, cwd=tmp_path)
        else:
            assert program == "ns-train"
            methods.append(words[0])
            words += [*SMALL[words[0]].split(), "--viewer.quit-on-train-completion", "True"]
            process = in_fork(scene_server, "-c", run, str(Path(sys.executable).parent / program), *words, cwd=tmp_path)
        said = process.communicate(timeout=300)[0]
        assert process.returncode == 0, f"{line}\n{said[-2000:]}"
    assert methods == list(SMALL)
    assert list(tmp_path.glob("outputs/my-scene/csd-edit-cpu/*/edited_views/sheet.png"))
    assert list(tmp_path.glob("outputs/a-red-ball-on-grass/csd-3d-cpu/*/turntable.mp4"))


@contextmanager
def viewed(scene: Path, prior: Path, out: Path) -> Iterator[Any]:
    """A trainer with a viewer, which is stopped afterwards."""
    config = config_for(scene, prior, out, vis="viewer")
    config.viewer.quit_on_train_completion = True
    made = trainer_for(config)
    assert isinstance(made.viewer_state, Viewer)
    yield made
    made.viewer_state.viser_server.stop()


@pytest.fixture
def trainer(scene: Path, prior: Path, tmp_path: Path) -> Iterator[Any]:
    """One with a viewer."""
    with viewed(scene, prior, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def idle(scene: Path, prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One for tests that do not train it, and ask for nothing that stays asked for."""
    with viewed(scene, prior, tmp_path_factory.mktemp("idle")) as trainer:
        yield trainer


def test_a_start_that_is_refused_after_the_viewer_leaves_no_folder(scene: Path, prior: Path, tmp_path: Path) -> None:
    torch.save({"step": 1, "pipeline": {}}, tmp_path / "other.ckpt")
    config = config_for(scene, prior, tmp_path / "out", vis="viewer", load_checkpoint=tmp_path / "other.ckpt")
    with pytest.raises(SystemExit):
        trainer_for(config)
    assert not (tmp_path / "out").exists()


def test_clicks_are_taken_at_once_and_in_order_while_a_step_goes_on(idle: Any) -> None:
    controls: Controls = idle.pipeline.controls
    controls.prompt.value = "make it night"
    clicks: list[Callable[[], object]] = [
        lambda: controls.start.cb_hook(controls.start),
        lambda: controls.undo.cb_hook(controls.undo),
        lambda: controls.scales["s_text"].cb_hook(controls.scales["s_text"]),
        lambda: controls.pause.cb_hook(controls.pause),
        lambda: controls.reset.cb_hook(controls.reset),
    ]
    with idle.train_lock:  # as in the middle of a step
        for click in clicks:
            thread = threading.Thread(target=click, daemon=True)
            thread.start()
            thread.join(timeout=30)
            assert not thread.is_alive()
    assert controls.take() == [ChangePrompt("make it night"), Undo(), SetScale("s_text", 2.0), Pause(False), Reset()]


def test_the_page_says_what_goes_on_and_offers_what_does_something(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    controls = trainer.pipeline.controls
    shown, steps = list[str](), list[int]()
    show = controls.status.show
    controls.status.show = lambda text: shown.append(text) or show(text)
    assert trainer.viewer_state.control_panel.max_res == CPU_MAX_PX
    assert controls.before.gui_handle.disabled
    with monkeypatch.context() as patch:
        patch.setattr(host, "SECONDS_BETWEEN_STEPS_SHOWN", -1.0)
        patch.setattr(trainer.viewer_state, "update_step", steps.append)
        trainer.train()
    assert shown[0] == "**Training. 0 of 6 views are edited; next edit at step 4: make it snowy**"
    assert "**Editing 4 views (4 of 6 done): make it snowy, rendered 3 of 4**" in shown
    assert "**Editing 4 views (4 of 6 done): make it snowy, move 2 of 2**" in shown
    assert "**Training. 6 of 6 views are edited; no more edits until the end, step 10: make it snowy**" in shown
    assert controls.status.markdown.content == controls.status.text
    assert not controls.before.gui_handle.disabled
    assert steps == list(range(10)), "the counter moves"
    trainer._stop_request = StopRequest()
    trainer._stop_request.signum = signal.SIGINT  # as of who looks around afterwards and ends it
    trainer._train_complete_viewer()
    assert controls.status.markdown.content == trainer.end_text()
    for what in (
        "Finished at step 9",
        "Ctrl-C in the terminal ends",
        "edited_views",
        f"--load-dir {trainer.checkpoint_dir}",
    ):
        assert what in trainer.end_text()
    assert trainer.viewer_state.stats_markdown.content.startswith("Step: 9 ")
    assert not trainer.viewer_state.pause_train.visible
    assert not trainer.viewer_state.resume_train.visible
    for element in (controls.start, controls.pause, controls.undo, controls.reset, controls.scales["s_text"]):
        assert element.gui_handle.disabled


def test_a_refusal_is_shown_until_something_else_is_asked_for(idle: Any) -> None:
    pipeline, controls = idle.pipeline, idle.pipeline.controls
    for sentence, reason in (("make it a dragon", "make it a dragon"), (" ", "expected a sentence, got none")):
        controls.prompt.value = sentence
        controls.start.cb_hook(controls.start)
        pipeline.get_train_loss_dict(0)
        assert reason in controls.refusal.markdown.content
        assert "It knows" not in controls.refusal.markdown.content  # of which the page shows no list
    controls.prompt.value = "make it night"
    controls.start.cb_hook(controls.start)
    pipeline.get_train_loss_dict(0)
    assert controls.refusal.markdown.content == ""
    assert pipeline.current.prompt == "make it night"


def test_asking_for_the_prompt_that_is_there_edits_at_once_too(idle: Any) -> None:
    pipeline, controls = idle.pipeline, idle.pipeline.controls
    controls.prompt.value = pipeline.current.prompt
    pipeline.schedule.request_edit(1000)
    controls.start.cb_hook(controls.start)
    pipeline.carry_out(controls.take())
    assert pipeline.schedule.is_due(0, views_left=False)


def test_the_viewer_renders_between_the_moves_of_an_edit(idle: Any) -> None:
    rendered: list[float] = []

    def render() -> None:
        with idle.train_lock:
            rendered.append(time.monotonic())

    with idle.train_lock:
        viewer = threading.Thread(target=render)
        viewer.start()
        deadline = time.monotonic() + 30
        while not rendered and time.monotonic() < deadline:
            idle._let_the_viewer_render()
        assert rendered
    viewer.join()


def test_a_person_first_looks_through_the_camera_in_the_middle() -> None:
    c2w = torch.eye(4)[:3].repeat(3, 1, 1)
    c2w[:, 0, 3] = torch.tensor([-5.0, 0.5, 5.0])
    assert middle_camera(c2w) == 1
    z, fov, aspect = photograph_distance(0.9, 1.5), 0.9, 1.5
    half_height = z * math.tan(fov / 2)
    assert math.isclose(half_height * half_height * aspect * z / 3, 1.0)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_whoever_connects_looks_where_that_camera_looks(on_cpu: bool) -> None:
    c2w = torch.eye(4)[:3].repeat(3, 1, 1)
    c2w[:, 0, 3] = torch.tensor([-5.0, 0.5, 5.0])
    viewer, client = MagicMock(spec=Viewer), MagicMock(spec=ClientHandle, camera=MagicMock())
    viewer.configure_mock(
        viser_server=MagicMock(), control_panel=MagicMock(), config=MagicMock(camera_frustum_scale=0.1)
    )
    set_up(viewer, Cameras(c2w, fx=60.0, fy=60.0, cx=30.0, cy=20.0, width=60, height=40), on_cpu=on_cpu)
    (look,) = viewer.viser_server.on_client_connect.call_args.args
    look(client)
    x, y, z = (client.camera.position / VISER_NERFSTUDIO_SCALE_RATIO).tolist()
    assert (x, y) == pytest.approx((0.5, 0.0))
    assert z < 0, "before the camera, which looks along -z, past its photograph"
    assert client.camera.fov == pytest.approx(2 * math.atan(20 / 60))
    turned = Viewer.get_camera_state(MagicMock(ready=False), client).c2w[:, :3]
    torch.testing.assert_close(turned, torch.eye(3, dtype=turned.dtype), atol=1e-6, rtol=0)
    assert (viewer.control_panel._max_res.value == CPU_MAX_PX) == on_cpu
