"""Backends that only CUDA can run, each constructed, trained, edited, saved and gone on with; nerfacto on the CPU too.

Needs nerfstudio. `ns-train` compiles some of them when they are first used, which takes minutes.
"""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from csd3d.nerf import methods
from csd3d.nerf.checkpoints import load_checkpoint
from csd3d.nerf.text3d.model import ThingField, ThingModelConfig
from tests.devices import CUDA
from tests.nerf.tiny import PX, make_small, trainer_for
from tests.priors.tiny import write_tiny_prior

pytestmark = pytest.mark.slow

TCNN = pytest.mark.skipif(importlib.util.find_spec("tinycudann") is None, reason="tiny-cuda-nn is not installed")


def config_on(device: str, entry: str, scene: Path | None, prior: Path, out: Path, /, **changes: Any) -> Any:
    """A run of 8 steps of any method, as it is registered but for what makes it short: edits at steps 3 and 6."""
    config: Any = copy.deepcopy(getattr(methods, entry).config)
    config.output_dir, config.timestamp, config.vis = out, "run", "tensorboard"
    config.machine.device_type, config.machine.seed = device, 1
    config.mixed_precision = config.mixed_precision and device == "cuda"
    config.max_num_iterations, config.steps_per_save = 8, 1000
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    pipeline = config.pipeline
    data = pipeline.datamanager
    if hasattr(data, "data"):
        data.data = scene
    for place, name, value in (
        (data, "train_num_rays_per_batch", 64),
        (data, "eval_num_rays_per_batch", 64),
        (pipeline.model, "average_init_density", 1.0),
    ):
        if hasattr(place, name):
            setattr(place, name, value)
    if entry == "csd_edit_cpu":
        make_small(pipeline.model)
    usual = {"prompt": "make it snowy", "prior": str(prior), "size": PX, "scene_steps": 3, "edit_every": 3,
             "views_per_edit": 4, "edit_steps": 2, "lr": 0.5, "s_text": 2.0, "s_image": 1.2}  # fmt: skip
    for name, value in {**usual, **changes}.items():
        if hasattr(pipeline, name):
            setattr(pipeline, name, value)
        elif hasattr(pipeline.model, name):
            setattr(pipeline.model, name, value)
    return config


def finite(trainer: Any) -> bool:
    return all(p.isfinite().all() for p in trainer.pipeline.model.parameters())


SMALL_DISTIL = {"driver": "distil", "distil_px": 16, "distil_views": 2}
HALF = (-9.0, -9.0, -9.0, 0.0, 9.0, 9.0)
METHODS = [
    pytest.param("cpu", "csd_edit_cpu", {}, id="nerfacto-cpu"),
    pytest.param("cuda", "csd_edit", {"implementation": "torch"}, marks=CUDA, id="nerfacto-torch"),
    pytest.param("cuda", "csd_edit", {"implementation": "tcnn"}, marks=[*CUDA, TCNN], id="nerfacto-tcnn"),
    pytest.param("cuda", "csd_edit", SMALL_DISTIL, marks=CUDA, id="nerfacto-distil"),
    pytest.param("cuda", "csd_edit", {**SMALL_DISTIL, "coupling": "depth"}, marks=CUDA, id="nerfacto-distil-by-depth"),
    pytest.param("cuda", "csd_edit_ngp", {}, marks=CUDA, id="instant-ngp"),
    pytest.param("cuda", "csd_edit_ngp", SMALL_DISTIL, marks=CUDA, id="instant-ngp-distil"),
    pytest.param("cuda", "csd_edit_splat", {}, marks=CUDA, id="splats"),
    pytest.param("cuda", "csd_edit_splat", {"box": HALF}, marks=CUDA, id="splats-in-a-box"),
]


@pytest.mark.parametrize(("device", "entry", "changes"), METHODS)
def test_a_scene_trains_is_edited_and_goes_on(
    device: str, entry: str, changes: dict[str, Any], scene: Path, prior: Path, tmp_path: Path
) -> None:
    trainer = trainer_for(config_on(device, entry, scene, prior, tmp_path / "a", **changes))
    assert trainer.pipeline.model.device.type == device
    assert trainer.grad_scaler.is_enabled() == (trainer.config.mixed_precision and device == "cuda")
    trainer.train()
    assert trainer.step == 7
    assert finite(trainer)
    if "driver" not in changes:
        assert trainer.pipeline.history.edited()
    camera = trainer.pipeline.scene.cameras[0:1].to(trainer.pipeline.device)
    with torch.no_grad():
        render = trainer.pipeline.model.get_outputs_for_camera(camera)["rgb"]
    assert render.shape == (PX, PX, 3)
    assert render.isfinite().all()
    saved = load_checkpoint(next(trainer.checkpoint_dir.glob("*.ckpt")))
    assert not any("lpips" in name or "unet" in name for name in saved["pipeline"])
    config = config_on(device, entry, scene, prior, tmp_path / "b", **changes)
    config.load_dir, config.max_num_iterations = trainer.checkpoint_dir, 10
    again = trainer_for(config)
    assert again._start_step == 8
    again.train()
    assert finite(again)


@pytest.mark.parametrize(
    ("device", "entry", "changes"),
    [
        ("cpu", "csd_3d_cpu", {}),
        pytest.param("cuda", "csd_3d_cpu", {}, marks=CUDA),
        pytest.param("cuda", "csd_3d", {"implementation": "torch"}, marks=CUDA),
        pytest.param("cuda", "csd_3d", {"implementation": "tcnn"}, marks=[*CUDA, TCNN]),
    ],
)
def test_a_scene_from_a_sentence(device: str, entry: str, changes: dict[str, Any], tmp_path: Path) -> None:
    t2i = write_tiny_prior(tmp_path / "t2i", kind="text-to-image", closed=False)
    small = {"render_px": (8, 16), "anneal_steps": 8, "views_per_step": 3, "coarse_samples": 8, "fine_samples": 8}
    config = config_on(device, entry, None, t2i, tmp_path / "out", prompt="a red ball", **small, **changes)
    config.pipeline.datamanager.eval_px = 16
    trainer = trainer_for(config)
    trainer.train()
    assert trainer.step == 7
    assert finite(trainer)


@pytest.mark.parametrize(
    ("device", "implementation"),
    [
        ("cpu", "torch"),
        pytest.param("cuda", "torch", marks=CUDA),
        pytest.param("cuda", "tcnn", marks=[*CUDA, TCNN]),
    ],
)
def test_hash_grids_are_empty_outside_of_the_box_and_learn_within(device: str, implementation: Any) -> None:
    config = ThingModelConfig(implementation=implementation, num_levels=4, max_res=32, log2_hashmap_size=10)
    field = ThingField(config).to(device)
    x = torch.tensor([[0.1, 0.2, 0.3], [0.1, 1.2, 0.3]], device=device)
    density, colour = field(x)
    assert (density > 0).tolist() == [True, False]
    assert colour.isfinite().all()
    assert torch.allclose(density, field.density(x))
    field.zero_grad()
    density[0].backward()
    moved = [p.grad for p in field.parameters() if p.grad is not None]
    assert any(bool(grad.any()) for grad in moved)
    if implementation == "torch":
        here = copy.deepcopy(field).to("cpu")
        assert torch.allclose(here(x.cpu())[0], density.detach().cpu(), rtol=1e-3)


@pytest.mark.parametrize("name", ["csd_edit", "csd_edit_small", "csd_edit_ngp", "csd_edit_splat", "csd_3d"])
def test_what_is_for_cuda_is_a_config_that_survives_its_file(name: str) -> None:
    config = getattr(methods, name).config
    again = yaml.load(yaml.dump(config), Loader=yaml.Loader)  # as nerfstudio's scripts read config.yml
    assert again == config
    groups = set(config.optimizers)
    assert groups >= ({"means", "opacities"} if "splat" in name else {"fields"})


def test_splats_cannot_be_distilled() -> None:
    settings: Any = copy.deepcopy(methods.csd_edit_splat.config.pipeline)
    settings.prompt, settings.driver = "make it snowy", "distil"
    with pytest.raises(ValueError, match="driver: expected update for splats"):
        settings.check()
