"""Scenes by every named method, with a text-to-image prior, through both drivers. Needs nerfstudio."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from csd3d.engine.config import METHODS, PAPER
from csd3d.nerf.checkpoints import load_checkpoint
from csd3d.nerf.settings import EditSettings
from csd3d.nerf.viewer import Undo
from csd3d.priors.defaults import default_config
from tests.nerf.tiny import PX, config_for, trainer_for, write_small_scene
from tests.priors.tiny import write_tiny_prior

CAPTIONS: dict[str, object] = {"prompt": "a blue ball", "source_prompt": "a red ball"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def t2i(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image model that was trained at 32 px."""
    return write_tiny_prior(
        tmp_path_factory.mktemp("priors") / "t2i", kind="text-to-image", closed=False, sample_size=4
    )


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "editor")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_scene(tmp_path_factory.mktemp("scenes") / "small")


def test_views_that_move_together_do_so_by_depth_where_they_can() -> None:
    by_depth = {"csd-edit": True, "csd": True, "dds": False, "cds": False, "sds": False}
    for method, expected in by_depth.items():
        assert EditSettings(method=method).by_depth == expected  # pyright: ignore[reportArgumentType]
    assert EditSettings(method="dds", coupling="depth").by_depth
    assert not EditSettings(coupling="svgd").by_depth
    assert not EditSettings(driver="distil").by_depth


@pytest.mark.parametrize("method", ["sds", "csd", "dds", "cds", "csd-edit"])
def test_a_method_is_its_residual_coupling_and_regulariser(method: Any) -> None:
    named = METHODS[method]
    csd = EditSettings(method=method, edit_steps=7).engine(builtin=False)
    assert (csd.residual, csd.coupling, csd.regulariser) == (named.residual, named.coupling, named.regulariser)
    assert csd == replace(default_config(method, builtin=False), steps=7)
    together = EditSettings(method=method, coupling="svgd").engine(builtin=False)
    alone = EditSettings(method=method, coupling="independent").engine(builtin=False)
    published = EditSettings(method=method, coupling="paper").engine(builtin=False)
    assert (together.coupling, alone.coupling, published.coupling) == ("svgd", "independent", "svgd")
    assert together.residual == alone.residual == published.residual == named.residual
    assert (published.bandwidth, published.normalise) == ("paper", "count")
    assert published.lr == PAPER["csd-edit-video"].lr
    assert published.regulariser == named.regulariser


def test_no_method_is_csd_edit() -> None:
    plain, named = EditSettings(), EditSettings(method="csd-edit")
    for builtin in (True, False):
        assert plain.engine(builtin=builtin) == named.engine(builtin=builtin)
        moves = 20 if builtin else 100
        assert plain.engine(builtin=builtin) == replace(default_config(builtin=builtin), steps=moves)
    assert plain.prior_name == "builtin"
    assert EditSettings(method="cds").prior_name == "builtin:t2i"


def test_every_method_edits_views_and_sends_gradients_to_the_field(scene: Path, t2i: Path, tmp_path: Path) -> None:
    trainer = trainer_for(config_for(scene, t2i, tmp_path, method="dds", s_image=None, **CAPTIONS))
    pipeline, data = trainer.pipeline, trainer.pipeline.datamanager
    pipeline.config.views_per_edit = 6
    start = pipeline.rng.get_state()
    images, gradients = [data.photographs.permute(0, 2, 3, 1)], []
    parameter = next(pipeline.model.field.mlp_head.parameters())
    for method, coupling in (("sds", None), ("csd", None), ("dds", None), ("cds", None), ("dds", "svgd")):
        pipeline.config.method, pipeline.config.coupling = method, coupling
        pipeline.rng.set_state(start)
        pipeline.make_driver("update").edit(0)
        images.append(data._images[..., :3].clone())
        pipeline.rng.set_state(start)
        torch.manual_seed(3)  # jitter of rays
        gradients.append(torch.autograd.grad(pipeline.make_driver("distil").csd_loss(0), parameter)[0])
    apart = [float((a - b).abs().max()) for i, a in enumerate(images) for b in images[:i]]
    assert min(apart) > 0.5 / 255
    directions = torch.stack([g.flatten() / g.norm() for g in gradients])
    alike = directions @ directions.T - 2 * torch.eye(len(gradients))
    assert directions.isfinite().all()
    assert float(alike.max()) < 1 - 1e-6
    [edit] = pipeline.history.edits
    assert (edit.prompt, edit.source_prompt, edit.method) == ("a blue ball", "a red ball", "dds")


def test_cds_on_a_scene_through_the_trainer_and_on_from_its_checkpoint(scene: Path, t2i: Path, tmp_path: Path) -> None:
    settings: dict[str, object] = {"method": "cds", "coupling": "svgd", **CAPTIONS}
    settings |= {"scene_steps": 1, "views_per_edit": 3, "max_num_iterations": 4}  # edits at steps 1 and 2
    whole = trainer_for(config_for(scene, t2i, tmp_path / "whole", **settings))
    whole.train()
    first = trainer_for(config_for(scene, t2i, tmp_path / "first", **settings))
    first.config.max_num_iterations = 2
    first.train()
    path = first.checkpoint_dir / "step-000000001.ckpt"
    saved = load_checkpoint(path)
    [edit] = saved["csd3d"]["edits"]
    assert (edit["prompt"], edit["source_prompt"], edit["method"]) == ("a blue ball", "a red ball", "cds")
    saved["csd3d"]["end"] = 4
    torch.save(saved, path)
    settings |= {"prompt": None, "source_prompt": None, "load_dir": first.checkpoint_dir}  # both are followed
    second = trainer_for(config_for(scene, t2i, tmp_path / "second", **settings))
    second.train()
    assert torch.equal(whole.pipeline.datamanager._images, second.pipeline.datamanager._images)
    a, b = whole.pipeline.state_dict(), second.pipeline.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def without_attention(prior: Path) -> Path:
    """Take the attention out of the decoder of a prior's UNet."""
    config = json.loads((prior / "unet" / "config.json").read_text())
    blocks = [name.replace("CrossAttnUp", "Up") for name in config["up_block_types"]]
    unet: Any = UNet2DConditionModel.from_config({**config, "up_block_types": blocks})
    unet.save_pretrained(prior / "unet")
    return prior


@pytest.mark.parametrize("driver", ["update", "distil"])
@pytest.mark.parametrize(
    ("which", "changes", "said"),
    [
        ("t2i", {}, "method: expected sds, csd, dds or cds for the text-to-image model"),
        ("t2i", {"method": "csd-edit"}, "got csd-edit, which is for instruction editors"),
        ("t2i", {"method": "csd-edit", "prompt": None}, "got csd-edit, which is for instruction editors"),
        ("t2i", {"method": "dds"}, "source-prompt: expected what the source shows"),
        ("editor", {"source_prompt": "a ball"}, "an instruction editor reads the source from its picture"),
        ("editor", {"source_prompt": "a ball", "prompt": None}, "an instruction editor reads the source"),
        (None, {"method": "cds", "source_prompt": "a ball"}, "prior 'builtin:t2i': its weights are not in"),
        ("bare", {"method": "cds", "source_prompt": "a ball"}, "nce_layers: expected layers that the prior's UNet has"),
    ],
)
def test_what_a_prior_cannot_serve_is_refused_before_anything_is_done(
    driver: str,
    which: str | None,
    changes: dict[str, object],
    said: str,
    scene: Path,
    t2i: Path,
    editor: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("csd3d.priors.store.resolve.builtin_directory", lambda name: tmp_path / "weights")
    prior = t2i if which == "t2i" else editor
    if which == "bare":
        prior = without_attention(write_tiny_prior(tmp_path / "bare", kind="text-to-image", closed=False))
    config = config_for(scene, prior, tmp_path / "out", driver=driver, **changes)
    if which is None:
        config.pipeline.prior = None  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(SystemExit) as end:
        trainer_for(config)
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1]
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_viewer_asks_for_captions_where_a_method_needs_them(scene: Path, t2i: Path, tmp_path: Path) -> None:
    pipeline = trainer_for(config_for(scene, t2i, tmp_path, method="dds", prompt=None)).pipeline
    controls = pipeline.controls
    assert [element.name for element in controls.elements][2:6] == [
        "Prompt",
        "What the scene shows",
        "Edit as the prompt says",
        "Text guidance",
    ]
    assert "s_image" not in controls.scales
    controls.prompt.value = "a blue ball"
    controls.start.cb_hook(controls.start)
    pipeline.get_train_loss_dict(0)
    assert "source-prompt: expected what the source shows" in controls.refusal.text
    assert pipeline.current.prompt is None
    controls.source.value = "a red ball"
    controls.start.cb_hook(controls.start)
    pipeline.get_train_loss_dict(0)
    assert pipeline.history.edited()
    assert not controls.refusal.text
    controls.prompt.value, controls.source.value = "a green ball", "a blue ball"
    controls.start.cb_hook(controls.start)
    pipeline.get_train_loss_dict(1)
    assert [edit.source_prompt for edit in pipeline.history.edits] == ["a red ball", "a blue ball"]
    pipeline.carry_out([Undo()])
    assert (pipeline.current.prompt, pipeline.current.source_prompt) == ("a blue ball", "a red ball")
    assert (controls.prompt.value, controls.source.value) == ("a blue ball", "a red ball")


def test_sds_needs_no_caption_of_the_scene(scene: Path, t2i: Path, tmp_path: Path) -> None:
    pipeline = trainer_for(config_for(scene, t2i, tmp_path, method="sds", prompt="a ball", driver="distil")).pipeline
    names = [element.name for element in pipeline.controls.elements]
    assert "What the scene shows" not in names
    assert "Edit strength" not in names  # distillation knows none
    assert pipeline.current.prior.native_px == PX
