"""`csd3d video` with an editor of clips: windows in time are moved, and a run goes on, in the same bytes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from csd3d.cli import priors
from csd3d.cli.main import main
from csd3d.media.clip.source import open_clip
from csd3d.priors.families import load
from csd3d.priors.families.table import FAMILIES

Made = tuple[Path, torch.Tensor]
MakeClip = Callable[..., Made]
FEW = ["--size", "64", "--device", "cpu", "--codec", "ffv1", "--window-frames", "9", "--overlap-frames", "4"]


def words(clip: Path, prior: Path, *more: str) -> list[str]:
    return ["video", str(clip), "--prompt", "make it snowy", "--prior", str(prior), *FEW, *more]


def frames_of(path: Path) -> torch.Tensor:
    with open_clip(path) as clip:
        return clip.read(0, clip.info.frames)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", "200"), ("adam", "2")])
def test_a_clip_is_edited_in_windows_and_the_run_goes_on(
    optimizer: str, lr: str, make_clip: MakeClip, tmp_path: Path, family_path: Callable[[str], Path]
) -> None:
    clip, _ = make_clip(frames=12, height=48, width=64)
    asked = words(clip, family_path("lucy"), "--optimizer", optimizer, "--lr", lr, "--detail", "0.5")
    for name, steps in (("whole", "2"), ("first", "1")):
        out = ["--run-dir", str(tmp_path / name), "--output", str(tmp_path / f"{name}.mkv"), "--steps", steps]
        assert main([*asked, *out]) == 0
    edited = frames_of(tmp_path / "whole.mkv")
    assert len(edited) == 12
    assert not torch.equal(edited, frames_of(tmp_path / "first.mkv"))
    assert main(["video", "--resume", "--run-dir", str(tmp_path / "first"), "--steps", "2"]) == 0
    assert torch.equal(edited, frames_of(tmp_path / "first.mkv"))

    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    assert manifest["steps_done"] == 2
    assert manifest["numbers"]["network rows a particle"] == 2 * 3, "two branches of the edit, one of the source"
    assert any("it sees 12 frames as 2 windows of 9" in note for note in manifest["notes"])
    assert manifest["config"]["csd"]["s_text"] == 5.0
    left = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {"report.html", "sheet.png", "gradient.png", "sources.npy"} <= left
    assert not left & {"pictures.npy", "now-z.npy"}


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        (["--window-frames", "8"], "window_frames: expected 1 more than a multiple of 4 with Lucy Edit, which edits"),
        (["--overlap-frames", "3"], "overlap_frames: expected a multiple of 4 below 9 with Lucy Edit"),
        (["--overlap-frames", "12"], "overlap_frames: expected a multiple of 4 below 9 with Lucy Edit"),
        (["--max-frames", "4"], "clip: expected 5 frames or more with Lucy Edit, which edits clips, got 4"),
        (["--keyframes", "2"], "keyframes: expected none with Lucy Edit"),
        (["--frames-per-step", "8"], "frames_per_step: expected 24 with Lucy Edit"),
        (["--by", "sampling"], "by: expected moves with Lucy Edit"),
        (["--coupling", "motion"], "coupling: expected svgd or independent with Lucy Edit"),
        (["--mask", "auto"], "mask: expected a file with Lucy Edit"),
        (["--mask-words", "the ball"], "mask_words: expected none with Lucy Edit"),
        (["--share", "anchors"], "share: expected none, Lucy Edit cannot see other particles"),
        (["--attention", "pnp"], "attention: expected a prior of Stable Diffusion's kind"),
        (["--prompt", "0-0.1s: make it snowy"], "prompt: expected one sentence for the whole clip with Lucy Edit"),
        (["--size", "8"], "size: expected at least 16 px"),
        (["--preview"], "preview: expected a prior that edits pictures, got Lucy Edit, which edits clips as a whole"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    more: list[str], refusal: str, make_clip: MakeClip, tmp_path: Path, family_path: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    clip, _ = make_clip(frames=12, height=64, width=64)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(words(clip, family_path("lucy"), *more)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("csd3d video: ")]
    assert len(lines) == 1
    assert refusal in lines[0]
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written"


def test_frames_of_editors_of_pictures_have_no_windows(
    make_clip: MakeClip, family_path: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    clip, _ = make_clip(frames=5, height=64, width=64)
    assert main(words(clip, family_path("klein"), "--window-frames", "81")) == 2
    assert "overlap_frames: expected 20 with a prior that edits pictures, got 4" in capsys.readouterr().err


def test_show_says_what_a_window_needs(
    family_path: Callable[[str], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(priors, "WINDOW", 9)
    monkeypatch.setattr(load, "FAMILIES", {"LucyEditPipeline": replace(FAMILIES["LucyEditPipeline"], side_px=64)})
    assert main(["priors", "show", str(family_path("lucy")), "--measure", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "family: Lucy Edit, rows IT I0" in out
    assert "(weights and a row for a window of 9 frames in half precision" in out
    assert "measured at 64 px on cpu: " in out
    assert "s to decode a window of 9 frames" in out
    assert "a clip of 9 frames, " in out
