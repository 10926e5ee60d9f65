"""`csd3d video` with an editor of clips: windows in time are moved, and a run goes on, in the same bytes."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from csd3d.attention import masks
from csd3d.cli import cost
from csd3d.cli.main import main
from csd3d.media.clip.source import open_clip
from csd3d.priors.families.clips import ClipCodec
from csd3d.priors.families.table import FAMILIES
from video.window_particles import ClipWindows, SampledWindows

Made = tuple[Path, torch.Tensor]
MakeClip = Callable[..., Made]
FEW = ["--size", "64", "--device", "cpu", "--codec", "ffv1", "--window-frames", "9", "--overlap-frames", "4"]


def words(clip: Path, prior: Path, *more: str) -> list[str]:
    return ["video", str(clip), "--prompt", "make it snowy", "--prior", str(prior), *FEW, *more]


def spied(method: Callable[..., Any], see: Callable[[torch.Tensor], object]) -> Callable[..., Any]:
    """A method that shows its first argument."""

    def seen(self: object, first: torch.Tensor, *args: object, **more: object) -> Any:
        see(first)
        return method(self, first, *args, **more)

    return seen


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


@pytest.mark.slow
def test_cuts_and_times_part_a_clip_whose_frames_are_held_a_few_at_a_time(
    make_clip: MakeClip, tmp_path: Path, family_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, steps = set[int](), list[tuple[int, ...]]()
    monkeypatch.setattr(ClipCodec, "encode_next", spied(ClipCodec.encode_next, lambda rgb: held.add(len(rgb))))
    monkeypatch.setattr(ClipWindows, "move", spied(ClipWindows.move, lambda index: steps.append(tuple(index.tolist()))))
    clip, _ = make_clip(frames=26, height=48, width=64, cut=11)
    asked = words(clip, family_path("lucy"), "--lr", "200", "--steps", "1", "--fade", "0.16")
    asked[3] = "0-0.64s: make it snowy, 0.64-0.84s: make it night"  # a fade of frames 15 to 17, none from 21 on
    out = ["--run-dir", str(tmp_path / "run"), "--output", str(tmp_path / "out.mkv"), "--windows-per-step", "1"]
    assert main([*asked, *out]) == 0
    notes = json.loads((tmp_path / "run" / "manifest.json").read_text())["notes"]
    assert any("2 shots, cut at frames 11: each has a motion of its own" in note for note in notes)
    assert any("26 frames as 4 windows of 9 or fewer, in one shot and under one sentence" in note for note in notes)
    assert sorted(steps) == [(0,), (1,), (2,), (3,)], "frames 0-8, 1-10, 11-17 and, from the fade on, 15-20"
    assert held == {1, 4}
    before = np.load(tmp_path / "run" / "sources.npy")
    (after,) = (np.load(path) for path in (tmp_path / "run").glob("state-*-z.npy"))
    moved = np.abs(after - before).max((1, 2, 3)) > 0
    assert moved.tolist() == [True] * 10 + [False] * 2, "latents of frames outside all times stay"
    source, edited = frames_of(clip), frames_of(tmp_path / "out.mkv")
    assert (edited[21:] - source[21:]).abs().mean() < 0.005
    assert not torch.equal(edited[:21], source[:21])


@pytest.mark.slow
@pytest.mark.parametrize(("start", "levels"), [("noised", 2), ("inverted", 6)])
def test_windows_are_sampled_and_the_run_goes_on(
    start: str, levels: int, make_clip: MakeClip, tmp_path: Path, family_path: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    clip, _ = make_clip(frames=12, height=48, width=64)
    asked = words(clip, family_path("lucy"), "--by", "sampling", "--start", start, "--steps", "2")
    asked += ["--windows-per-step", "1"]
    whole, stopped = (
        [*asked, "--run-dir", str(tmp_path / name), "--output", str(tmp_path / f"{name}.mkv")]
        for name in ("whole", "stopped")
    )
    assert main(whole) == 0
    own, seen = SampledWindows.take, list[int]()

    def stopping(*args: Any) -> None:
        seen.append(1)
        if len(seen) == 3:  # the first window of a level, of which the other has not been heard
            signal.raise_signal(signal.SIGINT)  # in this thread, before the next line, however busy the machine is
        own(*args)

    monkeypatch.setattr(SampledWindows, "take", stopping)
    assert main(stopped) == 130
    assert main(["video", "--resume", "--run-dir", str(tmp_path / "stopped")]) == 0
    edited = frames_of(tmp_path / "whole.mkv")
    assert torch.equal(edited, frames_of(tmp_path / "stopped.mkv"))
    far = (edited - frames_of(clip)).abs().mean() > 0.002
    assert far == (start == "noised"), "an inverted clip comes back, as a random editor makes little of a sentence"
    manifest = json.loads((tmp_path / "stopped" / "manifest.json").read_text())
    assert manifest["steps_done"] == 2 * levels, "each window at each level"
    if start == "noised":
        assert len(np.load(tmp_path / "whole" / "noise.npy")) == 4, "one for each latent frame"
        assert main([*asked, "--preview", "--output", str(tmp_path / "look.png")]) == 0


@pytest.mark.slow
def test_masks_are_found_in_time(
    make_clip: MakeClip, tmp_path: Path, family_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LEVEL", 0.0), ("SPREAD", 9.0), ("WHOLE", 9.0), ("EDGE", 0.9)):
        monkeypatch.setattr(masks, name, value)  # a random model edits everything a little
    clip, _ = make_clip(frames=12, height=48, width=64)
    out = ["--run-dir", str(tmp_path / "run"), "--output", str(tmp_path / "out.mkv"), "--steps", "1", "--lr", "600"]
    assert main([*words(clip, family_path("lucy"), "--mask", "auto"), *out]) == 0
    found = frames_of(tmp_path / "run" / "mask")[:, :1]
    assert len(found) == 12
    assert 0 < found.mean() < 0.9
    latent = [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]
    pairs = [(i, j, float((found[i] - found[j]).abs().mean())) for i, j in combinations(range(12), 2)]
    same, other = ([d for i, j, d in pairs if (latent[i] == latent[j]) == equal] for equal in (True, False))
    assert max(same) < 0.6 * min(other), "frames of one latent frame have one map, which follows the edges of each"
    source, edited = frames_of(clip), frames_of(tmp_path / "out.mkv")
    change, outside = (edited - source).abs(), found == 0
    assert outside.float().mean() > 0.01
    assert (change * outside).max() == 0
    assert (change * found).sum() / found.sum() > 0.003


@pytest.mark.slow
@pytest.mark.parametrize("frames", [3, 12])
def test_a_preview_shows_frames_and_what_becomes_of_them(
    frames: int, make_clip: MakeClip, tmp_path: Path, family_path: Callable[[str], Path]
) -> None:
    clip, _ = make_clip(frames=frames, height=48, width=64)
    picture = tmp_path / "look.png"
    asked = ["--preview", "--output", str(picture), "--steps", "8"]
    asked += ["--prompt", "0-0.1s: make it snowy, 0.2-9s: make it night"] if frames == 12 else []
    assert main([*words(clip, family_path("lucy")), *asked]) == 0
    assert picture.stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "look.png"]


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        (["--window-frames", "8"], "window_frames: expected 1 more than a multiple of 4 with Lucy Edit, which edits"),
        (["--overlap-frames", "3"], "overlap_frames: expected a multiple of 4 below 9 with Lucy Edit"),
        (["--overlap-frames", "12"], "overlap_frames: expected a multiple of 4 below 9 with Lucy Edit"),
        (
            ["--keyframes", "2"],
            "keyframes: expected none with Lucy Edit, which edits clips: its windows hold every fra",
        ),
        (["--frames-per-step", "8"], "frames_per_step: expected 24 with Lucy Edit, which edits clips (see --windows-p"),
        (["--motion", "features"], "motion: expected flow with Lucy Edit, which edits clips and whose layers are not"),
        (["--coupling", "motion"], "coupling: expected svgd or independent with Lucy Edit"),
        (["--mask-words", "the ball"], "mask_words: expected none with Lucy Edit, which edits clips and whose layers"),
        (["--share", "anchors"], "share: expected none, Lucy Edit cannot see other particles"),
        (["--attention", "pnp"], "attention: expected a prior of Stable Diffusion's kind"),
        (["--prompt", "7-8s: make it snowy"], "prompt: expected times within the clip, which ends at 0.44 s"),
        (["--size", "8"], "size: expected at least 16 px"),
        (["--preview", "--keyframes", "2"], "keyframes: expected none with Lucy Edit"),
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
    monkeypatch.setattr(cost, "WINDOW", 9)
    monkeypatch.setattr(
        "csd3d.priors.store.resolve.FAMILIES", {"LucyEditPipeline": replace(FAMILIES["LucyEditPipeline"], side_px=64)}
    )
    assert main(["priors", "show", str(family_path("lucy")), "--measure", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "family: Lucy Edit, rows IT I0" in out
    assert "(weights and a row for a window of 9 frames in half precision" in out
    assert "measured at 64 px on cpu: " in out
    assert "s to decode a window of 9 frames" in out
    assert "a clip of 9 frames, " in out
