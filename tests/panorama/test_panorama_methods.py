"""Named methods on pictures: each one is a combination that the prior serves, or is refused with the reason."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image

from csd3d.cli.main import main
from csd3d.engine.config import METHODS, Method
from csd3d.priors.auto import load_prior
from csd3d.priors.defaults import default_config, default_prior
from csd3d.priors.latent_diffusion import LatentDiffusion
from csd3d.priors.networks.denoiser import Denoiser
from csd3d.priors.prior import Prior, Prompts
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from panorama import PanoramaConfig, edit_panorama
from tests.priors.tiny import write_tiny_prior


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image model that was trained at 32 px."""
    return write_tiny_prior(tmp_path_factory.mktemp("prior") / "t2i", kind="text-to-image", closed=False, sample_size=4)


@pytest.mark.parametrize("method", ["sds", "csd", "dds", "cds"])
def test_a_method_is_its_residual_coupling_and_regulariser(
    photo: Path, prior: Path, tmp_path: Path, method: str
) -> None:
    words = ["image", str(photo), "--prompt", "a blue ball", "--source-prompt", "a red ball", "--prior", str(prior)]
    assert main([*words, "--method", method, "--steps", "2", "--run-dir", str(tmp_path / "run")]) == 0
    manifest = Manifest.read(tmp_path / "run" / "manifest.json")
    assert manifest.config["source_prompt"] == "a red ball"
    for name in ("residual", "coupling", "regulariser"):
        assert manifest.config["csd"][name] == getattr(METHODS[method], name)
    edited = np.array(Image.open(tmp_path / "run" / "edited.png"))
    assert not np.array_equal(edited, np.array(Image.open(photo)))


def test_any_other_combination_is_as_good(photo: Path, prior: Path, tmp_path: Path) -> None:
    words = ["panorama", str(photo), "--prompt", "a", "--source-prompt", "b", "--prior", str(prior), "--method", "dds"]
    assert main([*words, "--coupling", "svgd", "--steps", "1", "--run-dir", str(tmp_path / "run")]) == 0
    csd = Manifest.read(tmp_path / "run" / "manifest.json").config["csd"]
    assert (csd["residual"], csd["coupling"]) == ("source", "svgd")


@pytest.mark.parametrize(
    ("name", "method"),
    [("image", "csd"), ("image", "cds"), ("generate", "csd"), ("generate", "ddim")],
)
def test_a_prediction_that_is_no_number_is_one_line_and_harms_nothing(
    photo: Path,
    prior: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    method: str,
) -> None:
    words = [name, "--prompt", "a blue ball", "--prior", str(prior), "--method", method, "--steps", "3"]
    words += ["--n", "1"] if name == "generate" else [str(photo), "--source-prompt", "a red ball"]
    assert main([*words, "--run-dir", str(tmp_path / "whole")]) == 0
    calls: list[int] = []
    predict = Denoiser.predict

    def fails(self: Denoiser, *args: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        several = 2 if METHODS.get(method, METHODS["sds"]).residual == "source" else 1
        return predict(self, *args, **options) * (float("nan") if len(calls) == 2 * several + 1 else 1.0)

    monkeypatch.setattr(Denoiser, "predict", fails)
    capsys.readouterr()
    run_dir = tmp_path / "run"
    assert main([*words, "--run-dir", str(run_dir)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    what = "prediction" if method == "ddim" else "residual"
    assert re.fullmatch(rf"csd3d {name}: {what} is not finite at step 2, timestep \d+, for particles \[0\]", error)
    assert Manifest.read(run_dir / "manifest.json").status == "failed"
    monkeypatch.undo()
    assert main([name, "--resume", "--run-dir", str(run_dir)]) == 0
    (picture,) = (p for p in Manifest.read(run_dir / "manifest.json").written)
    assert Path(picture).read_bytes() == (tmp_path / "whole" / Path(picture).name).read_bytes()


def test_pixels_that_are_no_numbers_are_one_line_and_harm_nothing(
    photo: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["image", str(photo), "--prompt", "a blue ball", "--prior", str(prior), "--method", "csd", "--steps", "2"]
    assert main([*words, "--run-dir", str(tmp_path / "whole")]) == 0
    decode: Any = AutoencoderKL.decode

    def fails(self: AutoencoderKL, z: torch.Tensor) -> Any:
        out = decode(self, z)
        out.sample[0, 0, 0, 0] = float("nan")
        return out

    monkeypatch.setattr(AutoencoderKL, "decode", fails)
    capsys.readouterr()
    run_dir = tmp_path / "run"
    assert main([*words, "--run-dir", str(run_dir)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == "csd3d image: what the prior's autoencoder decodes is not finite, for pictures [0]"
    assert not (run_dir / "edited.png").exists()
    monkeypatch.undo()
    assert main(["image", "--resume", "--run-dir", str(run_dir)]) == 0
    assert (run_dir / "edited.png").read_bytes() == (tmp_path / "whole" / "edited.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--method", "dds"], "source-prompt: expected what the source shows"),
        (["--method", "cds"], "source-prompt: expected what the source shows"),
        ([], "source-prompt: expected what the source shows"),
        (
            ["--method", "cds", "--prior", "builtin", "--source-prompt", "a ball"],
            "an instruction editor reads the source",
        ),
    ],
)
def test_what_a_prior_cannot_serve_is_refused_with_the_reason(
    photo: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], match: str
) -> None:
    given = words if "--prior" in words else [*words, "--prior", str(prior)]
    assert main(["image", str(photo), "--prompt", "make it snowy", *given, "--run-dir", str(tmp_path / "run")]) == 2
    assert match in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_settings_suit_the_prior_from_python_as_from_the_command_line(
    photo: Path, prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["image", str(photo), "--prompt", "a blue ball", "--source-prompt", "a red ball", "--prior", str(prior)]
    assert main([*words, "--steps", "1", "--run-dir", str(tmp_path / "command")]) == 0
    asked = Manifest.read(tmp_path / "command" / "manifest.json").config["csd"]
    monkeypatch.setattr(
        LatentDiffusion, "defaults", lambda prior, **asked: replace(Prior.defaults(prior, **asked), steps=1)
    )
    config = PanoramaConfig(prior=str(prior), source_prompt="a red ball")
    edit_panorama(photo, "a blue ball", None, config, run_dir=tmp_path / "python", progress=RunProgress(quiet=True))
    assert Manifest.read(tmp_path / "python" / "manifest.json").config["csd"] == asked
    assert asked["weight"] == "one", "what suits a text-to-image model, not an instruction editor"


def test_settings_suit_the_method_and_the_prior() -> None:
    assert default_config("csd-edit", builtin=False) == replace(METHODS["csd-edit"], lr=0.45)
    methods: tuple[Method, ...] = ("sds", "csd", "dds", "cds")
    for method in methods:
        config = default_config(method, builtin=False)
        assert (config.t_min, config.t_max, config.weight) == (50, 950, "one"), "as published for dds and cds"
        assert config.lr == pytest.approx(0.1 * 2000 / 64**2)
        assert default_config(method, builtin=True).residual == METHODS[method].residual
    for builtin in (False, True):
        plain = default_config(builtin=builtin, kind="text-to-image")
        coupled = default_config("dds", builtin=builtin, kind="text-to-image")
        assert plain == replace(coupled, coupling="svgd"), "what csd-edit is, with settings for captions"
        assert default_config(builtin=builtin, kind=None) == default_config(builtin=builtin), (
            "as an editor, until it is known"
        )
    assert default_prior(None) == default_prior("csd-edit") == "builtin"
    assert default_prior("dds") == "builtin:t2i"


def test_an_instruction_editor_is_found_by_its_files(tmp_path: Path) -> None:
    editor = load_prior(write_tiny_prior(tmp_path / "editor"))
    assert editor.kind == "instruct"
    score = editor.score_under(METHODS["csd-edit"], Prompts("make it snowy"))
    assert score.schedule.num_timesteps == 1000
