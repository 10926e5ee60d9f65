"""The plugin inside nerfstudio: registration, edits while training, resuming, mistakes. Needs nerfstudio."""

import copy
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from csd3d.nerf import methods
from csd3d.nerf.host import (
    CsdTrainerConfig,
    fitting_weights,
    load_checkpoint,
    plain,
    random_state,
    restore_random_state,
)
from csd3d.world.export import write_scene
from csd3d.world.sample import sample_scene
from tests.priors.tiny import write_tiny_prior

PX = 32


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "tiny")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training views and two held-out ones."""
    out = tmp_path_factory.mktemp("scenes") / "small"
    write_scene(sample_scene(8, train_views=6, test_views=2, height_px=PX, width_px=PX), out)
    return out


def config_for(scene: Path, prior: Path, out: Path, /, **changes: object) -> CsdTrainerConfig:
    """A tiny run: 4 steps of scene, then edits every 3 steps, to step 10."""
    config: Any = copy.deepcopy(methods.csd_edit_cpu.config)
    assert isinstance(config, CsdTrainerConfig)
    config.output_dir, config.timestamp, config.vis = out, "run", "tensorboard"
    config.machine.seed = 1
    config.max_num_iterations, config.steps_per_save = 10, 1000
    pipeline: Any = config.pipeline
    pipeline.datamanager.data = scene
    pipeline.datamanager.train_num_rays_per_batch = 64
    for name, value in {
        "prompt": "make it snowy",
        "prior": str(prior),
        "size": PX,
        "scene_steps": 4,
        "edit_every": 3,
        "views_per_edit": 4,
        "edit_steps": 2,
        "lr": 0.5,
        "s_text": 2.0,
        "s_image": 1.2,
    }.items():
        setattr(pipeline, name, value)
    for name, value in changes.items():
        setattr(pipeline if hasattr(pipeline, name) else config, name, value)
    return config


def trainer_for(config: CsdTrainerConfig) -> Any:  # a CsdTrainer whose pipeline is ours
    torch.manual_seed(1)
    restore_random_state(_SEEDED)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


_SEEDED = random_state()


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.pipeline.state_dict().items()}


def test_nerfstudio_finds_the_methods() -> None:
    found = {e.name for e in entry_points(group="nerfstudio.method_configs")}
    assert set(methods.METHODS) <= found
    from nerfstudio.configs.method_configs import all_descriptions, all_methods

    for name in methods.METHODS:
        assert all_methods[name].method_name == name
        assert "not available" not in all_descriptions[name]


def test_registration_needs_neither_diffusers_nor_a_prior() -> None:
    code = (
        "import sys; sys.modules['diffusers'] = None; import csd3d.nerf.methods as m;"
        "print(m.csd_edit.description); assert not any(n.startswith('csd3d.priors.instruct') for n in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not available" not in done.stdout


def test_a_broken_plugin_leaves_ns_train_alone() -> None:
    code = (
        "import sys; sys.modules['nerfstudio.models.nerfacto'] = None; import csd3d.nerf.methods as m;"
        "print(m.csd_edit.description)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not available" in done.stdout


def test_configs_survive_yaml() -> None:
    for name in methods.METHODS:
        config = getattr(methods, name.replace("-", "_")).config
        again = yaml.load(yaml.dump(config), Loader=yaml.Loader)
        assert again == config


def test_views_are_edited_while_the_scene_trains_and_kept_beside_it(scene: Path, prior: Path, tmp_path: Path) -> None:
    trainer = trainer_for(config_for(scene, prior, tmp_path))
    data = trainer.pipeline.datamanager
    before = data.photographs.clone()
    trainer.train()
    changed = [v for v in range(6) if not torch.equal(data._images[v].permute(2, 0, 1), before[v])]
    assert len(changed) == 6  # batches of 4 at steps 4 and 7 cover the round of 6
    assert torch.equal(data.photographs, before)
    edited = trainer.base_dir / "edited_views"
    assert len(list(edited.glob("train_*.png"))) == 6
    assert (edited / "sheet.png").is_file()
    picture = torch.tensor(list(Image.open(edited / "train_0003.png").tobytes())).view(PX, PX, 3)
    assert torch.equal(picture, (data._images[3] * 255).round().long())
    saved = load_checkpoint(next(trainer.checkpoint_dir.glob("*.ckpt")))
    names = " ".join(saved["pipeline"])
    assert "prior" not in names
    assert "unet" not in names
    assert "lpips" not in names


def test_a_resumed_run_ends_with_the_same_bits(scene: Path, prior: Path, tmp_path: Path) -> None:
    whole = trainer_for(config_for(scene, prior, tmp_path / "whole"))
    whole.train()
    first = trainer_for(config_for(scene, prior, tmp_path / "first"))
    first.config.max_num_iterations = 6  # stopped between the two edits ...
    first.train()
    saved = load_checkpoint(first.checkpoint_dir / "step-000000005.ckpt")
    saved["csd3d"]["end"] = 10  # ... of a run that was to go on to step 10
    torch.save(saved, first.checkpoint_dir / "step-000000005.ckpt")
    second = trainer_for(config_for(scene, prior, tmp_path / "second", load_dir=first.checkpoint_dir))
    second.train()
    assert second.step == whole.step == 9
    a, b = weights(whole), weights(second)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(whole.pipeline.datamanager._images, second.pipeline.datamanager._images)


def test_a_plain_checkpoint_is_edited_at_once_and_its_lpips_is_ignored(
    scene: Path, prior: Path, tmp_path: Path
) -> None:
    scene_only = trainer_for(config_for(scene, prior, tmp_path / "scene", prompt=None))
    scene_only.train()
    path = scene_only.checkpoint_dir / "step-000000009.ckpt"
    state = load_checkpoint(path)
    del state["csd3d"]
    state["pipeline"]["_model.lpips.net.weight"] = torch.zeros(3)
    torch.save(state, path)
    edited = trainer_for(config_for(scene, prior, tmp_path / "edit", load_dir=scene_only.checkpoint_dir))
    assert edited._start_step == 10
    edited.config.max_num_iterations = 1
    edited.train()
    assert len(edited.pipeline._layers.edited()) == 4


def test_outside_a_mask_training_images_stay_bit_equal(scene: Path, prior: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    white = Image.new("L", (PX, PX), 0)
    white.paste(255, (8, 8, 24, 24))
    for i in range(6):
        white.save(masks / f"train_{i:04d}.png")
    trainer = trainer_for(config_for(scene, prior, tmp_path / "out", mask_dir=masks))
    trainer.train()
    data = trainer.pipeline.datamanager
    now, before = data._images.permute(0, 3, 1, 2), data.photographs
    outside = torch.ones(PX, PX, dtype=torch.bool)
    outside[8:24, 8:24] = False
    assert torch.equal(now[..., outside], before[..., outside])
    assert not torch.equal(now, before)


def test_an_empty_box_changes_nothing(scene: Path, prior: Path, tmp_path: Path) -> None:
    trainer = trainer_for(config_for(scene, prior, tmp_path, box=(90.0, 90.0, 90.0, 91.0, 91.0, 91.0)))
    trainer.train()
    data = trainer.pipeline.datamanager
    assert torch.equal(data._images.permute(0, 3, 1, 2), data.photographs)


def test_the_viewer_changes_the_prompt_undoes_and_resets(scene: Path, prior: Path, tmp_path: Path) -> None:
    trainer = trainer_for(config_for(scene, prior, tmp_path))
    pipeline, data = trainer.pipeline, trainer.pipeline.datamanager
    pipeline.get_train_loss_dict(4)
    snowy = data._images.clone()
    pipeline.prompt_box.value = "make it night"
    pipeline.prompt_box.cb_hook(pipeline.prompt_box)
    pipeline.get_train_loss_dict(5)
    assert pipeline._layers.history == ("make it snowy", "make it night")
    assert not torch.equal(data._images, snowy)
    pipeline.undo_button.cb_hook(pipeline.undo_button)
    assert torch.equal(data._images, snowy)
    assert pipeline.prompt == "make it snowy"
    pipeline.prompt_box.value = "make it purple"  # not known: said, and nothing changes
    pipeline.prompt_box.cb_hook(pipeline.prompt_box)
    assert pipeline.prompt == "make it snowy"
    pipeline.reset_button.cb_hook(pipeline.reset_button)
    assert torch.equal(data._images.permute(0, 3, 1, 2), data.photographs)
    pipeline.pause_box.value = True
    pipeline.pause_box.cb_hook(pipeline.pause_box)
    pipeline.prompt, pipeline._next_edit = "make it snowy", 0
    pipeline.get_train_loss_dict(6)
    assert torch.equal(data._images.permute(0, 3, 1, 2), data.photographs)
    pipeline.text_slider.value = 4.0
    pipeline.text_slider.cb_hook(pipeline.text_slider)
    assert pipeline.csd.s_text == 4.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "make it purple"}, "does not know 'make it purple'"),
        ({"load_dir": Path("nowhere")}, "load-dir: expected a folder of checkpoints, got nowhere"),
        ({"prior": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"mask_dir": Path("nowhere")}, "mask-dir: expected a folder of masks, got nowhere"),
    ],
)
def test_mistakes_end_in_one_line(
    changes: dict[str, object], said: str, scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        trainer_for(config_for(scene, prior, tmp_path, **changes))
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_too_few_views_or_views_of_different_sizes_are_refused(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few"
    write_scene(sample_scene(8, train_views=2, test_views=1, height_px=PX, width_px=PX), few)
    with pytest.raises(SystemExit):
        trainer_for(config_for(few, prior, tmp_path / "out"))
    assert "expected at least 3 training views, got 2" in capsys.readouterr().err


def test_checkpoints_of_another_backend_are_refused() -> None:
    own = {"_model.a": torch.zeros(2), "_model.b": torch.zeros(3)}
    assert set(fitting_weights({"module._model.a": torch.zeros(2), "_model.b": torch.zeros(3)}, own)) == set(own)
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


def test_the_commands_of_nerfstudio_from_training_to_pictures(scene: Path, prior: Path, tmp_path: Path) -> None:
    bin_dir = Path(sys.executable).parent

    def ns(*words: object) -> subprocess.CompletedProcess[str]:
        command = [str(bin_dir / str(words[0])), *(str(w) for w in words[1:])]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    settings = {
        "prompt": "make it snowy", "prior": prior, "size": PX, "scene-steps": 4, "edit-every": 3,
        "views-per-edit": 3, "edit-steps": 2,
    }  # fmt: skip
    flags = [word for name, value in settings.items() for word in (f"--pipeline.{name}", value)]
    run = ["--output-dir", "out", "--timestamp", "run", "--vis", "tensorboard", "--max-num-iterations", 9]
    done = ns("ns-train", "csd-edit-cpu", "--data", scene, *run, *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    home = tmp_path / "out" / scene.name / "csd-edit-cpu" / "run"
    assert (home / "edited_views" / "sheet.png").is_file()
    measured = ns("ns-eval", "--load-config", home / "config.yml", "--output-path", "eval.json")
    assert measured.returncode == 0, measured.stderr[-2000:]
    assert "psnr" in (tmp_path / "eval.json").read_text()
    shown = ns(
        "ns-render", "dataset", "--load-config", home / "config.yml", "--output-path", "shown", "--split", "test"
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert len(list((tmp_path / "shown" / "test" / "rgb").glob("*.jpg"))) == 2
    wrong = ns("ns-train", "csd-edit-cpu", "--data", scene, *run, "--pipeline.prompt", "make it purple")
    assert wrong.returncode == 2
    assert "does not know 'make it purple'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
