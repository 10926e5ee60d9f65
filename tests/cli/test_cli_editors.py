"""From words to settings, the same for every editor: what a flag is, what it begins with, and what wins."""

import dataclasses
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from csd3d.cli import generate, panorama, translate, video
from csd3d.cli.editors import flags_for, read_request
from csd3d.cli.main import main
from csd3d.cli.parse import Group, read_flags
from csd3d.engine.config import METHODS, PAPER, CsdConfig
from csd3d.priors.defaults import BUILTIN, default_config
from csd3d.runs.settings import field_help

FORMS = {
    "video": video.FORM, "panorama": panorama.PANORAMA, "image": panorama.IMAGE, "generate": generate.FORM,
    "translate": translate.TRAIN,
}  # fmt: skip


def config_of(*words):
    """The settings of `csd3d video WORDS`."""
    return read_request(video.FORM, words)[0].config


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_setting_is_a_flag_with_a_help_and_says_what_leaving_it_out_means(form):
    flags = flags_for(form)
    own = {f.name for f in dataclasses.fields(form.editor.settings())} - {"csd"} - set(form.without)
    assert own <= set(flags)
    assert {f.name for f in dataclasses.fields(CsdConfig)} <= set(flags)
    for flag in flags.values():
        assert flag.help, flag.name
        if flag.default is None and flag.name not in ("prompt", "source_prompt", "preset", "pictures"):
            assert re.search(r"None: .+\.$", flag.help), flag


@pytest.mark.parametrize("name", FORMS)
def test_help_shows_real_defaults(name, capsys):
    words = ["translate", "train"] if name == "translate" else [name]
    assert main([*words, "--help"]) == 0
    page = capsys.readouterr().out
    assert "(default: None)" not in page
    assert "None:" not in page
    for flag in ("--t-min", "--repulsion", "--bandwidth", "--optimizer", "--nce-weight"):
        assert flag in page
    flags = re.findall(r"--[a-z-]+", page)
    assert flags.index("--prior") < 12, "what everybody needs comes first"
    assert flags.index("--preset") < flags.index("--t-min")


def test_help_of_a_field_is_the_docstring_under_it_and_of_those_it_inherits():
    help_of = field_help(type(video.FORM.editor.settings()))
    assert help_of["seed"] == "Seed of all randomness: same seed, same result."
    assert help_of["fade"].startswith("Seconds of cross-fade")


def test_default_settings_depend_on_the_prior(monkeypatch):
    assert config_of().csd == BUILTIN
    for kind in ("instruct", "text-to-image"):  # of a hub id only its files tell
        monkeypatch.setattr("csd3d.priors.auto.find_prior", lambda found, kind=kind, **_: replace(found, kind=kind))
        assert config_of("--prior", "a/b").csd == default_config(builtin=False, kind=kind, of="frames")


@pytest.mark.parametrize("effort", ["quick", "normal", "careful"])
def test_effort_sets_steps_and_flags_win(effort):
    assert config_of("--effort", effort).csd == default_config(builtin=True, effort=effort)
    assert config_of("--effort", effort, "--lr", "0.25").csd == replace(
        default_config(builtin=True, effort=effort), lr=0.25
    )
    captions = default_config("dds", builtin=True, effort=effort)
    words = ("--method", "dds", "--prior", "builtin:t2i", "--source-prompt", "a red cube")
    assert config_of(*words, "--effort", effort).csd == captions


def test_effort_is_the_product_of_steps_and_length():
    for builtin in (True, False):
        quick, normal, careful = (default_config(builtin=builtin, effort=e) for e in ("quick", "normal", "careful"))
        assert quick.steps < normal.steps < careful.steps
        assert quick.lr > normal.lr > careful.lr
    assert default_config(builtin=False) == replace(METHODS["csd-edit"], lr=0.45), "big priors keep the published way"
    assert default_config("dds", builtin=False) == PAPER["dds"]


def test_a_resumed_run_keeps_its_effort(tmp_path):
    with pytest.raises(ValueError, match="effort: expected none with --resume"):
        config_of("--resume", "--run-dir", str(tmp_path), "--effort", "quick")


def test_flags_go_before_the_preset_and_the_preset_before_the_prior(tmp_path):
    preset = tmp_path / "p.json"
    preset.write_text(json.dumps({"detail": 0.5, "csd": {"lr": 2, "steps": 7}}))
    config = config_of("--preset", str(preset), "--steps", "9", "--crf", "20")
    assert config.csd is not None
    assert (config.detail, config.crf, config.csd.lr, config.csd.steps) == (0.5, 20, 2.0, 9)
    assert config.csd.s_text == BUILTIN.s_text
    assert config_of("--preset", "paper").csd == PAPER["csd-edit-video"]


def test_unknown_keys_and_files_of_presets_are_refused(tmp_path):
    preset = tmp_path / "p.json"
    preset.write_text(json.dumps({"csd": {"learning_rate": 1}}))
    with pytest.raises(ValueError, match=r"preset.csd: expected names among .*lr.*; got learning_rate"):
        config_of("--preset", str(preset))
    preset.write_text("[]")
    with pytest.raises(ValueError, match="JSON object"):
        config_of("--preset", str(preset))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        config_of("--preset", str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match="paper"):
        config_of("--preset", "nice")


def test_methods_bring_their_settings_and_can_be_combined():
    dds = config_of("--method", "dds", "--prior", "a/b", "--source-prompt", "a dog", "--coupling", "svgd")
    assert dds.source_prompt == "a dog"
    assert dds.csd == replace(PAPER["dds"], coupling="svgd")
    csd = config_of("--coupling", "independent").csd
    assert csd is not None
    assert csd.coupling == "independent"
    along = config_of("--coupling", "motion", "--no-steady")
    assert (along.steady, along.csd and along.csd.coupling) == (False, "motion")
    assert METHODS["dds"].coupling == "independent"


def test_any_setting_of_the_engine_is_reached():
    config = config_of(
        "--t-min", "30", "--nce-patch-sizes", "1", "2", "4", "--bandwidth", "0.5", "--kernel-on", "clean"
    )
    assert config.csd is not None
    csd = config.csd
    assert (csd.t_min, csd.nce_patch_sizes, csd.bandwidth, csd.kernel_on) == (30, (1, 2, 4), 0.5, "clean")


def test_frame_rates_are_exact_fractions():
    assert config_of("--fps", "30000/1001").fps == Fraction(30000, 1001)
    assert config_of("--fps", "23.976").fps == Fraction(23976, 1000)
    for text in ("fast", "1/0"):
        with pytest.raises(ValueError, match="fps: expected a number"):
            config_of("--fps", text)


@pytest.mark.parametrize(
    ("words", "near"), [(["--stepz", "3"], "--steps"), (["--coupling", "svdg"], "svgd"), (["--t-mim", "3"], "--t-min")]
)
def test_near_misses_are_told_the_right_word(words, near, capsys):
    assert main(["video", "clip.mp4", "--prompt", "x", *words]) == 2
    assert near in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "clip.mp4 --prompt snow --steps 3 --lr=0.5 --t_min 5",
        "--prompt-at 0=a --prompt-at 1=b --size 64 clip.mp4",
        "--resume --run-dir a",
        "clip.mp4 --no-detail",
        "clip.mp4 --steps many",
        "clip.mp4 --by walking",
        "clip.mp4 --steps",
        "clip.mp4 other.mp4 --steps 3",
        "clip.mp4 --size -5",
        "",
    ],
)
def test_flags_that_are_named_are_read_as_among_all_of_them(words, monkeypatch):
    """Only these are handed to tyro; what comes of words, or is said of a mistake, is the same."""

    def outcome():
        try:
            return read_flags(groups, words.split(), prog="csd3d video", about="")
        except ValueError as mistake:
            return str(mistake)

    flags = list(flags_for(video.FORM).values())
    groups = (Group("main", "", tuple(flags[:40])), Group("engine", "Settings.", tuple(flags[40:])))
    named = outcome()
    monkeypatch.setattr("csd3d.cli.parse._named_groups", lambda groups, argv: groups)
    assert outcome() == named


def test_missing_clip_prompt_or_run_dir_is_one_line():
    for words, match in (
        (["--prompt", "x"], "a clip"),
        (["a.mp4"], "a sentence"),
        (["--resume"], "--run-dir"),
    ):
        with pytest.raises(ValueError, match=match):
            video.main(words)


def test_regions_are_given_one_by_one(tmp_path):
    words = ["a.png", "--prompt-at", "0,0.5=make it night", "--prompt-at", "0.5,1=make it snowy"]
    request, extras = read_request(panorama.PANORAMA, words)
    assert request.config.prompt_at == ("0,0.5=make it night", "0.5,1=make it snowy")
    assert extras["pictures"] == (Path("a.png"),)


def test_a_published_setting_of_windows_follows_the_prior():
    request, _ = read_request(panorama.PANORAMA, ["a.png", "--preset", "paper"])
    assert (request.config.draw, request.config.smooth, request.config.stride) == ("random", False, 4)


def test_pictures_from_captions_take_the_method_that_suits():
    ddim, _ = read_request(generate.FORM, ["--method", "ddim"])
    csd, _ = read_request(generate.FORM, ["--n", "2"])
    assert (ddim.config.method, ddim.config.engine.steps) == ("ddim", 50)
    assert (csd.config.n, csd.config.engine.steps, csd.config.engine.optimizer) == (2, 200, "adam")
