"""What people really have and do: odd names, clocks, depths and places, and two starts at once."""

import errno
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image
from safetensors import SafetensorError
from video_toys import toy_edit

from csd3d.cli.main import main
from csd3d.engine.config import CsdConfig
from csd3d.media.clip.probe import TIMES, _even, probe
from csd3d.media.clip.source import open_clip
from csd3d.media.masks import ClipMask
from csd3d.runs import checkpoint, history
from csd3d.runs.folder import exclusive
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from tests.media.test_media_clip_sink import rewrite
from tests.toys import ToyPrior
from video import VideoConfig, batch, edit_video
from video.preview import preview_video
from video.propagate import LONGEST, key_frames

CONFIG = VideoConfig(csd=CsdConfig(steps=3, lr=0.2, t_min=400, t_max=600), frames_per_step=4, codec="ffv1")


def edit(clip, run_dir, prompt="make it red", *, config=CONFIG, **options):
    return toy_edit(clip, run_dir, prompt, config=config, **options)


# --- clocks and depths ------------------------------------------------------------------------------------------------


def test_a_coarse_clock_is_no_constant_rate():
    """Times of 1/25 s of which every third is left out are not 18.75 frames a second."""
    assert not _even((0, 1, 3, 4, 6, 7), Fraction(4, 3))
    assert _even(tuple(range(9)), Fraction(1))
    assert _even(tuple(round(i * 33.3333) for i in range(99)), Fraction(100, 3))  # 30 a second, as WebM says it


def deep_frames(folder, count=3):
    folder.mkdir()
    levels = np.linspace(0, 65535, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint16)
    for k in range(count):
        cv2.imwrite(str(folder / f"{k}.png"), np.roll(levels, k, 1)[..., ::-1])
    return [np.roll(levels, k, 1) for k in range(count)]


def test_frames_of_sixteen_bits_keep_them(tmp_path):
    levels = deep_frames(tmp_path / "frames")
    with open_clip(tmp_path / "frames") as clip:
        assert clip.info.depth == 16
        got = (clip.read(0, 3, exact=True) * 65535).round().permute(0, 2, 3, 1).numpy().astype(np.uint16)
    assert np.array_equal(got, np.stack(levels))
    rewrite(tmp_path / "frames", tmp_path / "copy", depth=10)
    with open_clip(tmp_path / "copy") as clip:
        assert clip.info.depth == 16
        again = (clip.read(0, 3, exact=True) * 65535).round().permute(0, 2, 3, 1).numpy().astype(np.uint16)
    assert np.array_equal(again, got)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_sixteen_bits_is_no_white(tmp_path, suffix):
    (tmp_path / "frames").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "frames" / f"{name}.{suffix}"), np.full((16, 16), 30000, np.uint16))
    with open_clip(tmp_path / "frames") as clip:
        assert torch.allclose(clip.read(0, 2), torch.full((2, 3, 16, 16), 30000 / 65535))
        mask = ClipMask(tmp_path / "frames" / f"a.{suffix}", clip.info)
        assert torch.allclose(mask(range(2)), torch.full((2, 1, 16, 16), 30000 / 65535))


def test_a_folder_that_was_written_is_read_with_its_times_and_its_history(make_clip, tmp_path):
    path, _ = make_clip(frames=5, rate=Fraction(30000, 1001))
    config, runs = replace(CONFIG, codec=None), tmp_path / "runs"
    edit(path, runs / "a", config=config, output=tmp_path / "frames")
    with open_clip(tmp_path / "frames") as clip:
        assert (clip.info.fps, clip.info.constant_rate) == (Fraction(30000, 1001), True)
    edit(tmp_path / "frames", runs / "b", "make it dark", config=config, output=tmp_path / "dark")
    assert [e["prompt"] for e in Manifest.read(runs / "b" / "manifest.json").history] == ["make it red"]
    with pytest.raises(ValueError, match="undo: expected the last edit"):
        history.undo(runs / "a")
    times = tmp_path / "frames" / TIMES
    times.write_text("# timestamp format v2\n0\n100\n500\n510\n700\n")
    with open_clip(tmp_path / "frames") as clip:
        assert not clip.info.constant_rate
        assert [round(clip.info.time_s(i), 6) for i in range(5)] == [0, 0.1, 0.5, 0.51, 0.7]
    with open_clip(tmp_path / "frames", fps=Fraction(10)) as clip:
        assert clip.info.time_s(4) == pytest.approx(0.4)
    for text in ("0\n1\n", "0\n5\n5\n6\n7\n", "0\nsoon\n"):
        times.write_text(text)
        with pytest.raises(ValueError, match="clip: expected"):
            open_clip(tmp_path / "frames")


def test_the_last_frame_of_an_animation_stays_as_long_as_it_did(make_clip, tmp_path):
    _, rgb = make_clip(frames=4)
    pictures = [Image.fromarray((p.permute(1, 2, 0) * 255).round().byte().numpy()) for p in rgb]
    pictures[0].save(
        tmp_path / "in.gif", save_all=True, append_images=pictures[1:], duration=[100, 50, 200, 250], loop=0
    )
    rewrite(tmp_path / "in.gif", tmp_path / "out.gif")
    with Image.open(tmp_path / "out.gif") as out:
        shown = []
        for k in range(4):
            out.seek(k)
            shown.append(out.info["duration"])
    assert shown == [100, 50, 200, 250]


# --- what goes along --------------------------------------------------------------------------------------------------


def test_somebody_elses_comment_stays_in_matroska_too(make_clip, tmp_path):
    path, _ = make_clip(frames=3)
    rewrite(path, tmp_path / "mine.mkv", tags={"comment": "by me"})
    result = edit(tmp_path / "mine.mkv", tmp_path / "run", output=tmp_path / "red.mkv").path
    assert probe(result).tags["comment"] == "by me"


def test_history_is_in_matroska_when_the_runs_are_gone(make_clip, tmp_path):
    path, _ = make_clip(frames=3)
    red = edit(path, tmp_path / "x" / "a", output=tmp_path / "y" / "red.mkv").path
    edit(red, tmp_path / "z" / "b", "make it dark", output=tmp_path / "y" / "dark.mkv")
    assert [e["prompt"] for e in Manifest.read(tmp_path / "z/b/manifest.json").history] == ["make it red"]


def test_the_default_track_and_chapters_within_the_end(make_clip, tmp_path):
    path, _ = make_clip("plain.mp4", frames=10, sound=0.4)
    with av.open(str(path)) as source, av.open(str(tmp_path / "rich.mkv"), "w") as target:
        copies = {s.index: target.add_stream_from_template(s) for s in source.streams}
        second = target.add_stream_from_template(source.streams.audio[0])
        second.disposition = Disposition.default | Disposition.comment
        copies[source.streams.audio[0].index].disposition = Disposition(0)
        base = Fraction(1, 1000)
        spans = ((0, 100), (100, 300), (300, 400))
        target.set_chapters(
            [
                {"id": k, "start": a, "end": b, "time_base": base, "metadata": {"title": str(k)}}
                for k, (a, b) in enumerate(spans)
            ]
        )
        for packet in source.demux():
            if packet.dts is None:
                continue
            packet.stream = copies[packet.stream_index]
            target.mux(packet)
    rewrite(tmp_path / "rich.mkv", tmp_path / "out.mkv", max_frames=5)
    with av.open(str(tmp_path / "out.mkv")) as out:
        assert [bool(s.disposition & Disposition.comment) for s in out.streams.audio] == [False, True]
        chapters = out.chapters()
    assert [c["metadata"]["title"] for c in chapters] == ["0", "1"]
    assert 0.2 <= chapters[1]["end"] * chapters[1]["time_base"] < 0.28, "five frames, after a little silence"


# --- names and places -------------------------------------------------------------------------------------------------


def test_a_colon_in_a_name_is_no_protocol(make_clip, tmp_path, monkeypatch):
    make_clip("12:30.mp4", frames=3)
    monkeypatch.chdir(tmp_path)
    assert edit("12:30.mp4", Path("run"), output="12:31.mkv").path.exists()
    assert probe(Path("12:31.mkv")).frames == 3


def test_brackets_in_the_name_of_a_mask(make_clip, tmp_path):
    path, _ = make_clip(frames=3)
    Image.new("L", (64, 48), 255).save(tmp_path / "mask[1].png")
    assert ClipMask(tmp_path / "mask[1].png", probe(path))(range(3)).shape == (3, 1, 48, 64)


def test_nothing_that_is_read_is_written_over(make_clip, tmp_path):
    path, _ = make_clip(frames=3)
    (tmp_path / "frames").mkdir()
    for k in range(2):
        Image.new("RGB", (64, 48), (k, 9, 9)).save(tmp_path / "frames" / f"{k}.png")
    mask = make_clip("mask.mkv", frames=3, codec="ffv1", pix_fmt="bgr0")[0]
    before = {file: file.read_bytes() for file in (path, mask, tmp_path / "frames/0.png")}
    config = replace(CONFIG, mask=str(mask))
    with pytest.raises(ValueError, match="output: expected another file"):
        edit(path, tmp_path / "run", config=config, output=mask)
    with pytest.raises(ValueError, match="output: expected another file"):
        preview_video(
            tmp_path / "frames",
            "make it red",
            tmp_path / "frames/0.png",
            CONFIG,
            prior=ToyPrior(),
            progress=RunProgress(quiet=True),
        )
    assert {file: file.read_bytes() for file in before} == before


def test_what_cannot_be_written_is_refused_at_once(make_clip, tmp_path):
    odd, _ = make_clip("odd.mp4", frames=2, height=47, width=63)
    (tmp_path / "file").write_text("")
    seen = []
    for output, config, match in (
        ("out.mkv", replace(CONFIG, codec="av1"), "expected even sides for av1"),
        ("file/out.mkv", CONFIG, "expected a folder in which files can be made"),
        ("x" * 245 + ".mkv", CONFIG, "a name of at most"),
        ("out.gif", replace(CONFIG, codec=None, depth=10), "depth: expected 8 for .gif"),
        ("run", replace(CONFIG, codec=None), "expected another place than what the run writes"),
    ):
        with pytest.raises(ValueError, match=match):
            edit(odd, tmp_path / "run", config=config, output=tmp_path / output, prior=ToyPrior(seen.append))
    assert seen == []
    assert not (tmp_path / "run").exists()


def test_a_run_with_a_mask_goes_on_from_anywhere(make_clip, tmp_path, monkeypatch):
    path, _ = make_clip(frames=3)
    Image.new("L", (64, 48), 255).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    edit(path, tmp_path / "run", config=replace(CONFIG, mask="mask.png"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    edit_video(None, None, run_dir=tmp_path / "run", resume=True, prior=ToyPrior(), progress=RunProgress(quiet=True))


def test_key_frames_serve_every_shot_however_they_lie():
    for shots in ([0] * 740, [0] * 360 + [1] * 380, [0] * 730 + [1] * 10):
        keys = key_frames(shots, 3)
        for shot in set(shots):
            own = [k for k in keys if shots[k] == shot]
            first, last = shots.index(shot), shots.index(shot) + shots.count(shot) - 1
            assert max([own[0] - first, last - own[-1], *np.diff(own)]) <= LONGEST


def test_rates_that_no_container_can_say_are_rounded_or_refused(tmp_path):
    (tmp_path / "frames").mkdir()
    for k in range(2):
        Image.new("RGB", (16, 16)).save(tmp_path / "frames" / f"{k}.png")
    with open_clip(tmp_path / "frames", fps=Fraction("29.97002997002997")) as clip:
        assert clip.info.fps == Fraction(30000, 1001)
    with pytest.raises(ValueError, match=r"fps: expected 0\.001 to 1000"):
        VideoConfig(fps=Fraction(10**12))


# --- at once, and out of space ----------------------------------------------------------------------------------------


def test_two_starts_of_one_run_do_not_meet(make_clip, tmp_path):
    path, _ = make_clip(frames=3)
    run = edit(path, tmp_path / "run").run_dir
    state = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    with exclusive(run), pytest.raises(ValueError, match="run-dir: another process is at work in"):
        edit(path, run, resume=True)
    assert {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()} == state
    edit(path, run, resume=True)


def test_a_full_disk_is_said_whoever_finds_out(tmp_path, monkeypatch):
    def full(*args, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint.save_checkpoint(tmp_path / "state.safetensors", {"a": torch.zeros(1)}, {})
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_looked_into_is_passed_by(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Manifest, "read", refuse)
    (tmp_path / "theirs").mkdir()
    assert list(history.runs_in(tmp_path)) == []


@pytest.mark.usefixtures("only_toys")
def test_a_fault_of_ours_fails_one_job_of_many(make_clip, tmp_path, monkeypatch, capsys):
    make_clip("a.mp4", frames=2)
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("clip,prompt,output\na.mp4,make it red,x/a.mp4\na.mp4,make it red,y/a.mp4\n")
    whole = batch.run_job

    def broken(editor, request, **options):
        if request.output.parent.name == "x":
            raise OverflowError("too large")
        return whole(editor, request, **options)

    monkeypatch.setattr(batch, "run_job", broken)
    assert main(["video", "batch", str(jobs), "--out", str(tmp_path / "out")]) == 1
    assert "OverflowError: too large" in capsys.readouterr().out
    assert (tmp_path / "out/y/a.mp4").exists()


def test_undo_twice_says_so_and_forgets_no_file(make_clip, tmp_path, capsys):
    path, _ = make_clip(frames=3)
    run = edit(path, tmp_path / "run", output=tmp_path / "a.mkv").run_dir
    edit(path, run, output=tmp_path / "b.mkv", resume=True)
    assert main(["runs", "undo", str(run)]) == 0
    assert not (tmp_path / "a.mkv").exists()
    assert not (tmp_path / "b.mkv").exists()
    assert main(["runs", "undo", str(run)]) == 0
    assert "nothing was left to delete" in capsys.readouterr().out
