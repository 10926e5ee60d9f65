"""Named methods on clips, with a text-to-image prior: the same as on pictures."""

from dataclasses import replace
from pathlib import Path

import pytest

from csd3d.cli.main import main
from csd3d.priors.auto import load_prior
from csd3d.priors.latent_diffusion import LatentDiffusion
from csd3d.priors.prior import Prior
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from tests.priors.tiny import write_tiny_prior
from video import VideoConfig, edit_video
from video import preview as previews
from video.preview import preview_video


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image model that was trained at 32 px."""
    return write_tiny_prior(tmp_path_factory.mktemp("prior") / "t2i", kind="text-to-image", closed=False, sample_size=4)


def test_dds_with_svgd_edits_a_clip(make_clip, prior, tmp_path):
    clip, _ = make_clip(frames=2)
    words = ["video", str(clip), "--prompt", "a blue ball", "--source-prompt", "a red ball", "--prior", str(prior)]
    run_dir = tmp_path / "run"
    assert main([*words, "--method", "dds", "--coupling", "svgd", "--steps", "1", "--run-dir", str(run_dir)]) == 0
    manifest = Manifest.read(run_dir / "manifest.json")
    csd = manifest.config["csd"]
    assert (manifest.status, csd["residual"], csd["coupling"]) == ("finished", "source", "svgd")


def test_what_the_prior_cannot_serve_is_refused_before_anything_is_written(make_clip, prior, tmp_path, capsys):
    clip, _ = make_clip(frames=2)
    words = ["video", str(clip), "--prompt", "a blue ball", "--prior", str(prior), "--run-dir", str(tmp_path / "run")]
    assert main([*words, "--method", "cds"]) == 2
    assert "source-prompt: expected what the source shows" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_settings_suit_the_prior_from_python_as_from_the_command_line(make_clip, prior, tmp_path, monkeypatch):
    """A text-to-image model is not given what an instruction editor wants, whoever asks."""
    clip, _ = make_clip(frames=2)
    words = ["video", str(clip), "--prompt", "a blue ball", "--source-prompt", "a red ball", "--prior", str(prior)]
    assert main([*words, "--steps", "1", "--run-dir", str(tmp_path / "command")]) == 0
    asked = Manifest.read(tmp_path / "command" / "manifest.json").config["csd"]
    assert (asked["residual"], asked["coupling"]) == ("source", "svgd")
    assert (asked["t_min"], asked["t_max"], asked["weight"]) == (50, 950, "one")

    monkeypatch.setattr(
        LatentDiffusion, "defaults", lambda prior, **asked: replace(Prior.defaults(prior, **asked), steps=1)
    )
    config = VideoConfig(prior=str(prior), source_prompt="a red ball")
    edit_video(clip, "a blue ball", None, config, run_dir=tmp_path / "python", progress=RunProgress(quiet=True))
    assert Manifest.read(tmp_path / "python" / "manifest.json").config["csd"] == asked

    seen = []
    monkeypatch.setattr(previews, "run", lambda particles, objective, rng: (seen.append(objective.config), iter(()))[1])
    preview_video(clip, "a blue ball", tmp_path / "first.png", config, prior=load_prior(prior))
    assert (seen[0].weight, seen[0].t_max) == ("one", 950)
