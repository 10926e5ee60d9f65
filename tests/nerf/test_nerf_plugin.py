"""The plugin inside nerfstudio: registration, edits while training, resuming, mistakes. Needs nerfstudio."""

import copy
import io
import json
import os
import re
import signal
import sys
import threading
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from csd3d.nerf import methods
from csd3d.nerf.checkpoints import fitting_weights, load_checkpoint, plain, random_state, restore_random_state
from csd3d.nerf.host import CsdFullImageDataManagerConfig
from tests.forking import in_fork
from tests.nerf.tiny import PX, config_for, trainer_for, write_small_scene

pytestmark = pytest.mark.slow


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.pipeline.state_dict().items()}


def test_nerfstudio_finds_the_methods() -> None:
    found = {e.name for e in entry_points(group="nerfstudio.method_configs")}
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'\n{name} = "csd3d.nerf.methods:{name.replace("-", "_")}"\n' in declared for name in methods.METHODS)
    if not set(methods.METHODS) <= found:
        pytest.skip("the package was installed before pyproject.toml named all methods: install it again")
    from nerfstudio.configs.method_configs import all_descriptions, all_methods

    for name in methods.METHODS:
        assert all_methods[name].method_name == name
        assert "not available" not in all_descriptions[name]


REGISTERED = """
import sys
for name in [n for n in sys.modules if n.split(".")[0] in ("csd3d", "video", "panorama", "tests", "diffusers")]:
    del sys.modules[name]
sys.modules[sys.argv[1]] = None
import csd3d.nerf.methods
print(csd3d.nerf.methods.csd_edit.description)
assert not any(name.startswith("csd3d.priors.instruct") for name in sys.modules)
"""
"""What nerfstudio does when it starts, where one module cannot be imported."""


@pytest.mark.parametrize(
    ("absent", "available"), [("diffusers", True), ("nerfstudio.models.nerfacto", False)], ids=["diffusers", "nerfacto"]
)
def test_a_registration_needs_no_prior_and_a_broken_one_leaves_ns_train_alone(
    absent: str, available: bool, tmp_path: Path, scene_server: dict[str, str]
) -> None:
    process = in_fork(scene_server, "-c", REGISTERED, absent, cwd=tmp_path)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert ("not available" in said) != available


def test_configs_survive_yaml() -> None:
    for name in methods.METHODS:
        config = getattr(methods, name.replace("-", "_")).config
        again = yaml.load(yaml.dump(config), Loader=yaml.Loader)
        assert again == config


@dataclass(frozen=True)
class Whole:
    """A tiny run that nothing stopped, and what was seen of it."""

    trainer: Any
    photographs: torch.Tensor
    """Before training."""
    edits: list[int]
    """Steps in which views were edited."""
    said: str


@pytest.fixture(scope="module")
def whole(scene: Path, prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setattr("csd3d.runs.estimate.LEAST", 1)
        patch.setattr("csd3d.runs.estimate.LONG_S", 0.0)
        trainer = trainer_for(config_for(scene, prior, tmp_path_factory.mktemp("whole")))
        edits, edit = [], trainer.pipeline.driver.edit
        trainer.pipeline.driver.edit = lambda step: edits.append(step) or edit(step)
        photographs = trainer.pipeline.datamanager.photographs.clone()
        trainer.train()
    return Whole(trainer, photographs, edits, " ".join(said.getvalue().split()))


def test_views_are_edited_while_the_scene_trains_and_kept_beside_it(whole: Whole) -> None:
    data, before = whole.trainer.pipeline.datamanager, whole.photographs
    changed = [v for v in range(6) if not torch.equal(data._images[v].permute(2, 0, 1), before[v])]
    assert len(changed) == 6  # batches of 4 at steps 4 and 5 cover all 6
    assert torch.equal(data.photographs, before)
    edited = whole.trainer.base_dir / "edited_views"
    assert len(list(edited.glob("train_*.png"))) == 6
    assert (edited / "sheet.png").is_file()
    picture = torch.tensor(list(Image.open(edited / "train_0003.png").tobytes())).view(PX, PX, 3)
    assert torch.equal(picture, (data._images[3] * 255).round().long())
    saved = load_checkpoint(next(whole.trainer.checkpoint_dir.glob("*.ckpt")))
    names = " ".join(saved["pipeline"])
    assert "prior" not in names
    assert "unet" not in names
    assert "lpips" not in names


def test_a_prompt_edits_every_view_before_training_goes_on(whole: Whole) -> None:
    pipeline, said = whole.trainer.pipeline, whole.said
    assert whole.edits == [4, 5]  # two batches of 4 for 6 views; ...
    assert pipeline.schedule.next_edit == 10  # ... then the 3 steps that each of them has
    assert said.count("editing every view once: this takes about") == 1
    assert said.index("editing every view once") < said.index("step 4: editing"), "as training begins"
    assert pipeline.driver.expected_s > 0
    assert "8 particles x 2 moves" in said
    assert ", and 8 pictures at" in re.sub(r" drivers\.py:\d+", "", said), "each view is rendered first"


def test_a_run_that_is_resumed_late_ends_with_the_same_bits(scene: Path, prior: Path, tmp_path: Path) -> None:
    """After step 10 the proposal networks are trained in some steps only, by what their sampler remembers."""
    settings: dict[str, object] = {"prompt": None, "scene_steps": 24, "max_num_iterations": 24}
    whole = trainer_for(config_for(scene, prior, tmp_path / "whole", **settings))
    whole.config.steps_per_save, whole.config.save_only_latest_checkpoint = 14, False
    whole.train()
    early = whole.checkpoint_dir / "step-000000014.ckpt"
    second = trainer_for(config_for(scene, prior, tmp_path / "second", load_checkpoint=early, **settings))
    assert second._start_step == 15
    second.train()
    a, b = weights(whole), weights(second)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_ctrl_c_lets_the_step_finish_and_a_resumed_run_ends_with_the_same_bits(
    scene: Path, prior: Path, tmp_path: Path, whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trainer_for(config_for(scene, prior, tmp_path / "first"))
    edit = first.pipeline.driver.edit
    first.pipeline.driver.edit = lambda step: os.kill(os.getpid(), signal.SIGINT) or edit(step)
    with pytest.raises(SystemExit) as end:
        first.train()
    assert end.value.code == 130
    assert "csd-edit: stopped before step 5; go on with --load-dir" in capsys.readouterr().err
    second = trainer_for(config_for(scene, prior, tmp_path / "second", load_dir=first.checkpoint_dir))
    second.train()
    assert second.step == whole.trainer.step == 9
    a, b = weights(whole.trainer), weights(second)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(whole.trainer.pipeline.datamanager._images, second.pipeline.datamanager._images)


def test_what_has_ended_is_not_trained_again_unless_more_is_asked_for(
    scene: Path, prior: Path, tmp_path: Path, whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, object] = {"load_dir": whole.trainer.checkpoint_dir}

    with pytest.raises(SystemExit) as end:
        trainer_for(config_for(scene, prior, tmp_path / "second", **settings))
    assert end.value.code == 0
    assert "csd-edit: that run ended with step 9; nothing is left to do" in capsys.readouterr().out
    assert not (tmp_path / "second").exists()

    longer = trainer_for(config_for(scene, prior, tmp_path / "longer", **settings | {"max_num_iterations": 3}))
    assert longer.config.max_num_iterations == 3
    another = trainer_for(config_for(scene, prior, tmp_path / "another", **settings | {"prompt": "make it night"}))
    assert another.config.max_num_iterations == 10
    assert "that run had ended; 10 steps follow" in capsys.readouterr().out


def test_a_plain_checkpoint_is_edited_at_once_and_its_lpips_is_ignored(
    scene: Path, prior: Path, tmp_path: Path
) -> None:
    scene_only = trainer_for(config_for(scene, prior, tmp_path / "scene", prompt=None))
    scene_only.train()
    path = scene_only.checkpoint_dir / "step-000000003.ckpt"
    state = load_checkpoint(path)
    del state["csd3d"]
    state["pipeline"]["_model.lpips.net.weight"] = torch.zeros(3)
    torch.save(state, path)
    edited = trainer_for(config_for(scene, prior, tmp_path / "edit", load_dir=scene_only.checkpoint_dir))
    assert edited._start_step == 4
    edited.config.max_num_iterations = 1
    edited.train()
    assert len(edited.pipeline.history.edited()) == 4


def test_outside_a_mask_training_images_stay_bit_equal(scene: Path, prior: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    white = Image.new("L", (PX, PX), 0)
    white.paste(255, (8, 8, 24, 24))
    for i in range(6):
        white.save(masks / f"train_{i:04d}.png")
    pipeline = trainer_for(config_for(scene, prior, tmp_path / "out", mask_dir=masks, views_per_edit=6)).pipeline
    pipeline.driver.edit(0)
    data = pipeline.datamanager
    now, before = data._images.permute(0, 3, 1, 2), data.photographs
    outside = torch.ones(PX, PX, dtype=torch.bool)
    outside[8:24, 8:24] = False
    assert torch.equal(now[..., outside], before[..., outside])
    assert not torch.equal(now, before)


def test_an_empty_box_changes_nothing(scene: Path, prior: Path, tmp_path: Path) -> None:
    box = (90.0, 90.0, 90.0, 91.0, 91.0, 91.0)
    pipeline = trainer_for(config_for(scene, prior, tmp_path, box=box, views_per_edit=6)).pipeline
    pipeline.driver.edit(0)
    assert len(pipeline.history.edited()) == 6
    data = pipeline.datamanager
    assert torch.equal(data._images.permute(0, 3, 1, 2), data.photographs)


def use(control: Any, value: object = None) -> None:
    """What the viewer does when a person moves a control."""
    if value is not None:
        control.value = value
    control.cb_hook(control)


def ask_for(controls: Any, sentence: str) -> None:
    """A prompt is typed and the button pressed."""
    use(controls.prompt, sentence[:-2])  # typing changes nothing
    controls.prompt.value = sentence
    use(controls.start)


def test_the_viewer_changes_the_prompt_undoes_and_resets(scene: Path, prior: Path, tmp_path: Path) -> None:
    trainer = trainer_for(config_for(scene, prior, tmp_path))
    pipeline, data = trainer.pipeline, trainer.pipeline.datamanager
    controls = pipeline.controls
    pipeline.get_train_loss_dict(4)
    snowy = data._images.clone()
    ask_for(controls, "make it night")
    assert pipeline.current.prompt == "make it snowy"  # callbacks come in the middle of a step
    pipeline.get_train_loss_dict(5)
    assert pipeline.history.prompts == ("make it snowy", "make it night")
    assert not torch.equal(data._images, snowy)
    use(controls.pause, True)
    use(controls.undo)
    pipeline.get_train_loss_dict(6)
    assert torch.equal(data._images, snowy)
    assert pipeline.current.prompt == controls.prompt.value == "make it snowy"
    ask_for(controls, "make it purple")  # not known: refused on the page, and nothing changes
    pipeline.get_train_loss_dict(7)
    assert pipeline.current.prompt == "make it snowy"
    assert "does not know 'make it purple'" in controls.refusal.text
    use(controls.reset)
    pipeline.get_train_loss_dict(8)
    assert torch.equal(data._images.permute(0, 3, 1, 2), data.photographs)
    ask_for(controls, "make it snowy")
    pipeline.get_train_loss_dict(9)  # paused
    assert torch.equal(data._images.permute(0, 3, 1, 2), data.photographs)
    for control, value in (
        (controls.scales["s_text"], 4.0),
        (controls.scales["s_image"], 1.7),
        (controls.scales["strength"], 0.5),
        (controls.pause, False),
    ):
        use(control, value)
    pipeline.get_train_loss_dict(10)
    assert (pipeline.current.csd().s_text, pipeline.current.csd().s_image, pipeline.current.strength) == (4.0, 1.7, 0.5)
    assert pipeline.history.edited()


def test_undo_of_a_prompt_that_has_not_edited_yet_leaves_the_one_before(
    scene: Path, prior: Path, tmp_path: Path
) -> None:
    pipeline = trainer_for(config_for(scene, prior, tmp_path)).pipeline
    pipeline.get_train_loss_dict(4)
    snowy = pipeline.datamanager._images.clone()
    use(pipeline.controls.pause, True)
    ask_for(pipeline.controls, "make it night")
    use(pipeline.controls.undo)
    pipeline.get_train_loss_dict(5)
    assert torch.equal(pipeline.datamanager._images, snowy)
    assert pipeline.current.prompt == pipeline.controls.prompt.value == "make it snowy"


def test_a_resumed_run_goes_on_as_the_viewer_left_it_unless_the_command_says_otherwise(
    scene: Path, prior: Path, tmp_path: Path
) -> None:
    left = trainer_for(config_for(scene, prior, tmp_path)).pipeline
    left.get_train_loss_dict(4)
    ask_for(left.controls, "make it night")
    use(left.controls.scales["s_text"], 4.0)
    left.get_train_loss_dict(5)
    use(left.controls.pause, True)
    left.get_train_loss_dict(6)
    state = left.edit_state()

    def resumed(**changes: object) -> Any:
        pipeline = trainer_for(config_for(scene, prior, tmp_path / "again", **changes)).pipeline
        pipeline.begin(7, state)
        return pipeline

    same, silent = resumed(), resumed(prompt=None)
    for pipeline in (same, silent):
        assert pipeline.history.prompts == ("make it snowy", "make it night")
        assert pipeline.current.prompt == pipeline.controls.prompt.value == "make it night"
        assert pipeline.current.csd().s_text == pipeline.controls.scales["s_text"].value == 4.0
        assert pipeline.schedule.paused
        assert pipeline.schedule.next_edit == left.schedule.next_edit
    other = resumed(prompt="make the ball red", s_text=3.0)
    assert (other.current.prompt, other.current.csd().s_text, other.schedule.next_edit) == ("make the ball red", 3.0, 7)


@pytest.fixture(scope="module")
def untrained(scene: Path, prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pipeline that nobody trains."""
    out = tmp_path_factory.mktemp("untrained")
    return trainer_for(config_for(scene, prior, out, prompt=None, s_text=20.0, s_image=0.5)).pipeline


def test_guidance_beyond_the_sliders_usual_range_is_taken(untrained: Any) -> None:
    ranges = [(slider.min, slider.value, slider.max) for slider in untrained.controls.scales.values()]
    assert ranges == [(1.0, 20.0, 20.0), (0.5, 0.5, 5.0), (0.0, 1.0, 1.0)]


def test_the_viewer_finds_the_controls_in_their_order(untrained: Any) -> None:
    from nerfstudio.viewer.utils import parse_object
    from nerfstudio.viewer.viewer_elements import ViewerElement

    found = [element.name for _, element in parse_object(untrained, ViewerElement, "Custom Elements")]
    assert found == [element.name for element in untrained.controls.elements]
    assert found[:3] == ["Status", "Refusal", "Prompt"]
    assert "prior" not in vars(untrained.current)  # looking for them did not load it


def test_nothing_nearer_than_training_saw_is_shown(untrained: Any) -> None:
    model = untrained.model.eval()
    rays = RayBundle(torch.zeros(3, 3), torch.ones(3, 3), torch.ones(3, 1))
    assert model.collider(rays).nears.tolist() == [[pytest.approx(model.config.near_plane)]] * 3


def test_only_the_viewer_is_shown_the_scene_before(scene: Path, prior: Path, tmp_path: Path) -> None:
    trainer = trainer_for(config_for(scene, prior, tmp_path))
    camera = trainer.pipeline.datamanager.train_dataset.cameras[:1]
    model = trainer.pipeline.model.eval()

    def render(thread: bool = False) -> torch.Tensor:
        shown: list[torch.Tensor] = []
        draw = lambda: shown.append(model.get_outputs_for_camera(camera)["rgb"])  # noqa: E731
        if thread:
            viewer = threading.Thread(target=draw)
            viewer.start()
            viewer.join()
        else:
            draw()
        return shown[0]

    def train(step: int) -> None:
        model.train()
        trainer.train_iteration(step)
        model.eval()

    for step in range(4):
        train(step)
    before = render()
    for step in range(4, 8):
        train(step)
    after = render()
    assert not torch.equal(before, after)
    use(trainer.pipeline.controls.before, True)
    assert torch.equal(render(thread=True), before)
    assert torch.equal(render(), after)
    use(trainer.pipeline.controls.before, False)
    assert torch.equal(render(thread=True), after)
    saved = trainer.pipeline.edit_state()["before"]
    again = trainer_for(config_for(scene, prior, tmp_path / "again")).pipeline
    again.begin(8, {**trainer.pipeline.edit_state(), "before": saved})
    assert all(torch.equal(again.model.before[k], v) for k, v in saved.items())


def test_mixed_precision_of_the_field_leaves_edits_alone(scene: Path, prior: Path, tmp_path: Path) -> None:
    def first_edit(mixed: bool) -> torch.Tensor:
        pipeline = trainer_for(config_for(scene, prior, tmp_path / str(mixed))).pipeline
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            pipeline.get_train_loss_dict(4)
        return pipeline.datamanager._images

    assert torch.equal(first_edit(True), first_edit(False))


@pytest.mark.parametrize("name", ["csd-edit-ngp", "csd-edit-splat", "csd-edit"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_what_needs_cuda_says_so_before_anything_is_read_or_compiled(
    name: str, device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if (name, device) == ("csd-edit", "cpu"):
        pytest.skip("which runs, slowly")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config: Any = copy.deepcopy(getattr(methods, name.replace("-", "_")).config)
    config.output_dir, config.timestamp, config.machine.device_type = tmp_path, "run", device
    config.pipeline._target = None  # whoever got as far as building it would fail
    with pytest.raises(SystemExit) as end:
        trainer_for(config)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"csd-edit: {name}: expected ")
    assert said.endswith("csd-edit-cpu runs on a CPU\n")
    assert said.count("\n") == 1


def test_whole_images_are_replaced_and_brought_back(scene: Path) -> None:
    """The data of splats, which themselves need CUDA."""
    config = CsdFullImageDataManagerConfig(data=scene, dataparser=NerfstudioDataParserConfig())
    config.cache_images, config.cache_images_type = "gpu", "uint8"  # "gpu" is the device that is given
    data: Any = config.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)
    assert data.photographs.shape == (6, 3, PX, PX)
    picture = torch.full((3, PX, PX), 100 / 255)
    data.show(2, picture)
    shown = {int(batch["image_idx"]): batch["image"] for _, batch in (data.next_train(i) for i in range(6))}
    assert set(shown) == set(range(6))
    assert (shown[2][..., :3] == 100).all()
    assert torch.equal((data.photographs[3] * 255).round().byte(), shown[3][..., :3].permute(2, 0, 1))
    data.show(2, data.photographs[2])
    assert torch.equal(data.cached_train[2]["image"][..., :3].permute(2, 0, 1) / 255, data.photographs[2])


def test_views_are_coupled_by_the_depth_of_the_field(scene: Path, prior: Path, tmp_path: Path) -> None:
    pipeline = trainer_for(config_for(scene, prior, tmp_path, edit_steps=3, views_per_edit=6)).pipeline
    start = pipeline.rng.get_state()

    def first_edit(coupling: str) -> torch.Tensor:
        pipeline.config.coupling = coupling
        pipeline.rng.set_state(start)
        pipeline.make_driver("update").edit(0)
        return pipeline.datamanager._images.clone()

    by_depth, plain = first_edit("depth"), first_edit("svgd")
    assert not torch.equal(by_depth, plain)
    assert (by_depth - plain).abs().mean() < 0.1
    assert torch.equal(by_depth, first_edit("depth"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "make it purple"}, "does not know 'make it purple'"),
        ({"load_dir": Path("nowhere")}, "load-dir: expected a folder of checkpoints, got nowhere"),
        ({"prior": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"prior": str(Path(__file__).parent)}, "model_index.json"),
        ({"prior_device": "cuda:7"}, "device 'cuda:7'"),
        ({"mask_dir": Path("nowhere")}, "mask-dir: expected a folder of masks, got nowhere"),
        ({"driver": "distil", "strength": 0.5}, "strength: expected 1 with driver distil"),
        ({"driver": "distil", "detail": 0.0}, "detail: expected 1 with driver distil"),
        ({"coupling": "paper", "views_per_edit": 2}, "views_per_edit: expected 3 or more with coupling paper, got 2"),
        ({"strength": 1.5}, "strength: expected 0 to 1, got 1.5"),
        ({"box": (1.0, 0.0, 0.0, 0.5, 1.0, 1.0)}, "box: expected least x, y, z below largest x, y, z, got 1.0 0.0 0.0"),
        ({"size": 0}, "size: expected 8 px or more, got 0"),
        ({"scene_steps": -1}, "scene_steps: expected 0 or more, got -1"),
        ({"seed": 2**63}, "seed: expected 0 to "),
        ({"edit_every": 0}, "edit_every: expected 1 or more, got 0"),
        ({"lr": -1.0}, "lr: expected a number above 0, got -1.0"),
    ],
)
def test_mistakes_end_in_one_line(
    changes: dict[str, object], said: str, scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(scene, prior, tmp_path, **changes)
    config.save_config()  # as ns-train does before anything is looked at
    with pytest.raises(SystemExit) as end:
        trainer_for(config)
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*")), "a start that is refused leaves nothing"


def test_too_few_views_or_views_of_different_sizes_are_refused(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = write_small_scene(tmp_path / "few", train_views=2)
    with pytest.raises(SystemExit):
        trainer_for(config_for(few, prior, tmp_path / "out"))
    assert "expected at least 3 training views, got 2" in capsys.readouterr().err
    mixed: Any = write_small_scene(tmp_path / "mixed") / "transforms.json"
    about = json.loads(mixed.read_text())
    sizes = {key: about.pop(key) for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
    for frame in about["frames"]:
        frame.update(sizes)
    about["frames"][0].update({"w": 48, "cx": 24})
    mixed.write_text(json.dumps(about))
    with pytest.raises(SystemExit):
        trainer_for(config_for(mixed.parent, prior, tmp_path / "out"))
    assert f"expected training images of one size, got {PX}x{PX}, 48x{PX}" in capsys.readouterr().err


def test_data_that_is_not_there_or_a_mask_that_is_no_picture_is_refused(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        trainer_for(config_for(tmp_path / "nowhere", prior, tmp_path / "out"))
    assert "data: expected a folder or a transforms.json, got" in capsys.readouterr().err
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "train_0000.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        trainer_for(config_for(scene, prior, tmp_path / "out", mask_dir=masks))
    assert "train_0000.png, which cannot be read as one" in capsys.readouterr().err


def test_edits_of_other_views_are_refused(
    prior: Path, tmp_path: Path, whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    four = write_small_scene(tmp_path / "four", train_views=4)
    with pytest.raises(SystemExit):
        trainer_for(config_for(four, prior, tmp_path / "other", load_dir=whole.trainer.checkpoint_dir))
    assert "edits of the training views of this data, got others: 4 and 6 views" in capsys.readouterr().err


def test_a_checkpoint_that_lacks_an_entry_is_refused_in_one_line(
    scene: Path, prior: Path, tmp_path: Path, whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = whole.trainer.checkpoint_dir.glob("*.ckpt")
    for place, name in (("csd3d", "rng"), ("csd3d", "end"), (None, "schedulers")):
        state = load_checkpoint(path)
        del (state if place is None else state[place])[name]
        torch.save(state, tmp_path / "less.ckpt")
        with pytest.raises(SystemExit) as end:
            trainer_for(config_for(scene, prior, tmp_path / "other", load_checkpoint=tmp_path / "less.ckpt"))
        assert end.value.code == 2
        assert f"checkpoint: expected a complete one, got one without '{name}'" in capsys.readouterr().err


def test_checkpoints_of_another_backend_are_refused() -> None:
    own = {"_model.a": torch.zeros(2), "_model.b": torch.zeros(3)}
    assert set(fitting_weights({"module._model.a": torch.zeros(2), "_model.b": torch.zeros(3)}, own)) == set(own)
    wrapped = {"_model.module.a": torch.zeros(2), "_model.module.b": torch.zeros(3)}  # as several processes name them
    assert set(fitting_weights(wrapped, own)) == set(fitting_weights(own, wrapped)) == set(own)
    with pytest.raises(ValueError, match=r"got one that lacks _model\.b"):
        fitting_weights({"_model.a": torch.zeros(2)}, own)
    with pytest.raises(ValueError, match=r"expected _model\.b of shape \(3,\), as this method is set up, got \(4,\)"):
        fitting_weights({"_model.a": torch.zeros(2), "_model.b": torch.zeros(4)}, own)


def test_checkpoints_with_numpy_scalars_load_and_pickles_of_anything_else_do_not(tmp_path: Path) -> None:
    import numpy as np

    torch.save({"step": 3, "pipeline": {}, "lr": np.float64(0.5)}, tmp_path / "old.ckpt")
    assert load_checkpoint(tmp_path / "old.ckpt")["lr"] == 0.5
    assert type(plain({"a": [np.float64(0.5)]})["a"][0]) is float
    torch.save({"step": 3, "pipeline": {}, "bad": Path("x")}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="cannot be read as a nerfstudio checkpoint"):
        load_checkpoint(tmp_path / "bad.ckpt")


def test_random_state_survives_a_checkpoint(tmp_path: Path) -> None:
    import random

    import numpy as np

    torch.save(plain(random_state()), tmp_path / "state")
    expected = (random.random(), float(np.random.rand()), float(torch.rand(())))
    restore_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == expected


IN_ONE_PROCESS = """
import contextlib, json, runpy, sys
for number, words in enumerate(json.loads(sys.argv[1])):
    sys.argv, code = words, 0
    with open(f"{number}.err", "w") as err, contextlib.redirect_stderr(err):
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    print(f"exit code {number}:", code)
"""
"""Console scripts one after another."""


def test_the_commands_of_nerfstudio_from_training_to_pictures(
    scene: Path, prior: Path, tmp_path: Path, scene_server: dict[str, str]
) -> None:
    settings = {
        "prompt": "make it snowy",
        "prior": prior,
        "size": PX,
        "scene-steps": 1,
        "views-per-edit": 6,
        "edit-steps": 2,
        "model.num-levels": 4,
        "model.log2-hashmap-size": 12,
        "model.max-res": 64,
    }
    flags = [word for name, value in settings.items() for word in (f"--pipeline.{name}", value)]
    home = tmp_path / "out" / scene.name / "csd-edit-cpu" / "run"
    run = ["--output-dir", "out", "--timestamp", "run", "--vis", "tensorboard", "--max-num-iterations", 3]
    train = ["ns-train", "csd-edit-cpu", "--data", scene, *run]
    saved = ["--load-config", home / "config.yml", "--output-path"]
    commands = [
        [*train, *flags],
        ["ns-eval", *saved, "eval.json"],
        ["ns-render", "dataset", *saved, "shown", "--split", "test"],
        [*train, "--pipeline.scene-steps", 1, "--pipeline.prompt", "make it purple"],
    ]
    words = [[str(Path(sys.executable).with_name(name)), *map(str, rest)] for name, *rest in commands]
    process = in_fork(scene_server, "-c", IN_ONE_PROCESS, json.dumps(words), cwd=tmp_path)
    printed = process.communicate(timeout=300)[0]
    said = [file.read_text() for file in sorted(tmp_path.glob("[0-9].err"))]
    assert process.returncode == 0, printed[-2000:] + said[-1][-2000:]
    codes = [int(line.split()[-1]) for line in printed.splitlines() if line.startswith("exit code ")]
    assert codes == [0, 0, 0, 2], said
    assert (home / "edited_views" / "sheet.png").is_file()
    assert "psnr" in (tmp_path / "eval.json").read_text()
    assert len(list((tmp_path / "shown" / "test" / "rgb").glob("*.jpg"))) == 2
    assert "does not know 'make it purple'" in said[-1]
    assert "Traceback" not in said[-1]
    trained, evaluated = (path.stat().st_mtime_ns for path in (home / "config.yml", tmp_path / "eval.json"))
    assert trained < evaluated, "a start that is refused leaves what was there"
