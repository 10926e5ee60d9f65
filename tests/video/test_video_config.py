"""Settings are checked at the door, and built from flags in the order prior, preset, flag."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from csd3d.cli.video import Command, build_config, run
from csd3d.engine.config import METHODS, PAPER, CsdConfig
from csd3d.priors.editor import BUILTIN, recommended
from csd3d.runs.manifest import to_plain
from csd3d.runs.settings import override
from video.config import VideoConfig


@pytest.fixture(autouse=True)
def _any_prior(monkeypatch):
    """Names resolve without weights."""

    class Found:
        def __init__(self, name):
            self.builtin = name == "builtin"
            self.kind = "instruct" if self.builtin else None

    monkeypatch.setattr("csd3d.priors.editor.resolve", Found)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"size": 4}, ValueError, "size: expected 8 or more, got 4"),
        ({"frames_per_step": 0}, ValueError, "frames_per_step"),
        ({"frames_per_step": 2.5}, TypeError, "whole number"),
        ({"draw": "random"}, ValueError, "stratified or window"),
        ({"detail": 1.5}, ValueError, "0 to 1"),
        ({"detail": float("nan")}, ValueError, "0 to 1"),
        ({"crf": 52}, ValueError, "0 to 51"),
        ({"seed": -1}, ValueError, "seed"),
        ({"motion": True, "csd": CsdConfig(coupling="independent")}, ValueError, "coupled frames"),
        ({"max_frames": 0}, ValueError, "max_frames"),
        ({"fps": Fraction(0)}, ValueError, "fps"),
        ({"checkpoint_every": True}, TypeError, "whole number"),
    ],
)
def test_refusals(change, error, match):
    config = VideoConfig()  # values are put in by hand: the shape checker of the tests would refuse some before us
    for name, value in change.items():
        object.__setattr__(config, name, value)
    with pytest.raises(error, match=match):
        config.__post_init__()


def test_recommended_settings_depend_on_the_prior(monkeypatch):
    assert recommended(True) is BUILTIN
    assert recommended(False) is METHODS["csd-edit"]
    assert build_config(Command()).csd == BUILTIN
    for kind in ("instruct", "text-to-image"):  # of a hub id only its files tell
        monkeypatch.setattr("csd3d.priors.auto.find_kind", lambda name, device, kind=kind: kind)
        assert build_config(Command(prior="a/b")).csd == recommended(False, kind=kind)


def test_flags_go_before_the_preset_and_the_preset_before_the_prior(tmp_path):
    preset = tmp_path / "p.json"
    preset.write_text(json.dumps({"detail": 0.5, "csd": {"lr": 2, "steps": 7}}))
    config = build_config(Command(preset=str(preset), steps=9, crf=20))
    assert config.csd is not None
    assert (config.detail, config.crf, config.csd.lr, config.csd.steps) == (0.5, 20, 2.0, 9)
    assert config.csd.s_text == BUILTIN.s_text
    assert build_config(Command(preset="paper")).csd == PAPER["csd-edit-video"]


def test_unknown_keys_and_files_of_presets_are_refused(tmp_path):
    preset = tmp_path / "p.json"
    preset.write_text(json.dumps({"csd": {"learning_rate": 1}}))
    with pytest.raises(ValueError, match=r"preset.csd: expected names among .*lr.*; got learning_rate"):
        build_config(Command(preset=str(preset)))
    preset.write_text("[]")
    with pytest.raises(ValueError, match="JSON object"):
        build_config(Command(preset=str(preset)))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        build_config(Command(preset=str(tmp_path / "none.json")))
    with pytest.raises(ValueError, match="paper"):
        build_config(Command(preset="nice"))


def test_methods_bring_their_settings_and_can_be_combined():
    dds = build_config(Command(method="dds", prior="a/b", source_prompt="a dog", coupling="svgd"))
    assert dds.source_prompt == "a dog"
    assert dds.csd == replace(PAPER["dds"], coupling="svgd")
    csd = build_config(Command(method="csd-edit", coupling="independent")).csd
    assert csd is not None
    assert csd.coupling == "independent"
    along = build_config(Command(coupling="motion", no_steady=True))
    assert (along.motion, along.steady, along.csd and along.csd.coupling) == (True, False, "svgd")


def test_frame_rates_are_exact_fractions():
    assert build_config(Command(fps="30000/1001")).fps == Fraction(30000, 1001)
    assert build_config(Command(fps="23.976")).fps == Fraction(23976, 1000)
    for text in ("fast", "1/0"):
        with pytest.raises(ValueError, match="fps: expected a number"):
            build_config(Command(fps=text))


def test_missing_clip_prompt_or_run_dir_is_one_line():
    for command, match in (
        (Command(prompt="x"), "a clip"),
        (Command(clip=Path("a.mp4")), "a sentence"),
        (Command(resume=True), "--run-dir"),
    ):
        with pytest.raises(ValueError, match=match):
            run(command)


def test_settings_survive_the_manifest():
    config = VideoConfig(csd=CsdConfig(lr=1.0, bandwidth=0.5), fps=Fraction(30000, 1001), size=64)
    plain = json.loads(json.dumps(to_plain(config)))
    assert override(VideoConfig(), plain) == config
    assert override(VideoConfig(), json.loads(json.dumps(to_plain(VideoConfig())))) == VideoConfig()
