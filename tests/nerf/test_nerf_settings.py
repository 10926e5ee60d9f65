"""Settings of a scene's edit: those of the engine are flags beside the others. Needs nerfstudio."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

from csd3d.engine.config import CsdConfig
from csd3d.nerf.pipeline import CsdEditPipelineConfig
from csd3d.nerf.settings import ENGINE_SETTINGS, EditSettings
from csd3d.nerf.text3d.settings import Text3dSettings
from csd3d.priors.defaults import default_config
from csd3d.priors.loading import Loading
from csd3d.runs.settings import field_help

pytestmark = pytest.mark.slow

OTHERS: dict[str, tuple[str, object]] = {
    "residual": ("noise", "noise"),
    "kernel_on": ("clean", "clean"),
    "bandwidth": ("0.25", 0.25),
    "normalise": ("count", "count"),
    "repulsion": ("0.5", 0.5),
    "regulariser": ("patch-nce", "patch-nce"),
    "nce_weight": ("2", 2.0),
    "nce_layers": ("score", "score"),
    "nce_patches": ("64", 64),
    "nce_patch_sizes": ("1 2 4", (1, 2, 4)),
    "nce_temperature": ("0.1", 0.1),
    "weight": ("one", "one"),
    "noise": ("shared", "shared"),
    "noise_on": ("device", "device"),
    "timesteps": ("descending", "descending"),
    "lr": ("0.3", 0.3),
    "lr_decay": ("0.8", 0.8),
    "lr_decay_every": ("7", 7),
    "optimizer": ("adam", "adam"),
    "tolerance": ("0.05", 0.05),
    "t_min": ("30", 30),
    "shift": ("2", 2.0),
    "t_max": ("600", 600),
    "s_text": ("9", 9.0),
    "s_image": ("1.25", 1.25),
    "s_source": ("3", 3.0),
    "guide_min": ("100", 100),
    "guide_every": ("2", 2),
    "guide_max": ("650", 650),
    "anchor": ("1", 1.0),
    "anchor_last": ("1", 1.0),
}
"""A value that is no default, as it is typed and as it is meant, for every setting of the engine."""


def test_every_setting_of_the_engine_is_a_setting_of_the_edit() -> None:
    assert set(ENGINE_SETTINGS) == {field.name for field in fields(CsdConfig)} - {"steps", "coupling"}
    assert set(OTHERS) == set(ENGINE_SETTINGS)
    assert set(field_help(CsdConfig)) == {field.name for field in fields(CsdConfig)}
    assert field_help(CsdConfig)["t_max"] == "Timesteps are drawn below this one."
    for builtin in (True, False):
        assert EditSettings(edit_steps=7).engine(builtin=builtin) == replace(default_config(builtin=builtin), steps=7)


def test_a_scene_takes_the_few_moves_that_suit_the_builtin_editor() -> None:
    """Whose rate is for so many: a hundred would go five times as far."""
    assert EditSettings().engine(builtin=True) == default_config(builtin=True)
    assert (
        EditSettings().engine(builtin=False).steps == EditSettings(coupling="paper").engine(builtin=True).steps == 100
    )


def test_distillation_which_has_no_last_step_draws_timesteps_at_random() -> None:
    csd = EditSettings(driver="distil").engine(builtin=True)
    assert (csd.timesteps, csd.t_max) == ("random", CsdConfig().t_max)
    assert EditSettings(driver="distil", t_max=700).engine(builtin=True).t_max == 700  # pyright: ignore[reportCallIssue]


def test_flags_of_the_engine_reach_the_engine() -> None:
    words = [w for name, (typed, _) in OTHERS.items() for w in (f"--pipeline.{name.replace('_', '-')}", *typed.split())]
    config: Any = tyro.cli(AnnotatedBaseConfigUnion, args=["csd-edit-cpu", *words, "--pipeline.edit-steps", "5"])
    csd = config.pipeline.engine(builtin=True)
    assert csd == CsdConfig(steps=5, **{name: meant for name, (_, meant) in OTHERS.items()})  # pyright: ignore[reportArgumentType]
    assert yaml.load(yaml.dump(config), Loader=yaml.Loader) == config


@pytest.mark.parametrize("method", ["csd-edit-cpu", "csd-3d-cpu"])
@pytest.mark.parametrize("flag", ["--text", "--instruction", "--edit", "--pipeline.text", "--pipeline.prompt"])
def test_the_sentence_is_taken_by_the_names_that_others_have_for_it(method: str, flag: str) -> None:
    config: Any = tyro.cli(AnnotatedBaseConfigUnion, args=[method, flag, "make it snowy"])
    assert config.pipeline.asked_prompt == "make it snowy"


def test_guidance_is_taken_by_the_names_of_instruct_nerf2nerf() -> None:
    words = ["--pipeline.guidance-scale", "7", "--pipeline.image-guidance-scale", "1.25"]
    config: Any = tyro.cli(AnnotatedBaseConfigUnion, args=["csd-edit-cpu", *words])
    csd = config.pipeline.engine(builtin=True)
    assert (csd.s_text, csd.s_image) == (7, 1.25)


@pytest.mark.parametrize("kind", [EditSettings, Text3dSettings])
def test_two_sentences_are_one_too_many(kind: Any) -> None:
    settings = kind(prompt="make it snowy")
    settings.model.prompt = "make it night"
    settings.datamanager.data = None
    with pytest.raises(ValueError, match="prompt: expected the same as --prompt, 'make it night', got 'make it snowy'"):
        settings.check()


def test_flags_say_how_the_prior_is_read(tmp_path: Path) -> None:
    for method, edit in (("csd-edit-cpu", EditSettings()), ("csd-3d-cpu", Text3dSettings())):
        words = ["--pipeline.lora", "a.safetensors:0.5", "--pipeline.embedding", "b.safetensors"]
        config: Any = tyro.cli(AnnotatedBaseConfigUnion, args=[method, *words])
        assert Loading.of(config.pipeline) == Loading(lora=("a.safetensors:0.5",), embedding=("b.safetensors",))
        assert Loading.of(edit) == Loading()
    with pytest.raises(FileNotFoundError, match="lora: there is no file"):
        EditSettings(prompt="x", lora=(str(tmp_path / "none.safetensors"),)).check()  # pyright: ignore[reportCallIssue]


def test_help_of_the_engine_is_told_at_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(AnnotatedBaseConfigUnion, args=["csd-edit-cpu", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, doc in field_help(CsdConfig).items():
        if name in ENGINE_SETTINGS:
            assert f"--pipeline.{name.replace('_', '-')} " in shown
            assert f"{doc} (default: what suits the prior and the method)" in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t_min": 950}, "t_min: expected 0 or more and below t_max = 900, got 950"),
        ({"lr_decay": 0.0}, r"lr_decay: expected a number in \(0, 1\], got 0.0"),
        ({"driver": "distil", "timesteps": "descending"}, "timesteps: expected random with driver distil"),
        ({"bandwidth": "paper", "views_per_edit": 2}, "views_per_edit: expected 3 or more with bandwidth paper, got 2"),
    ],
)
def test_what_the_engine_refuses_is_refused_here(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        EditSettings(**changes).check()
    EditSettings(bandwidth="paper", coupling="independent", views_per_edit=2).check()  # pyright: ignore[reportCallIssue]


def test_a_config_of_an_earlier_version_is_read() -> None:
    text = yaml.dump(CsdEditPipelineConfig(prompt="make it snowy", lr=0.25))  # pyright: ignore[reportCallIssue]
    lines = [line for line in text.splitlines() if "t_min" not in line]  # a setting that it did not have
    old = "\n".join(lines).replace(
        "csd3d.nerf.pipeline.CsdEditPipelineConfig", "csd3d.nerf.settings.CsdEditPipelineConfig"
    )
    config = yaml.load(old, Loader=yaml.Loader)
    assert isinstance(config, EditSettings)
    assert config.prompt == "make it snowy"
    assert (config.engine(builtin=True).lr, config.engine(builtin=True).t_min) == (0.25, 20)
