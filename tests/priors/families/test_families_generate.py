"""Pictures from captions by families: sampled as their stock pipelines do it, or moved together as any prior's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from csd3d.cli.main import main
from csd3d.priors.families.conditions import arguments_of
from csd3d.priors.families.prior import FamilyPrior, FamilyTextToImage
from csd3d.priors.families.replay import laid, untokens
from csd3d.priors.prior import Guidance, Prompts
from csd3d.runs.manifest import Manifest

Write = Callable[[str], Path]
Load = Callable[[str], FamilyPrior]
MAKERS = ["sdxl", "sd3", "flux", "qwen-image", "z-image", "pixart", "pixart-alpha", "sana"]
SIDE, STEPS = 64, 4


@pytest.mark.parametrize("name", MAKERS)
def test_four_steps_end_where_those_of_the_pipeline_do(
    name: str, family: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = family(name)
    assert isinstance(prior, FamilyTextToImage)
    pipe: Any = DiffusionPipeline.from_pretrained(str(prior.path), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    if name.startswith(("pixart", "sana")):  # whose real scheduler remembers the step before
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, solver_order=2)
        monkeypatch.setattr(prior.pipe, "scheduler", pipe.scheduler)
    for scale in (1.0, 3.0):
        theirs, ours, noise = sampled_by_both(pipe, prior, scale)
        assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, float(theirs.abs().max())), scale
        assert (ours - noise).abs().max() > 0.1


def sampled_by_both(
    pipe: Any, prior: FamilyTextToImage, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the pipeline makes of a noise, what the prior does, and the noise."""
    shape = (1, prior.codec.channels, SIDE // prior.codec.factor, SIDE // prior.codec.factor)
    noise = torch.randn(shape)
    call = arguments_of(prior.family, "a red ball", "", None, text=scale) | {"height": SIDE, "width": SIDE}
    call |= {
        "latents": laid(noise, prior.family.layout, channels=prior.codec.channels),
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    theirs = pipe(**prior.family.call, **call)[0].float()
    theirs = untokens(theirs, "packed" if theirs.ndim == 3 else "plain", shape)
    score, index = prior.score(Prompts("a red ball"), Guidance(scale)), torch.arange(1)

    def predict(z_in: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return score.output(z_in, t, index)

    return theirs, prior.denoise(predict, shape, noise, torch.Generator(), steps=STEPS), noise


@pytest.mark.parametrize(
    ("name", "method"), [("sdxl", "csd"), ("sd3", "ddim"), ("qwen-image", "ddim"), ("flux", "sds")]
)
def test_pictures_and_wide_ones_are_made_and_made_again(
    name: str, method: str, tmp_path: Path, family_path: Write
) -> None:
    words = ["generate", "--prompt", "a red ball", "--prior", str(family_path(name)), "--device", "cpu", "--n", "2"]
    words += ["--steps", "2", "--method", method, "--height", "64", "--width", "96"]
    for run in ("a", "b"):
        out = ["--output", str(tmp_path / f"{run}.png"), "--run-dir", str(tmp_path / run)]
        assert main([*words, *out]) == 0
    first, second = ([np.array(Image.open(tmp_path / f"{run}-{k}.png")) for k in (1, 2)] for run in ("a", "b"))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)), "same seed, same bytes"
    assert first[0].shape == (64, 96, 3)
    assert not np.array_equal(first[0], first[1])
    assert Manifest.read(tmp_path / "a" / "manifest.json").status == "finished"


def test_the_sampler_takes_what_the_pipeline_takes(family: Load) -> None:
    flux, sd3 = family("flux"), family("sd3")
    assert isinstance(flux, FamilyTextToImage)
    assert isinstance(sd3, FamilyTextToImage)
    assert (flux.generation("ddim").s_text, flux.generation("ddim").steps) == (1.0, 28)
    assert (sd3.generation("ddim").s_text, sd3.generation("csd").s_text) == (7.0, 30.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steer", "conform"], "steer: expected a prior of Stable Diffusion's kind, whose attention can be read"),
        (["--pick", "2"], "pick: expected a prior of Stable Diffusion's kind"),
        (["--attention", "structure"], "attention: expected a prior of Stable Diffusion's kind"),
        (["--width", "66"], "width: expected a multiple of 4 px, got 66"),
    ],
)
def test_what_no_family_offers_is_refused_in_one_line(
    flags: list[str], message: str, tmp_path: Path, family_path: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--prompt", "a red ball and a blue cube", "--prior", str(family_path("sd3"))]
    assert main([*words, *flags, "--device", "cpu", "--run-dir", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr().err.strip()
    assert message in captured
    assert len(captured.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_editor_makes_no_pictures_of_captions(
    family_path: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--prompt", "a ball", "--prior", str(family_path("klein")), "--run-dir", str(tmp_path / "run")]
    assert main(words) == 2
    assert "expected a text-to-image model, got an instruction editor" in capsys.readouterr().err
