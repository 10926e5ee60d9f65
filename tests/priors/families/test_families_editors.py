"""The editors as they are, driven by tiny families through `--prior` alone; runs go on where they were stopped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from csd3d.cli.main import main
from csd3d.media.clip.source import open_clip
from csd3d.media.pictures.levels import read_levels, to_levels
from csd3d.media.pictures.write import write_picture

pytestmark = pytest.mark.slow

FEW = ["--size", "64", "--device", "cpu"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_picture(tmp_path / "photo.png", to_levels(torch.rand(3, 64, 80)))
    return tmp_path / "photo.png"


def frames_of(path: Path) -> torch.Tensor:
    with open_clip(path) as clip:
        return clip.read(0, clip.info.frames)


@pytest.mark.parametrize("name", ["klein", "dreamlite"])
def test_a_photo_is_edited_and_the_run_goes_on(
    name: str, photo: Path, tmp_path: Path, family_path: Callable[[str], Path]
) -> None:
    whole, first = tmp_path / "whole", tmp_path / "first"
    words = ["image", str(photo), "--prompt", "make it snowy", "--prior", str(family_path(name)), *FEW]
    assert main([*words, "--run-dir", str(whole), "--output", str(tmp_path / "whole.png"), "--steps", "2"]) == 0
    assert main([*words, "--run-dir", str(first), "--output", str(tmp_path / "first.png"), "--steps", "1"]) == 0
    assert main(["image", "--resume", "--run-dir", str(first), "--steps", "2"]) == 0
    a, b = (read_levels(tmp_path / f"{stem}.png") for stem in ("whole", "first"))
    assert (a == b).all()
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["prior"]["kind"] == "instruct"
    assert len(manifest["prior"]["fingerprint"]) == 64
    assert manifest["config"]["csd"]["s_text"] == {"klein": 4.0, "dreamlite": 3.5}[name]


def test_a_clip_is_edited_and_the_run_goes_on(
    make_clip: Callable[..., tuple[Path, torch.Tensor]], tmp_path: Path, family_path: Callable[[str], Path]
) -> None:
    clip, _ = make_clip(frames=3, height=64, width=64)
    words = ["video", str(clip), "--prompt", "make it snowy", "--prior", str(family_path("dreamlite")), *FEW]
    words += ["--codec", "ffv1"]
    for name, steps in (("whole", "2"), ("first", "1")):
        out = ["--run-dir", str(tmp_path / name), "--output", str(tmp_path / f"{name}.mkv"), "--steps", steps]
        assert main([*words, *out]) == 0
    assert main(["video", "--resume", "--run-dir", str(tmp_path / "first"), "--steps", "2"]) == 0
    assert torch.equal(*(frames_of(tmp_path / f"{name}.mkv") for name in ("whole", "first")))


def test_captions_edit_through_a_flow_model(photo: Path, tmp_path: Path, family_path: Callable[[str], Path]) -> None:
    words = ["image", str(photo), "--prompt", "a snowy house", "--source-prompt", "a house", "--method", "dds"]
    words += ["--prior", str(family_path("sd3")), "--steps", "2", *FEW, "--run-dir", str(tmp_path / "run")]
    assert main([*words, "--output", str(tmp_path / "out.png")]) == 0
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["config"]["csd"]["s_text"] == 7.0


def test_a_panorama_has_windows_of_whole_tokens(
    photo: Path, tmp_path: Path, family_path: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["panorama", str(photo), "--prompt", "make it snowy", "--prior", str(family_path("kontext")), *FEW]
    words += ["--steps", "1", "--output", str(tmp_path / "out.png"), "--run-dir", str(tmp_path / "run")]
    assert main([*words, "--window", "31"]) == 2
    assert "window: expected a multiple of 2 latents" in capsys.readouterr().err
    assert main([*words, "--window", "32"]) == 0


def test_show_says_family_licence_and_memory(
    tmp_path: Path, family_path: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "klein"
    shutil.copytree(family_path("klein"), copy)
    (copy / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\nlicense: other\n")
    assert main(["priors", "show", str(copy)]) == 0
    out = capsys.readouterr().out
    assert "instruct" in out
    assert "family: FLUX.2 [klein], rows IT I0" in out
    assert "licence by its card: apache-2.0" in out
    assert "memory for weights: 0.001 GB (" in out
    assert "transformer 0.000" in out
    assert "memory needed: " in out
