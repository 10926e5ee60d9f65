"""What is read is what is in the file: frames, sizes, times; and what cannot be read is refused in one line."""

import os
import signal
import subprocess
import sys
from fractions import Fraction
from itertools import permutations

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image

from csd3d.media.clip.decord_process import DecordProcess
from csd3d.media.clip.probe import natural, probe
from csd3d.media.clip.source import PyAVReader, open_clip
from csd3d.media.pictures.levels import oriented
from tests.clips import encode, moving_picture
from tests.video.video_toys import psnr


def test_facts_and_frames(make_clip):
    path, rgb = make_clip(rate=Fraction(30000, 1001), frames=9)
    with open_clip(path) as clip:
        info = clip.info
        assert (info.width_px, info.height_px, info.frames) == (64, 48, 9)
        assert info.fps == Fraction(30000, 1001)
        assert info.constant_rate
        assert info.sample_aspect == 1
        assert info.audio_streams == 0
        assert not info.damaged
        assert info.time_s(3) == pytest.approx(3 * 1001 / 30000, abs=1e-9)
        assert clip.backend == "pyav"
        assert psnr(clip.read(0, 9), rgb) > 35
        assert psnr(clip.read(2, 5), rgb[2:5]) > 35


def test_chunks_are_the_clip_in_order(make_clip):
    path, rgb = make_clip(frames=7)
    with open_clip(path) as clip:
        parts = list(clip.chunks(3))
        assert [list(frames) for frames, _ in parts] == [[0, 1, 2], [3, 4, 5], [6]]
        assert torch.equal(torch.cat([x for _, x in parts]), clip.read(0, 7))
        back = torch.cat([clip.read(i, i + 1) for i in (5, 0, 3)])
        assert psnr(back, rgb[[5, 0, 3]]) > 35


def test_range_outside_the_clip_is_refused(make_clip):
    path, _ = make_clip(frames=3)
    with open_clip(path) as clip:
        for start, stop in ((0, 4), (-1, 1), (2, 2)):
            with pytest.raises(IndexError, match=r"within \[0, 3\)"):
                clip.read(start, stop)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_decord_serves_what_it_shows_as_pyav_does(make_clip, pix_fmt):
    path, _ = make_clip(frames=12, pix_fmt=pix_fmt)
    with open_clip(path, backend="decord") as a, open_clip(path) as b:
        assert (a.backend, b.backend) == ("decord", "pyav")
        assert torch.equal(a.read(0, 12), b.read(0, 12))
        assert torch.equal(a.read(0, 12, exact=True), b.read(0, 12, exact=True))


def test_decord_is_refused_where_its_pictures_are_others(tmp_path):
    """MPEG program streams without B-frames: the right number, at the right times, but from later on."""
    rgb = moving_picture(40, 48, 64)
    path = encode(tmp_path / "a.mpg", rgb, codec="mpeg1video", pix_fmt="yuv420p")
    with open_clip(path) as clip:
        assert clip.info.frames == 40
        assert min(psnr(clip.read(i, i + 1), rgb[i : i + 1]) for i in range(40)) > 25
    with pytest.raises(ValueError, match="decord: expected"):
        open_clip(path, backend="decord")


def test_decord_is_not_given_what_may_end_the_process(make_clip):
    path, _ = make_clip(frames=6)
    with pytest.raises(ValueError, match="decord: expected a whole file"):
        open_clip(path, backend="decord", max_frames=3)


def test_a_process_that_decord_ends_is_one_line(make_clip, tmp_path, monkeypatch):
    path, _ = make_clip(frames=6)
    process = DecordProcess(path)
    assert process.read(2, 4).shape == (2, 48, 64, 3)
    os.kill(process._process.pid, signal.SIGABRT)
    with pytest.raises(ValueError, match=r"decord: frames \[0, 1\) of .*mp4 cannot be decoded"):
        process.read(0, 1)
    process.close()
    dies = tmp_path / "dies.py"
    dies.write_text("import os; os.abort()")
    monkeypatch.setattr("csd3d.media.clip.decord_process._CHILD", dies)
    with pytest.raises(ValueError, match="decord: expected a file that it can open"):
        open_clip(path, backend="decord")


def test_decord_is_not_in_the_process_that_asks_for_it(make_clip):
    path, _ = make_clip(frames=6)
    program = (
        "import sys\nfrom pathlib import Path\nfrom csd3d.media.clip.source import open_clip\n"
        f"with open_clip(Path({str(path)!r}), backend='decord') as clip:\n    clip.read(0, 6)\n"
        "print(clip.backend, 'decord' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "decord False"
    assert done.stderr == ""


def test_exact_colours_are_not_biased_on_subsampled_chroma(make_clip):
    path, rgb = make_clip(frames=4, pix_fmt="yuv420p")
    with open_clip(path) as clip:
        exact, fast = clip.read(0, 4, exact=True), clip.read(0, 4)
    assert psnr(exact, rgb) > psnr(fast, rgb)
    assert psnr(exact, rgb) > 37


def test_reading_backwards_starts_over(make_clip):
    path, rgb = make_clip(frames=6)
    with open_clip(path) as clip:
        order = [4, 1, 2, 0, 5]
        got = torch.cat([clip.read(i, i + 1) for i in order])
    assert psnr(got, rgb[order]) > 35


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(make_clip, degrees):
    path, rgb = make_clip(frames=3, rotation=degrees)
    with open_clip(path) as a:
        quarters = {8: 1, 3: 2, 6: 3}[a.info.orientation]
        assert quarters * 90 in (degrees, 360 - degrees)
        assert (a.info.width_px, a.info.height_px) == ((48, 64) if degrees % 180 else (64, 48))
        upright = torch.rot90(rgb, quarters, (2, 3))
        assert psnr(a.read(0, 3), upright) > 35
        assert psnr(a.read(0, 3, exact=True), upright) > 35


def test_sample_aspect_is_reported_and_turns_with_the_picture(make_clip):
    path, _ = make_clip(frames=2, aspect=Fraction(4, 3))
    assert probe(path).sample_aspect == Fraction(4, 3)
    assert probe(path).display_aspect == Fraction(64, 48) * Fraction(4, 3)
    turned, _ = make_clip("t.mp4", frames=2, aspect=Fraction(4, 3), rotation=90)
    assert probe(turned).sample_aspect == Fraction(3, 4)


def test_first_frames_only(make_clip):
    path, rgb = make_clip(frames=8)
    with open_clip(path, max_frames=3) as clip:
        assert clip.info.frames == 3
        assert not clip.info.damaged
        assert psnr(clip.read(0, 3), rgb[:3]) > 35


def test_sound_is_seen(make_clip):
    assert probe(make_clip(frames=3, sound=0.3)[0]).audio_streams > 0


def test_what_decord_cannot_open_is_said(make_clip):
    path, rgb = make_clip("a.gif", frames=5, codec="gif", pix_fmt="rgb8", rate=Fraction(10))
    with open_clip(path) as clip:
        assert clip.info.frames == 5
        assert psnr(clip.read(0, 5), rgb) > 15
    with pytest.raises(ValueError, match="decord: expected a file that it can open"):
        open_clip(path, backend="decord")


def test_truncated_file_gives_the_frames_it_holds(make_clip):
    path, rgb = make_clip("a.mkv", frames=90)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    with open_clip(path) as clip:
        count = clip.info.frames
        assert 10 < count < 90
        assert psnr(clip.read(0, count - 1), rgb[: count - 1]) > 30


def test_damaged_packet_is_noted_and_the_rest_is_read(make_clip):
    path, _ = make_clip(frames=30)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    position, size = packets[15]
    content[position : position + size] = b"\xff" * size
    path.write_bytes(content)
    with open_clip(path) as clip:
        assert clip.info.damaged
        assert 25 <= clip.info.frames < 30
        assert any("damaged" in note for note in clip.notes)
        assert len(clip.read(0, clip.info.frames)) == clip.info.frames


def _text(path):
    path.write_text("this is no video")


def _empty(path):
    path.write_bytes(b"")


def _sound_only(path):
    with av.open(str(path), "w") as container:
        tone = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(tone.encode(frame))
        container.mux(tone.encode(None))


def _cover(path):
    with av.open(str(path), "w") as container:
        picture = container.add_stream("png", rate=1)
        picture.width, picture.height, picture.pix_fmt = 16, 8, "rgb24"
        picture.disposition = Disposition.attached_pic
        container.mux(picture.encode(av.VideoFrame(16, 8, "rgb24")))
        container.mux(picture.encode(None))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (_text, "readable video"),
        (_empty, "empty file"),
        (_sound_only, "got only audio"),
        (_cover, "got only a cover picture"),
    ],
)
def test_files_without_video_are_refused_in_one_line(tmp_path, make, match):
    path = tmp_path / "a.mp4"
    make(path)
    with pytest.raises(ValueError, match=match) as caught:
        open_clip(path)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_clip(tmp_path / "none.mp4")


def _folder(path, sizes, suffix=".png"):
    path.mkdir()
    for i, (height, width) in enumerate(sizes):
        Image.fromarray(np.full((height, width, 3), 10 * i, np.uint8)).save(path / f"f{i}{suffix}")
    return path


def test_folder_of_frames_in_natural_order(tmp_path):
    folder = _folder(tmp_path / "frames", [(20, 30)] * 12)
    (folder / "notes.txt").write_text("ignored")
    with open_clip(folder, fps=Fraction(12)) as clip:
        assert clip.backend == "pictures"
        assert clip.info.fps == 12
        assert (clip.info.width_px, clip.info.height_px, clip.info.frames) == (30, 20, 12)
        levels = (clip.read(0, 12)[:, 0, 0, 0] * 255).round()
        assert torch.equal(levels, torch.arange(12) * 10.0)
        assert clip.info.time_s(6) == 0.5


def test_folder_refusals(tmp_path):
    with pytest.raises(ValueError, match="expected pictures"):
        open_clip(_folder(tmp_path / "empty", []))
    with pytest.raises(ValueError, match=r"one size, got 30x20 in f0.png and 31x20 in f1.png"):
        open_clip(_folder(tmp_path / "mixed", [(20, 30), (20, 31)]))
    broken = _folder(tmp_path / "broken", [(20, 30)] * 2, ".jpg")
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(noise).save(broken / "f1.jpg")
    (broken / "f1.jpg").write_bytes((broken / "f1.jpg").read_bytes()[:1000])
    with open_clip(broken) as clip, pytest.raises(ValueError, match="whole picture"):
        clip.read(0, 2)
    (broken / "f1.jpg").write_bytes(b"no")
    with pytest.raises(ValueError, match="expected a picture"):
        open_clip(broken)


def test_pipes_among_frames_are_passed_by(tmp_path):
    folder = _folder(tmp_path / "frames", [(20, 30)] * 2)
    os.mkfifo(folder / "f7.png")
    (folder / "f8.png").mkdir()
    assert probe(folder).frames == 2


def test_orientation_of_pictures_is_applied(tmp_path):
    folder = tmp_path / "turned"
    folder.mkdir()
    picture = Image.new("RGB", (30, 20))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "a.png", exif=exif)
    with open_clip(folder) as clip:
        assert (clip.info.width_px, clip.info.height_px) == (20, 30)
        assert clip.read(0, 1)[0, 0, 0, 19] == 1


def test_fps_of_a_video_file_is_its_own(make_clip):
    with pytest.raises(ValueError, match="expected none for a video file"):
        open_clip(make_clip()[0], fps=Fraction(5))


def test_file_that_shrinks_under_the_reader_is_one_line(make_clip):
    path, _ = make_clip(frames=6)
    info = probe(path)
    make_clip(frames=3)
    from csd3d.media.clip.source import Clip

    clip = Clip(info, PyAVReader(info), "pyav")
    with clip, pytest.raises(ValueError, match="did it change"):
        clip.read(0, 6)


def test_digits_that_are_no_numbers_are_letters(tmp_path):
    names = ["1²10.png", "1²2.png", "f3.png", "①.png", "٣.png"]
    ordered = sorted((tmp_path / name for name in names), key=natural)
    assert [p.name for p in ordered[:3]] == ["1²2.png", "1²10.png", "٣.png"]


def test_natural_order(tmp_path):
    assert sorted((tmp_path / n for n in ("1\u00b22.png", "1\u00b21.png")), key=natural)[0].name == "1\u00b21.png"
    names = ["b.png", "f10.png", "f9.png", "10.png", "9.png"]
    assert [p.name for p in sorted((tmp_path / n for n in names), key=natural)] == [
        "9.png",
        "10.png",
        "b.png",
        "f9.png",
        "f10.png",
    ]


def test_names_that_count_alike_have_an_order_and_gaps_are_said(tmp_path):
    names = ["f01.png", "f1.png", "F1.png"]
    for some in permutations(tmp_path / name for name in names):
        assert [p.name for p in sorted(some, key=natural)] == ["F1.png", "f01.png", "f1.png"]

    def notes(*names):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name in names:
            Image.new("RGB", (16, 12)).save(folder / name)
        return probe(folder).notes

    assert notes("f8.png", "f10.png", "f12.png") == ()
    assert notes("a2.png", "b7.png", "b8.png", "c.png") == ()
    (gap,) = notes("f8.png", "f9.png", "f11.png", "f12.png")
    assert "f9.png and f11.png lack some between them" in gap
    (twice,) = notes("f8.jpg", "f8.png", "f9.jpg")
    assert "f8.jpg and f8.png have one number" in twice


REAL_FACTS = {
    "clips/blocks_640x360_29.97fps.mp4": (640, 360, 75, Fraction(30000, 1001)),
    "clips/coffee_portrait_288x512_15fps.mp4": (288, 512, 60, Fraction(15)),
    "clips_odd/av1_video.mkv": (640, 360, 125, Fraction(25)),
    "clips_odd/corrupted.mp4": (1280, 720, 49, Fraction(10)),
    "clips_odd/made_gif.gif": (240, 135, 12, Fraction(10)),
    "clips_odd/made_odd_321x181_yuv444.mp4": (321, 181, 30, Fraction(30000, 1001)),
    "clips_odd/made_one_frame.mp4": (480, 270, 1, Fraction(30000, 1001)),
    "clips_odd/made_rotated_portrait.mp4": (270, 480, 48, Fraction(24)),
    "clips_odd/made_truncated_faststart_55pct.mp4": (640, 360, 57, Fraction(30000, 1001)),
    "clips_odd/made_vfr.mp4": (480, 270, 60, Fraction(450000, 31031)),  # 60 frames, the last one's time included
    "clips_odd/made_vp9.webm": (320, 180, 24, Fraction(30000, 1001)),
    "clips_odd/unordered.mov": (50, 50, 4, Fraction(32)),
    "clips_odd/video_180.mov": (568, 320, 3, Fraction(30)),
    "clips_odd/video_90.mov": (320, 568, 3, Fraction(30)),
}


@pytest.mark.parametrize("name", sorted(REAL_FACTS))
def test_real_clips(real_data, name):
    width, height, frames, fps = REAL_FACTS[name]
    with open_clip(real_data / name) as clip:
        info = clip.info
        assert (info.width_px, info.height_px, info.frames, info.fps) == (width, height, frames, fps)
        assert info.damaged == (name.split("/")[-1] in ("corrupted.mp4", "made_truncated_faststart_55pct.mp4"))
        assert info.constant_rate == ("vfr" not in name and not info.damaged)
        last = clip.read(frames - 1, frames, exact=True)
        assert psnr(clip.read(frames - 1, frames), last) > 25


@pytest.mark.parametrize("name", ["audio_only.mp4", "empty.mp4", "text_renamed.mp4", "truncated_no_moov.mp4"])
def test_real_files_without_video(real_data, name):
    with pytest.raises(ValueError, match="expected a") as caught:
        open_clip(real_data / "clips_odd" / f"made_{name}")
    assert "\n" not in str(caught.value)


def _two_streams(path, small, large):
    with av.open(str(path), "w") as container:
        streams = []
        for rgb in (small, large):
            stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
            stream.height, stream.width = rgb.shape[-2:]
            stream.pix_fmt = "yuv444p"
            streams.append(stream)
        for i in range(len(small)):
            for stream, rgb in zip(streams, (small, large), strict=True):
                levels = (rgb[i].permute(1, 2, 0) * 255).byte().contiguous().numpy()
                frame = av.VideoFrame.from_ndarray(levels, format="rgb24")
                frame.pts = i
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))


def test_several_streams(make_clip, tmp_path):
    _, small = make_clip("a.mp4", frames=4, height=32, width=48)
    _, large = make_clip("b.mp4", frames=4, height=64, width=96, seed=1)
    path = tmp_path / "two.mkv"
    _two_streams(path, small, large)
    for stream, rgb in ((None, large), (0, small), (1, large)):
        with open_clip(path, stream=stream) as clip:
            assert (clip.info.height_px, clip.info.width_px) == tuple(rgb.shape[-2:])
            assert any("2 video streams (0: 48x32, 1: 96x64)" in note for note in clip.info.notes)
            for exact in (False, True):
                assert psnr(clip.read(0, 4, exact=exact), rgb) > 30
    with pytest.raises(ValueError, match=r"stream: expected 0 to 1, got 2"):
        open_clip(path, stream=2)


def test_frames_by_a_pattern(tmp_path):
    folder = _folder(tmp_path / "frames", [(20, 30)] * 12)
    Image.new("RGB", (5, 5)).save(folder / "other.png")
    with open_clip(folder / "f*.png") as clip:
        assert (clip.info.frames, clip.backend) == (12, "pictures")
        assert torch.equal((clip.read(0, 12)[:, 0, 0, 0] * 255).round(), torch.arange(12) * 10.0)
    with pytest.raises(ValueError, match="expected pictures"):
        open_clip(folder / "g*.png")
    with pytest.raises(ValueError, match="stream: expected none for pictures"):
        open_clip(folder / "f*.png", stream=0)


def test_damaged_files_can_be_refused(make_clip):
    path, _ = make_clip("a.mkv", frames=90)
    open_clip(path, strict=True).close()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    with pytest.raises(ValueError, match=r"expected a whole file, got .* damaged: .* frames"):
        open_clip(path, strict=True)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_ten_bits_are_read_as_such(make_clip, codec):
    path, rgb = make_clip(frames=4, codec=codec, pix_fmt="yuv420p10le")
    with open_clip(path) as clip:
        assert clip.info.depth == 10
        exact = clip.read(0, 4, exact=True)
        assert psnr(exact, rgb) > 30
        assert float((exact * 255 - (exact * 255).round()).abs().max()) > 0.2  # finer than bytes
        assert psnr(clip.read(0, 4), rgb) > 28


def luma(rgb):
    return (rgb * torch.tensor([0.2126, 0.7152, 0.0722]).view(3, 1, 1)).sum(1)


SHOWN_EXACTLY = [
    "clips/blocks_640x360_29.97fps.mp4",
    "clips_odd/made_60fps.mp4",
    "clips_odd/made_vfr.mp4",
    "clips_odd/video_90.mov",
    "clips_odd/made_vp9.webm",
    "clips_odd/nasa_13013.mp4",
    "clips_odd/h265_10bits.mp4",
]


@pytest.mark.parametrize("name", SHOWN_EXACTLY)
def test_frames_and_times_of_real_clips_are_those_that_ffmpeg_shows(real_data, name):
    with open_clip(real_data / name) as clip:
        info = clip.info
        wanted = sorted({0, 1, info.frames // 2, info.frames - 1})
        with av.open(str(real_data / name)) as container:
            stream = container.streams[info.stream]
            frames = list(container.decode(stream))
            assert len(frames) == info.frames
            for i in wanted:
                assert info.time_s(i) == pytest.approx(float(frames[i].pts * stream.time_base - info.start), abs=1e-6)
                shown = oriented(frames[i].to_ndarray(format="rgb24"), info.orientation).copy()
                expected = torch.from_numpy(shown).permute(2, 0, 1)[None] / 255
                for exact in (False, True):  # luma, since everybody interpolates chroma differently
                    assert psnr(luma(clip.read(i, i + 1, exact=exact)), luma(expected)) > 35


def test_a_frame_that_is_a_link_to_nothing_is_not_passed_over(tmp_path):
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "frames" / "1.png")
    (tmp_path / "frames" / "2.png").symlink_to("gone.png")
    for name in ("frames", "frames/*.png"):
        with pytest.raises(ValueError, match=r"2\.png"):
            open_clip(tmp_path / name)
