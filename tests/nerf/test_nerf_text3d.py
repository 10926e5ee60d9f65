"""A scene from a sentence inside nerfstudio: it grows, resumes exactly, is refused in one line. Needs nerfstudio."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

import yaml
from nerfstudio.data.scene_box import SceneBox

from csd3d.nerf import methods
from csd3d.nerf.checkpoints import load_checkpoint
from csd3d.nerf.text3d import turntable
from csd3d.nerf.text3d.data import OrbitDataManagerConfig, cameras_at, rays_of
from csd3d.nerf.text3d.model import ThingModel, ThingModelConfig
from csd3d.nerf.text3d.orbit import Orbit
from csd3d.nerf.viewer import ChangePrompt
from csd3d.priors.prior import Prompts
from tests.nerf.tiny import PX, ToyEditor, make_small_thing, trainer_for
from tests.priors.tiny import write_tiny_prior

pytestmark = pytest.mark.slow

ORBIT = Orbit((2.2, 2.2), (0.0, 30.0), (0.0, 360.0), (50.0, 50.0))
GOAL = torch.tensor([0.9, 0.2, 0.1]).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def t2i(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image prior that takes any sentence."""
    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "t2i", kind="text-to-image", closed=False)


@pytest.fixture(autouse=True)
def _short_turntable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turntable, "FRAMES", turntable.SHEET_VIEWS)


def config_for(prior: Path, out: Path, entry: str = "csd_3d_cpu", /, **changes: Any) -> Any:
    """A tiny run of 8 steps."""
    config: Any = copy.deepcopy(getattr(methods, entry).config)
    config.output_dir, config.timestamp, config.vis = out, "run", "tensorboard"
    config.machine.device_type, config.machine.seed, config.mixed_precision = "cpu", 1, False
    config.max_num_iterations, config.steps_per_save = 8, 1000
    pipeline = config.pipeline
    pipeline.prompt, pipeline.prior, pipeline.size, pipeline.s_text = "a red ball", str(prior), PX, 2.0
    pipeline.render_px, pipeline.anneal_steps, pipeline.views_per_step = (8, 16), 8, 3
    pipeline.datamanager.eval_px = 16
    make_small_thing(pipeline.model)
    for name, value in changes.items():
        setattr(pipeline if hasattr(pipeline, name) else config, name, value)
    return config


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.pipeline.state_dict().items()}


def thing(**changes: Any) -> ThingModel:
    small = {"encoding": "grid", "grid_sizes": (4, 8), "coarse_samples": 16, "fine_samples": 16}
    box = SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    return ThingModel(ThingModelConfig(**(small | changes)), box, 1)


def test_the_first_render_is_a_blob_in_front_of_its_surroundings() -> None:
    model = thing(background="random").eval()
    camera = cameras_at(ORBIT.ring(1), 16)
    outputs = model.get_outputs_for_camera(camera)
    a = outputs["accumulation"][..., 0]
    assert float(a[7:9, 7:9].min()) > 0.9
    assert float(a[0].max()) < 0.1
    torch.testing.assert_close(outputs["rgb"][0, 0], torch.ones(3), atol=0.1, rtol=0)
    rgba = model.get_rgba_image(outputs)
    torch.testing.assert_close(rgba[8, 8, :3], torch.full((3,), 0.5), atol=1e-3, rtol=0)
    depth = float(outputs["depth"][8, 8])
    assert 1.6 < depth < 2.2  # between the blob's border and the middle
    normal = 2 * outputs["normals"][8, 8] - 1
    assert float(normal @ torch.tensor([0.0, -1, 0])) > 0.8  # towards the camera in front


def test_learnt_surroundings_differ_with_elevation_only() -> None:
    model = thing(background="learned")
    with torch.no_grad():
        model.bands.copy_(torch.linspace(-3, 3, len(model.bands))[:, None].expand(-1, 3))
    up, level, also_level = (torch.tensor([d]) for d in ([0.0, 0, 1], [1.0, 0, 0], [0, -1.0, 0]))
    assert model.around(up)[0, 0].item() == pytest.approx(torch.sigmoid(torch.tensor(3.0)).item())
    assert torch.equal(model.around(level), model.around(also_level))
    assert model.around(level)[0, 0].item() == pytest.approx(0.5, abs=1e-5)


def test_rays_come_view_by_view_and_row_by_row() -> None:
    cameras = cameras_at(ORBIT.ring(2), 4)
    rays = rays_of(cameras, torch.device("cpu"))
    one = cameras.generate_rays(camera_indices=1, keep_shape=True)
    assert rays.origins.shape == (32, 3)
    assert torch.equal(rays.directions.view(2, 4, 4, 3)[1], one.directions)


class Painter(ToyEditor):
    """A text-to-image prior that wants every picture in one colour."""

    kind = "text-to-image"

    def __init__(self) -> None:
        super().__init__(lambda s: GOAL.expand_as(s))

    def require(self, csd: Any, prompts: Prompts) -> None:
        pass


@pytest.mark.parametrize("method", ["csd_3d", "csd_3d_cpu"])
def test_the_field_goes_where_the_prior_wants_it(method: str, t2i: Path, tmp_path: Path) -> None:
    trainer = trainer_for(config_for(t2i, tmp_path, method, max_num_iterations=40, t_max=500))
    trainer.pipeline.__dict__["prior"] = Painter()
    model = trainer.pipeline.model

    def away() -> float:
        model.eval()
        rgb = model.get_outputs_for_camera(cameras_at(ORBIT.ring(1), 16))["rgb"][6:10, 6:10]
        return float((rgb - GOAL.view(3)).square().mean())

    before = away()
    for step in range(40):
        trainer.pipeline.train()
        trainer.train_iteration(step)
    assert away() < 0.5 * before


def test_a_run_leaves_a_turntable_and_resumes_with_the_same_bits(t2i: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"negative_prompt": "a cube", "opacity": 0.1, "entropy": 0.1, "orientation": 0.1}
    settings |= {"max_num_iterations": 5}
    whole = trainer_for(config_for(t2i, tmp_path / "whole", **settings))
    whole.train()
    assert {p.name for p in whole.base_dir.iterdir()} >= {"turntable.mp4", "turntable.png", "config.yml"}
    assert whole.base_dir.parts[-3:-1] == ("a-red-ball", "csd-3d-cpu")
    first = trainer_for(config_for(t2i, tmp_path / "first", **settings))
    first.config.max_num_iterations = 3
    first.train()
    saved = load_checkpoint(first.checkpoint_dir / "step-000000002.ckpt")
    saved["csd3d"]["end"] = 5
    torch.save(saved, first.checkpoint_dir / "step-000000002.ckpt")
    again = config_for(t2i, tmp_path / "second", load_dir=first.checkpoint_dir, **settings)
    second = trainer_for(again)
    second.train()
    a, b = weights(whole), weights(second)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert "prior" not in " ".join(a)


def test_renders_are_coupled_by_csd_and_by_features_too(t2i: Path, tmp_path: Path) -> None:
    ends = {}
    for name, changes in {
        "csd": {"method": "csd"}, "features": {"method": "csd", "kernel_on": "features"}, "sds": {"method": "sds"}
    }.items():  # fmt: skip
        trainer = trainer_for(config_for(t2i, tmp_path / name, max_num_iterations=2, **changes))
        trainer.train()
        ends[name] = weights(trainer)["_model.field.grids.0"]
    assert not torch.equal(ends["csd"], ends["sds"])
    assert not torch.equal(ends["csd"], ends["features"])


def test_captions_say_the_side_where_the_prior_knows_the_words(t2i: Path, tmp_path: Path) -> None:
    pipeline = trainer_for(config_for(t2i, tmp_path)).pipeline
    assert pipeline.prompts_of("a cube").target[2] == "a cube, back view"
    pipeline.config.viewpoints = False
    assert pipeline.prompts_of("a ball").target == "a ball"


def test_a_closed_vocabulary_keeps_its_words(tmp_path: Path) -> None:
    closed = write_tiny_prior(tmp_path / "closed", kind="text-to-image")
    pipeline = trainer_for(config_for(closed, tmp_path, prompt="make it snowy")).pipeline
    assert pipeline.prompts_of("make it snowy").target == "make it snowy"
    assert "does not know 'a cube'" in pipeline.refusal_of("a cube")


def test_the_viewer_changes_sentence_and_guidance(t2i: Path, tmp_path: Path) -> None:
    trainer = trainer_for(config_for(t2i, tmp_path))
    pipeline, controls = trainer.pipeline, trainer.pipeline.controls
    controls.prompt.value, controls.guidance.value = "a blue cube", 7.0
    controls.start.cb_hook(controls.start)
    controls.guidance.cb_hook(controls.guidance)
    trainer.train_iteration(0)
    assert (pipeline.prompt, pipeline.engine_at(0.0).s_text) == ("a blue cube", 7.0)
    assert pipeline.edit_state()["from_sentence"] == {"prompt": "a blue cube", "s_text": 7.0}
    controls._commands.append(ChangePrompt(""))
    trainer.train_iteration(1)
    assert pipeline.prompt == "a blue cube"
    assert "expected a sentence" in controls.refusal.text


def test_what_export_asks_for_is_there() -> None:
    manager = OrbitDataManagerConfig(eval_px=16).setup(device="cpu", test_mode="test")
    manager.train_pixel_sampler.num_rays_per_batch = 10
    rays, _ = manager.next_train(0)
    assert rays.origins.shape == (10, 3)
    outputs = thing().eval()(rays)
    assert {"rgb", "depth", "normals", "accumulation"} <= set(outputs)
    camera, _ = manager.eval_dataloader.get_camera(image_idx=0)
    assert camera.shape == (1,)


def test_configs_survive_yaml() -> None:
    for method in (methods.csd_3d, methods.csd_3d_cpu):
        assert yaml.load(yaml.dump(method.config), Loader=yaml.Loader) == method.config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": None}, "prompt: expected a sentence"),
        ({"prompt": " "}, "prompt: expected a sentence"),
        ({"views_per_step": 0}, "views_per_step: expected"),
        ({"render_px": ()}, "render_px: expected sides of 8 px or more"),
        ({"t_max_last": 10}, "t_max_last: expected above t_min = 20"),
        ({"bandwidth": "paper", "views_per_step": 2}, "views_per_step: expected 3 or more"),
        ({"t_max": 1001}, "t_max: expected at most 1000"),
        ({"t_min": -1}, "t_min: expected 0 or more and below t_max"),
        ({"load_dir": Path("nowhere")}, "load-dir: expected a folder of checkpoints"),
        ({"data": Path("photographs")}, "data: expected none, as scenes from a sentence need no photographs"),
        ({"radius": (3.0, 2.0)}, "radius: expected two numbers"),
        ({"prior": "builtin:instruct"}, "prior: expected a text-to-image model, not an instruction editor"),
        ({"prior": "/no/such/prior"}, "/no/such/prior"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    changes: dict[str, Any], said: str, t2i: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(t2i, tmp_path / "out")
    for name, value in changes.items():
        manager = config.pipeline.datamanager
        owner = next(o for o in (config.pipeline, manager, config) if hasattr(o, name))
        setattr(owner, name, value)
    with pytest.raises(SystemExit) as end:
        trainer_for(config)
    assert end.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("csd-3d: ")
    assert said in last
    assert not list(tmp_path.rglob("*"))


def test_a_checkpoint_of_something_else_is_refused(
    t2i: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trainer_for(config_for(t2i, tmp_path, max_num_iterations=1))
    first.train()
    path = next(first.checkpoint_dir.glob("*.ckpt"))
    state = load_checkpoint(path)
    del state["csd3d"]
    torch.save(state, path)
    with pytest.raises(SystemExit):
        trainer_for(config_for(t2i, tmp_path / "next", load_dir=path.parent))
    assert "expected one of a scene from a sentence" in capsys.readouterr().err
