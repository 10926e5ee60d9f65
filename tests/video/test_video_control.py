"""What a person can say besides the sentence: where, when, how strongly, how quickly; and edits of edits."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from video_toys import toy_edit

from csd3d.cli.main import main
from csd3d.engine.config import CsdConfig
from csd3d.media.clip.source import open_clip
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from tests.clips import moving_picture
from tests.toys import ToyPrior
from video import VideoConfig
from video.preview import preview_video

CSD = CsdConfig(steps=30, lr=0.2, t_min=400, t_max=600)
CONFIG = VideoConfig(csd=CSD, frames_per_step=4, chunk_frames=3, codec="ffv1")


def edit(clip, run_dir, prompt="make it red", *, config=CONFIG, **options):
    return toy_edit(clip, run_dir, prompt, config=config, **options)


def frames_of(path):
    with open_clip(Path(path)) as clip:
        return clip.read(0, clip.info.frames, exact=True)


@pytest.mark.parametrize("feather", [0.0, 5.0])
@pytest.mark.parametrize("options", [{}, {"keyframes": 2}])
def test_outside_a_mask_every_bit_stays(make_clip, tmp_path, feather, options):
    path, _ = make_clip(frames=5, pix_fmt="yuv420p")
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 20:50] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    config = replace(CONFIG, mask=str(tmp_path / "mask.png"), feather=feather, **options)
    before, after = frames_of(path), frames_of(edit(path, tmp_path / "run", config=config).path)
    outside = torch.from_numpy(mask == 0)
    assert torch.equal(after[:, :, outside], before[:, :, outside])
    change = (after - before).abs().mean((0, 1))
    inside, edge = change[10:30, 20:50], change[18:22, 20:22]
    assert inside.mean() > 0.1
    assert edge.mean() < 0.5 * inside.max() if feather else edge.mean() > 0.6 * change[18:22, 22:30].mean()


def test_averages_along_motion_do_not_carry_an_edit_out_of_a_mask_that_moves(make_clip, tmp_path):
    path, _ = make_clip(frames=9)
    masks = np.zeros((9, 48, 64), np.uint8)
    for k, mask in enumerate(masks):
        mask[:, 6 * k : 6 * k + 12] = 255
    (tmp_path / "masks").mkdir()
    for k, mask in enumerate(masks):
        Image.fromarray(mask).save(tmp_path / "masks" / f"{k}.png")
    before = frames_of(path)
    everywhere, within = (
        frames_of(edit(path, tmp_path / name, config=replace(CONFIG, mask=mask)).path)
        for name, mask in (("all", None), ("masked", str(tmp_path / "masks")))
    )
    inside = torch.from_numpy(masks > 0)[:, None].expand_as(before)
    assert torch.equal(within, torch.where(inside, everywhere, before))


def folder_of(path, rgb):
    path.mkdir()
    for k, picture in enumerate(rgb):
        Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()).save(path / f"{k:03}.png")
    return path


ALONE = replace(CONFIG, csd=replace(CSD, coupling="independent"))


@pytest.mark.parametrize("light", [1.0, 0.1])
@pytest.mark.parametrize("config", [ALONE, replace(ALONE, keyframes=4), replace(ALONE, by="sampling")])
def test_no_shot_shows_in_another_one(tmp_path, config, light):
    """Frames that are edited alone, and averaged: what is beyond a cut, dark as it may be, changes no bit."""
    first, *others = (light * moving_picture(5, 48, 64, seed) for seed in (0, 1, 2))
    results = []
    for k, second in enumerate(others):
        clip = folder_of(tmp_path / f"clip{k}", torch.cat([first, second]))
        results.append(edit(clip, tmp_path / f"run{k}", config=config, output=tmp_path / f"{k}.mkv"))
    assert all(any("2 shots, cut at frames 5" in note for note in result.notes) for result in results)
    a, b = (frames_of(result.path) for result in results)
    assert torch.equal(a[:5], b[:5])
    assert not torch.equal(a[5:], b[5:])


@pytest.mark.parametrize(
    "options", [{}, {"csd": replace(CSD, coupling="motion", steps=6)}, {"by": "sampling", "csd": None}]
)
def test_no_sentence_shows_at_the_time_of_another_one(make_clip, tmp_path, options):
    """Nor does its moving move what another one makes: only in a fade, and not before."""
    path, _ = make_clip(frames=14)
    config = replace(CONFIG, fade=0.16, **options)
    a, b = (
        frames_of(edit(path, tmp_path / f"run{k}", f"0-0.32s: make it red, 0.32-0.6s: {other}", config=config).path)
        for k, other in enumerate(("make it dark", "make it stay"))
    )
    same = [torch.equal(x, y) for x, y in zip(a, b, strict=True)]
    assert same == [True] * 7 + [False] * 7


def test_without_strength_nothing_shows_whatever_was_averaged(make_clip, tmp_path):
    path, _ = make_clip(frames=9, cut=4)
    masks = folder_of(tmp_path / "masks", (torch.rand(9, 1, 48, 64) > 0.5).float().expand(-1, 3, -1, -1))
    config = replace(CONFIG, strength=0.0, fade=0.1, mask=str(masks))
    prompt = "0-0.16s: make it red, 0.16-0.3s: make it dark"
    assert torch.equal(frames_of(edit(path, tmp_path / "run", prompt, config=config).path), frames_of(path))


@pytest.mark.parametrize("kind", ["picture", "folder"])
def test_resume_notices_that_the_mask_changed(make_clip, tmp_path, kind):
    path, _ = make_clip(frames=3)
    mask, files = tmp_path / "mask.png", [tmp_path / "mask.png"]
    if kind == "folder":
        mask, files = tmp_path / "masks", [tmp_path / "masks" / f"{k}.png" for k in range(3)]
        mask.mkdir()
    levels = np.zeros((48, 64), np.uint8)
    levels[10:30, 20:50] = 255
    for file in files:
        Image.fromarray(levels).save(file)
    config = replace(CONFIG, mask=str(mask), csd=replace(CSD, steps=2))
    edit(path, tmp_path / "run", config=config)
    _, known = Manifest.read(tmp_path / "run" / "manifest.json").inputs
    assert known["path"] == str(mask)
    assert known["bytes"] == sum(file.stat().st_size for file in files)
    Image.fromarray(255 - levels).save(files[-1])
    with pytest.raises(ValueError, match=f"{mask.name} is not what the run") as caught:
        edit(path, tmp_path / "run", config=config, resume=True)
    assert "\n" not in str(caught.value)
    Image.fromarray(levels).save(files[-1])
    edit(path, tmp_path / "run", config=config, resume=True)


def test_strength_goes_from_the_source_to_the_edit_and_may_change_later(make_clip, tmp_path):
    path, rgb = make_clip(frames=4)
    run_dir = tmp_path / "run"
    full = frames_of(edit(path, run_dir, output=tmp_path / "full.mkv").path)
    change = (full - rgb).abs().mean()
    for strength, low, high in ((0.5, 0.3, 0.7), (0.0, 0.0, 0.1)):
        config, output = replace(CONFIG, strength=strength), tmp_path / f"{strength}.mkv"
        got = frames_of(edit(path, run_dir, config=config, output=output, resume=True).path)
        assert low <= (got - rgb).abs().mean() / change <= high
    assert Manifest.read(run_dir / "manifest.json").steps_done == 30  # rendered anew, not moved anew


@pytest.mark.parametrize("steady", [False, True])
def test_sentences_hold_for_their_time(make_clip, tmp_path, steady):
    path, rgb = make_clip(frames=20)  # 25 a second
    prompt = "0-0.32s: make it red, 0.32-0.6s: make it dark"
    config = replace(CONFIG, fade=0.16, steady=steady)
    change = frames_of(edit(path, tmp_path / "run", prompt, config=config).path) - rgb
    red, level = change[:, 0].mean((1, 2)) - change[:, 2].mean((1, 2)), change.mean((1, 2, 3))
    assert red[:6].min() > 0.3
    assert red[11:].max() < 0.1
    assert level[11:15].max() < -0.1
    assert level[15:].abs().max() < 0.02  # nothing is said about the rest
    assert all(b <= a + 0.02 for a, b in pairwise(red[5:12]))
    manifest = Manifest.read(tmp_path / "run" / "manifest.json")
    assert manifest.steps_done == 30 * (3 + 2)  # 10 frames of the first, 8 of the second, 4 at a time


def test_key_frames_are_edited_and_the_others_follow(make_clip, tmp_path):
    path, _ = make_clip(frames=12)
    seen = []
    config = replace(CONFIG, keyframes=3)
    result = edit(path, tmp_path / "keys", config=config, prior=ToyPrior(lambda index: seen.append(len(index))))
    assert set(seen) == {3}
    assert result.steps == 30
    whole, quick = frames_of(edit(path, tmp_path / "all").path), frames_of(result.path)
    assert (whole - quick).abs().mean() < 0.03
    assert any("3 key frames" in note for note in result.notes)
    with pytest.raises(ValueError, match="one sentence for the whole clip"):
        edit(path, tmp_path / "no", "0-1s: make it red", config=config)
    assert not (tmp_path / "no").exists()


def test_a_cut_gets_key_frames_of_its_own(make_clip, tmp_path):
    path, _ = make_clip(frames=10, cut=7)
    result = edit(path, tmp_path / "run", config=replace(CONFIG, keyframes=1))
    assert any("2 key frames" in note for note in result.notes)


@pytest.mark.parametrize(("keyframes", "cut"), [(2, None), (1, 7)])
def test_too_few_key_frames_for_a_bandwidth_are_refused_before_anything_is_encoded(
    make_clip, tmp_path, monkeypatch, keyframes, cut
):
    path, _ = make_clip(frames=10, cut=cut)
    encode = Mock()
    monkeypatch.setattr(ToyPrior, "encode", encode)
    config = replace(CONFIG, keyframes=keyframes, csd=replace(CSD, bandwidth="paper"))
    with pytest.raises(ValueError, match="bandwidth: 'paper' expected 3 or more different particles, or one, got 2"):
        edit(path, tmp_path / "run", config=config)
    encode.assert_not_called()
    assert (tmp_path / "run").exists() == (cut is not None), "how many there are is known once cuts are"


def test_a_preview_is_a_picture_and_nothing_else(make_clip, tmp_path):
    path, _ = make_clip(frames=30)
    seen = []
    prior = ToyPrior(lambda index: seen.append(len(index)))
    quiet = RunProgress(quiet=True)
    picture = preview_video(path, "make it red", tmp_path / "look.png", CONFIG, prior=prior, progress=quiet)
    assert seen == [4] * 8
    with Image.open(picture) as sheet:
        reds = np.array(sheet.convert("RGB")).astype(int)
    half = reds.shape[0] // 2
    assert (reds[half:, :, 0] - reds[half:, :, 2]).mean() > 20 + (reds[:half, :, 0] - reds[:half, :, 2]).mean()
    prompt = "0-0.1s: make it red, 0.5-0.6s: make it dark"
    preview_video(path, prompt, tmp_path / "timed.png", CONFIG, prior=prior, progress=quiet)
    assert {p.name for p in tmp_path.iterdir()} == {"clip.mp4", "look.png", "timed.png"}
    with open_clip(path) as clip:
        mask = Image.new("L", (clip.info.width_px, clip.info.height_px))
    mask.putpixel((0, 0), 255)
    mask.save(tmp_path / "mask.png")
    config = replace(CONFIG, mask=str(tmp_path / "mask.png"))
    with Image.open(preview_video(path, "make it red", picture, config, prior=prior, progress=quiet)) as sheet:
        reds = np.array(sheet.convert("RGB")).astype(int)
    assert abs((reds[half:, :, 0] - reds[half:, :, 2]).mean() - (reds[:half, :, 0] - reds[:half, :, 2]).mean()) < 1


def test_edits_of_edits_know_their_history_and_can_be_taken_back(make_clip, tmp_path, capsys):
    path, _ = make_clip(frames=4)
    runs = tmp_path / "runs"
    first = edit(path, runs / "a", output=tmp_path / "red.mkv").path
    second = edit(first, runs / "b", "make it dark", output=tmp_path / "dark.mkv").path
    history = Manifest.read(runs / "b" / "manifest.json").history
    assert [(e["prompt"], e["run_dir"]) for e in history] == [("make it red", str(runs / "a"))]
    with open_clip(second) as clip:
        assert clip.info.tags["comment"] == "csd3d: make it red | make it dark"
    assert main(["runs", "list", str(runs)]) == 0
    listed = capsys.readouterr().out
    assert [line.split("  ")[-1] for line in listed.splitlines()] == ["make it red", "make it red | make it dark"]
    assert main(["runs", "show", str(runs / "b")]) == 0
    assert "'make it red'" in capsys.readouterr().out

    assert main(["runs", "undo", str(runs / "a")]) == 2
    assert "undo that first" in capsys.readouterr().err
    before = second.read_bytes()
    assert main(["runs", "undo", str(runs / "b")]) == 0
    assert str(first) in capsys.readouterr().out
    assert not second.exists()
    assert Manifest.read(runs / "b" / "manifest.json").status == "undone"
    assert edit(first, runs / "b", "make it dark", output=second, resume=True).path.read_bytes() == before
    second.write_bytes(b"mine")
    assert main(["runs", "undo", str(runs / "b")]) == 2
    assert "was changed" in capsys.readouterr().err
    assert second.read_bytes() == b"mine"


def test_history_is_read_from_the_file_where_the_runs_are_gone(make_clip, tmp_path):
    path, _ = make_clip(frames=3)
    first = edit(path, tmp_path / "runs" / "a", config=replace(CONFIG, codec=None), output=tmp_path / "red.mp4").path
    (tmp_path / "elsewhere").mkdir()
    moved = first.rename(tmp_path / "elsewhere" / "red.mp4")
    edit(moved, tmp_path / "elsewhere" / "b", "make it dark")
    assert Manifest.read(tmp_path / "elsewhere" / "b" / "manifest.json").history == [{"prompt": "make it red"}]


def test_a_clip_that_changes_while_it_is_edited_is_one_line(make_clip, tmp_path):
    path, _ = make_clip(frames=6)
    calls = []

    def watch(index):
        calls.append(1)
        if len(calls) == 20:
            make_clip(frames=6, seed=5)

    with pytest.raises(ValueError, match="changed while it was edited") as caught:
        edit(path, tmp_path / "run", prior=ToyPrior(watch))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").glob("*.mkv"))
    make_clip(frames=6)  # put back
    assert edit(path, tmp_path / "run", resume=True).path.exists()
