"""Named methods on clips, with a text-to-image prior: the same as on pictures."""

import json
from pathlib import Path

import pytest

from csd3d.cli import main
from csd3d.runs.manifest import Manifest
from tests.priors.tiny import write_tiny_prior


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image model that was trained at 32 px."""
    path = write_tiny_prior(tmp_path_factory.mktemp("prior") / "t2i", kind="text-to-image", closed=False)
    config = path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": 4}))
    return path


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
