"""Every way to write a clip: codecs and depths, lossless, PNG frames, animations; what goes along; what is refused."""

import resource
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from csd3d.media.clip.formats import Encoding, require_output, stream_of
from csd3d.media.clip.frames import write_animation, write_folder
from csd3d.media.clip.output import square_size
from csd3d.media.clip.probe import probe
from csd3d.media.clip.sink import write_clip
from csd3d.media.clip.source import open_clip
from csd3d.media.pictures.levels import to_levels
from csd3d.media.pictures.write import write_picture
from tests.media.test_media_clip_sink import rewrite, shown_at
from tests.video.video_toys import psnr


@pytest.mark.parametrize(
    ("name", "encoding", "codec", "pixel_format"),
    [
        ("a.mp4", {"depth": 10}, "h264", "yuv420p10le"),
        ("a.mp4", {"codec": "hevc"}, "hevc", "yuv420p"),
        ("a.mkv", {"codec": "hevc", "depth": 10}, "hevc", "yuv420p10le"),
        ("a.webm", {}, "vp9", "yuv420p"),
        ("a.mp4", {"codec": "av1", "depth": 10}, "libdav1d", "yuv420p10le"),
        ("a.mkv", {"codec": "ffv1"}, "ffv1", "bgr0"),
    ],
)
def test_codecs_keep_frames_size_and_times(make_clip, tmp_path, name, encoding, codec, pixel_format):
    path, rgb = make_clip("source.mp4", frames=6, rate=Fraction(30000, 1001), height=64, width=96)
    out = tmp_path / name
    assert rewrite(path, out, **encoding) == []
    with open_clip(out) as clip:
        info = clip.info
        assert (info.codec, info.pixel_format, info.frames) == (codec, pixel_format, 6)
        assert (info.width_px, info.height_px) == (96, 64)
        assert psnr(clip.read(0, 6, exact=True), rgb) > 35
    tolerance = 0 if name.endswith(".mp4") else Fraction(1, 1000)
    for i, time in enumerate(shown_at(out)):
        assert abs(time - i * Fraction(1001, 30000)) <= tolerance


def test_equal_frames_give_equal_bytes(make_clip, tmp_path):
    path, _ = make_clip("source.mp4", frames=5)
    for k, (name, encoding) in enumerate((("mp4", {"codec": "hevc"}), ("webm", {}), ("mp4", {"codec": "av1"}))):
        for take in "ab":
            rewrite(path, tmp_path / f"{k}{take}.{name}", **encoding)
        packets = []
        for take in "ab":
            with av.open(str(tmp_path / f"{k}{take}.{name}")) as container:
                packets.append([bytes(p) for p in container.demux(video=0)])
        assert packets[0] == packets[1]


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 65)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_lossless_is_lossless(make_clip, tmp_path, height, width, pix_fmt):
    if pix_fmt == "yuv420p" and height % 2:
        pytest.skip("4:2:0 has even sides")
    path, _ = make_clip("source.mp4", frames=4, height=height, width=width, pix_fmt=pix_fmt)
    rewrite(path, tmp_path / "a.mkv", codec="ffv1")
    with open_clip(path) as before, open_clip(tmp_path / "a.mkv") as after:
        assert torch.equal(before.read(0, 4, exact=True), after.read(0, 4, exact=True))


def test_ten_bits_go_through(make_clip, tmp_path):
    ramp = torch.linspace(0.2, 0.3, 64).view(1, 1, 1, 64).expand(2, 3, 48, 64)  # a hundred levels of 1023
    levels = (ramp * 65535).round().numpy().astype("uint16").transpose(0, 2, 3, 1).copy()
    path = tmp_path / "deep.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gbrp10le"
        for i, picture in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb48le").reformat(format="gbrp10le")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert probe(path).depth == 10
    rewrite(path, tmp_path / "a.mkv", codec="ffv1", depth=10)
    rewrite(path, tmp_path / "b.mkv", codec="ffv1")
    with open_clip(path) as a, open_clip(tmp_path / "a.mkv") as b, open_clip(tmp_path / "b.mkv") as c:
        deep = a.read(0, 2, exact=True)
        assert len(deep.unique()) > 50
        assert torch.equal(deep, b.read(0, 2, exact=True))
        assert len(c.read(0, 2, exact=True).unique()) < 30


def test_png_frames_are_the_frames_with_their_times(make_clip, tmp_path):
    path, _ = make_clip("source.mp4", frames=11, height=47, width=65)
    rewrite(path, tmp_path / "frames")
    files = sorted((tmp_path / "frames").glob("*.png"))
    assert [f.name for f in files] == [f"frame_{i:04d}.png" for i in range(11)]
    with open_clip(path) as before, open_clip(tmp_path / "frames") as after:
        assert torch.equal(before.read(0, 11, exact=True), after.read(0, 11))
    lines = (tmp_path / "frames" / "timestamps.txt").read_text().splitlines()
    assert [float(x) for x in lines[1:]] == [40.0 * i for i in range(11)]
    rewrite(path, tmp_path / "deep", depth=10)
    deep = cv2.imread(str(tmp_path / "deep" / "frame_0003.png"), cv2.IMREAD_UNCHANGED)
    assert deep is not None
    assert deep.dtype == np.uint16


def test_png_frames_appear_whole_or_not_at_all(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="new or empty folder"), write_folder(tmp_path / "full", [Fraction(0)]):
        pass
    with (
        pytest.raises(ValueError, match="expected 2, got 1"),
        write_folder(tmp_path / "out", [Fraction(0), Fraction(1)]) as writer,
    ):
        writer.write(torch.zeros(1, 3, 8, 8))
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_play_in_time(make_clip, tmp_path, suffix):
    path, rgb = make_clip("source.mp4", frames=7, rate=Fraction(30), height=48, width=64)
    (note,) = rewrite(path, tmp_path / f"a{suffix}")
    assert "64x48" in note
    with Image.open(tmp_path / f"a{suffix}") as picture:
        assert (picture.n_frames, picture.size) == (7, (64, 48))
        durations = []
        for i in range(7):
            picture.seek(i)
            picture.load()
            durations.append(picture.info["duration"])
            got = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None] / 255
            assert psnr(got, rgb[i : i + 1]) > 25
    assert sum(durations) == pytest.approx(7000 / 30, abs=10)


def _with_everything(path, picture):
    """The clip with sound, subtitles, chapters and tags, beginning at second 10."""
    with av.open(str(path), "w") as container, av.open(str(picture)) as source:
        container.metadata.update({"title": "My clip", "artist": "Me"})
        container.set_chapters(
            [
                {"id": 1, "start": 10000, "end": 10200, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}},
                {"id": 2, "start": 10200, "end": 10400, "time_base": Fraction(1, 1000), "metadata": {"title": "two"}},
            ]
        )
        copies = {}
        for stream in source.streams:
            copies[stream.index] = container.add_stream_from_template(stream)
            copies[stream.index].metadata["language"] = "fra"
        for packet in source.demux():
            if packet.dts is None or not packet.size:
                continue
            ticks = round(10 / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            packet.stream = copies[packet.stream_index]
            container.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_what_goes_along(make_clip, tmp_path, suffix):
    picture, _ = make_clip("plain.mp4", frames=10, sound=0.4)
    path = _with_everything(tmp_path / "all.mkv", picture)
    assert 9.9 < probe(path).start < 10  # AAC begins before its first sample is heard
    assert rewrite(path, tmp_path / f"out{suffix}") == []
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        tags = {k.lower(): v for k, v in container.metadata.items()}
        assert (tags["title"], tags["artist"]) == ("My clip", "Me")
        chapters = container.chapters()
        begins = [float(c["start"] * c["time_base"]) for c in chapters]
        assert [c["metadata"]["title"] for c in chapters] == ["one", "two"]
        assert container.streams.audio[0].metadata["language"] == "fra"
        times = [float(p.pts * p.time_base) for p in container.demux(audio=0) if p.size]
    with av.open(str(picture)) as container:
        original = [float(p.pts * p.time_base) for p in container.demux(audio=0) if p.size]
    first = float(shown_at(tmp_path / f"out{suffix}")[0])  # of a file that begins at its own time, 0
    assert first < 0.1
    assert [t - first for t in times] == pytest.approx(original, abs=2e-3)
    if suffix == ".mp4":  # whose first chapter begins with the file, whatever it is told
        assert begins.pop(0) == 0
    assert [t - first for t in begins] == pytest.approx([0, 0.2][-len(begins) :], abs=2e-3)


def test_sound_ends_with_the_first_frames(make_clip, tmp_path):
    path, _ = make_clip("source.mp4", frames=20, sound=0.8)
    rewrite(path, tmp_path / "out.mp4", max_frames=5)
    with av.open(str(tmp_path / "out.mp4")) as container:
        last = max(float(p.pts * p.time_base) for p in container.demux(audio=0) if p.size)
    assert 0.1 < last < 0.2


def test_subtitles_of_a_real_clip_are_kept(real_data, tmp_path):
    path = real_data / "clips_odd" / "nasa_13013.mp4"

    def subtitles(file):
        with av.open(str(file)) as container:
            return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(subtitles=0) if p.size]

    rewrite(path, tmp_path / "out.mp4", max_frames=120)
    expected = [s for s in subtitles(path) if s[0] < 4.0]
    assert subtitles(tmp_path / "out.mp4")[: len(expected)] == expected
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(container.streams.audio) == 2
        assert len(container.streams.subtitles) == 2


@pytest.mark.parametrize(
    ("name", "encoding", "match"),
    [
        ("a.avi", {}, "name ending in .mp4"),
        ("a.mp4", {"codec": "ffv1"}, "expected .mkv for ffv1"),
        ("a.webm", {"codec": "h264"}, "for h264, got"),
        ("a.webm", {"depth": 10}, "expected 8 for vp9"),
        ("a.gif", {"codec": "h264"}, "expected none for .gif"),
        ("frames", {"codec": "ffv1"}, "expected none for a folder"),
    ],
)
def test_refusals(tmp_path, name, encoding, match):
    with pytest.raises(ValueError, match=match):
        require_output(tmp_path / name, Encoding(**encoding))


@pytest.mark.parametrize(
    ("codec", "width", "height"), [("hevc", 14, 40), ("av1", 64, 2), ("h264", 16_386, 16), ("av1", 16_386, 16)]
)
def test_sizes_that_an_encoder_refuses_are_refused_before_the_work(codec, width, height):
    with pytest.raises(ValueError, match=f"codec: expected .* for {codec}, got {width}x{height}"):
        stream_of(Path("a.mkv"), Encoding(codec), width_px=width, height_px=height)


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1", "ffv1"])
def test_the_smallest_size_of_an_encoder_is_written(codec, tmp_path):
    sides = [side for side in range(1, 20) if _takes(codec, side)]
    path = tmp_path / "a.mkv"
    with write_clip(
        path, width_px=sides[0], height_px=sides[0], fps=Fraction(25), pts=(0,), time_base=Fraction(1, 25),
        encoding=Encoding(codec),
    ) as writer:  # fmt: skip
        writer.write(torch.zeros(1, 3, sides[0], sides[0]))
    assert probe(path).frames == 1


def _takes(codec, side):
    try:
        stream_of(Path("a.mkv"), Encoding(codec), width_px=side, height_px=side)
    except ValueError:
        return False
    return True


def test_players_of_strips_are_no_longer_than_encoders_take():
    assert square_size(Fraction(16, 9), 480) == (480, 854)
    assert square_size(Fraction(50), 480) == (164, 8192)
    assert square_size(Fraction(1, 9000), 480) == (8192, 2)


def test_av1_refuses_odd_sides_in_one_line(make_clip, tmp_path):
    path, _ = make_clip("source.mp4", frames=2, height=47, width=64)
    with pytest.raises(ValueError, match="even sides for av1, got 64x47"):
        rewrite(path, tmp_path / "a.mp4", codec="av1")
    assert not (tmp_path / "a.mp4").exists()


def test_a_disk_that_is_full_costs_nothing_that_is_there(tmp_path):
    """Files may not grow beyond 4 kB here: what was there stays, nothing half is left, and the reason is said."""
    noise = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    times = [Fraction(i, 25) for i in range(4)]

    def clip(path):
        with write_clip(
            path, width_px=96, height_px=96, fps=Fraction(25), pts=range(4), time_base=Fraction(1, 25),
            encoding=Encoding(crf=1),
        ) as writer:  # fmt: skip
            writer.write(noise)

    def frames(path):
        with write_folder(path, times) as writer:
            writer.write(noise)

    def animation(path):
        with write_animation(path, times, Fraction(4, 25), height_px=96, width_px=96) as writer:
            writer.write(noise)

    def picture(path):
        write_picture(path, to_levels(noise[0]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name, write in (
        ("a.mp4", clip), ("a.mkv", clip), ("f", frames), ("a.gif", animation), ("a.png", picture), ("a.tif", picture),
    ):  # fmt: skip
        if name != "f":
            (tmp_path / name).write_text("old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(OSError, match=r"(?i)file too large"):
                write(tmp_path / name)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if name != "f":
            assert (tmp_path / name).read_text() == "old"
        write(tmp_path / name)
    assert {p.name for p in tmp_path.iterdir()} == {"a.mp4", "a.mkv", "f", "a.gif", "a.png", "a.tif"}


@pytest.mark.parametrize("name", [".mp4", ".MKV", "here/.gif"])
def test_an_ending_alone_is_no_folder_of_frames(tmp_path, name):
    with pytest.raises(ValueError, match="expected a name before its ending"):
        require_output(tmp_path / name, Encoding())
    require_output(tmp_path / ".hidden", Encoding())
