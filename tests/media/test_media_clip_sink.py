"""What is written plays the same frames at the same times with the same sound, or is not there at all."""

from fractions import Fraction

import av
import pytest
import torch

from csd3d.media.clip.formats import Encoding
from csd3d.media.clip.output import open_output
from csd3d.media.clip.probe import probe
from csd3d.media.clip.sink import write_clip
from csd3d.media.clip.source import open_clip
from tests.video.video_toys import psnr


def rewrite(source, target, *, tags=None, max_frames=None, **encoding):
    """Copy a clip frame by frame through source and sink; returns the notes."""
    notes = []
    with open_clip(source, max_frames=max_frames) as clip:
        how = Encoding(**{"crf": 4, **encoding})
        with open_output(target, clip.info, how, tags=tags or clip.info.tags, notes=notes) as writer:
            for _, rgb in clip.chunks(4, exact=True):
                writer.write(rgb)
    return notes


def shown_at(path):
    """Seconds at which every frame is shown, from the container itself."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    "rate", [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(15), Fraction(60)]
)
def test_rate_count_and_frames_come_back(make_clip, tmp_path, rate):
    path, rgb = make_clip(rate=rate, frames=11)
    out = tmp_path / "out.mp4"
    assert rewrite(path, out) == []
    with open_clip(out) as clip:
        assert clip.info.fps == rate
        assert clip.info.constant_rate
        assert clip.info.frames == 11
        assert psnr(clip.read(0, 11, exact=True), rgb) > 37
    assert shown_at(out) == [i / rate for i in range(11)]


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv"])
def test_containers(make_clip, tmp_path, suffix):
    path, rgb = make_clip(frames=5, sound=0.4)
    out = tmp_path / f"out{suffix}"
    assert rewrite(path, out) == []
    with open_clip(out) as clip:
        assert clip.info.audio_streams > 0
        assert clip.info.fps == 25
        assert psnr(clip.read(0, 5, exact=True), rgb) > 37


@pytest.mark.parametrize(("height", "width"), [(48, 64), (50, 66), (47, 64), (48, 65), (31, 33)])
def test_size_is_kept_to_the_pixel(make_clip, tmp_path, height, width):
    path, rgb = make_clip(frames=3, height=height, width=width)
    rewrite(path, tmp_path / "out.mp4")
    with open_clip(tmp_path / "out.mp4") as clip:
        assert (clip.info.width_px, clip.info.height_px) == (width, height)
        assert clip.info.pixel_format == ("yuv444p" if width % 2 or height % 2 else "yuv420p")
        assert psnr(clip.read(0, 3, exact=True), rgb) > 36


def test_sample_aspect_and_upright_rotation(make_clip, tmp_path):
    path, _ = make_clip(frames=2, aspect=Fraction(4, 3), rotation=90)
    rewrite(path, tmp_path / "out.mp4")
    info = probe(tmp_path / "out.mp4")
    assert (info.width_px, info.height_px, info.rotation) == (48, 64, 0)
    assert info.sample_aspect == Fraction(3, 4)


def test_colours_are_tagged_and_converted_as_tagged(tmp_path):
    patches = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [0.8, 0.2, 0.1]])
    rgb = patches.repeat_interleave(16, 0).T[None, :, None].expand(2, 3, 32, 96)
    out = tmp_path / "out.mp4"
    with write_clip(
        out,
        width_px=96,
        height_px=32,
        fps=Fraction(25),
        pts=(0, 1),
        time_base=Fraction(1, 25),
        encoding=Encoding(crf=1),
    ) as writer:
        writer.write(rgb)
    with av.open(str(out)) as container:
        codec = container.streams.video[0].codec_context
        assert (int(codec.colorspace), int(codec.color_range)) == (1, 1)
        assert (int(codec.color_primaries), int(codec.color_trc)) == (1, 1)
        frame = next(container.decode(video=0))
        luma = torch.from_numpy(frame.to_ndarray())[:32].float()  # the Y plane as stored
    expected = 16 + 219 * (patches @ torch.tensor([0.2126, 0.7152, 0.0722]))
    assert (luma[16, 8::16] - expected).abs().max() <= 2
    with open_clip(out) as clip:
        got = clip.read(0, 1, exact=True)[0, :, 16, 8::16].T
    assert (got - patches).abs().max() <= 3 / 255


def _vfr(path, times, rgb):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width = rgb.shape[-2:]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.time_base = Fraction(1, 30000)
        for time, picture in zip(times, rgb, strict=True):
            levels = (picture.permute(1, 2, 0) * 255).byte().contiguous().numpy()
            frame = av.VideoFrame.from_ndarray(levels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 30000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_irregular_times_are_kept(make_clip, tmp_path, suffix):
    _, rgb = make_clip(frames=8)
    times = [0, 1001, 4004, 5005, 9009, 9510, 15015, 16016]
    path = tmp_path / "vfr.mp4"
    _vfr(path, times, rgb)
    assert not probe(path).constant_rate
    out = tmp_path / f"out{suffix}"
    rewrite(path, out)
    tolerance = Fraction(1, 1000) if suffix == ".mkv" else 0
    for time, shown in zip(times, shown_at(out), strict=True):
        assert abs(shown - Fraction(time, 30000)) <= tolerance


def _packets(path):
    with av.open(str(path)) as container:
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(audio=0) if p.size]


@pytest.mark.parametrize("seconds", [0.1, 0.9])
def test_sound_is_copied_packet_for_packet_in_sync(make_clip, tmp_path, seconds):
    path, _ = make_clip(frames=12, sound=seconds)  # shorter and longer than the 0.48 s of picture
    rewrite(path, tmp_path / "out.mp4")
    assert _packets(tmp_path / "out.mp4") == _packets(path)


def test_sound_that_the_container_cannot_hold_is_said(make_clip, tmp_path):
    picture, rgb = make_clip(frames=3)
    path = tmp_path / "flac.mkv"
    with av.open(str(path), "w") as container, av.open(str(picture)) as source:
        video = container.add_stream_from_template(source.streams.video[0])
        sound = container.add_stream("flac", rate=8000, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                container.mux(packet)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    (note,) = rewrite(path, tmp_path / "out.mov")
    assert "flac" in note
    assert ".mkv" in note
    with open_clip(tmp_path / "out.mov") as clip:
        assert clip.info.audio_streams == 0
        assert psnr(clip.read(0, 3, exact=True), rgb) > 35
    assert rewrite(path, tmp_path / "out.mkv") == []
    assert probe(tmp_path / "out.mkv").audio_streams > 0


def _fails_half_way(target, rgb, what):
    with write_clip(
        target, width_px=64, height_px=48, fps=Fraction(25), pts=tuple(range(7)), time_base=Fraction(1, 25)
    ) as writer:
        writer.write(rgb[:3])
        what(writer)


@pytest.mark.parametrize("before", [None, b"an older clip"])
def test_failure_leaves_what_was_there(make_clip, tmp_path, before):
    _, rgb = make_clip()
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "clip.mp4"
    if before:
        target.write_bytes(before)

    def crash(writer):
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        _fails_half_way(target, rgb, crash)
    with pytest.raises(ValueError, match="expected 7, got 3"):
        _fails_half_way(target, rgb, lambda writer: None)
    assert [p.name for p in folder.iterdir()] == (["clip.mp4"] if before else [])
    assert not before or target.read_bytes() == before


@pytest.mark.parametrize(
    ("frames", "match"),
    [
        (torch.zeros(8, 3, 48, 64), "expected 7 in all"),
        (torch.zeros(1, 3, 48, 60), "expected 64x48 px, got 60x48"),
        (torch.full((1, 3, 48, 64), float("nan")), "finite"),
    ],
)
def test_frames_that_do_not_fit_are_refused(tmp_path, frames, match):
    with pytest.raises(ValueError, match=match):
        _fails_half_way(tmp_path / "a.mp4", torch.zeros(0, 3, 48, 64), lambda writer: writer.write(frames))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.avi", "a.gif", "a"])
def test_containers_we_do_not_write_are_refused(tmp_path, name):
    with (
        pytest.raises(ValueError, match="name ending in"),
        write_clip(tmp_path / name, width_px=8, height_px=8, fps=Fraction(1), pts=(0,), time_base=Fraction(1)),
    ):
        pass


def test_a_single_frame(make_clip, tmp_path):
    path, rgb = make_clip(frames=1)
    rewrite(path, tmp_path / "out.mp4")
    with open_clip(tmp_path / "out.mp4") as clip:
        assert clip.info.frames == 1
        assert psnr(clip.read(0, 1, exact=True), rgb) > 35


@pytest.mark.parametrize(
    "name", ["made_vfr.mp4", "made_rotated_portrait.mp4", "made_audio_longer_than_video.mp4", "made_vp9.webm"]
)
def test_real_clips_come_back(real_data, tmp_path, name):
    path = real_data / "clips_odd" / name
    rewrite(path, tmp_path / "out.mp4")
    before, after = probe(path), probe(tmp_path / "out.mp4")
    assert (after.frames, after.fps, after.width_px, after.height_px, after.constant_rate) == (
        before.frames,
        before.fps,
        before.width_px,
        before.height_px,
        before.constant_rate,
    )
    for i in range(before.frames):
        assert after.time_s(i) == pytest.approx(before.time_s(i), abs=1e-3)
