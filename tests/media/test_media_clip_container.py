"""Which files are opened, and one clock for recordings that were joined."""

import struct
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from PIL import Image

from csd3d.media.clip.probe import probe
from csd3d.media.clip.source import open_clip
from csd3d.media.masks import read_mask
from tests.clips import encode, moving_picture
from tests.media.test_media_clip_sink import rewrite
from tests.video.video_toys import psnr


def _joined(tmp_path, *, shift=0):
    """Two transport streams with sound, one after the other in one file; the second's clock is `shift` s on."""
    parts = []
    for seed in (0, 1):
        rgb = moving_picture(8, 48, 64, seed)
        path = encode(tmp_path / f"{seed}.ts", rgb, pix_fmt="yuv420p", sound=0.32)
        if seed and shift:
            late = tmp_path / "late.ts"
            with av.open(str(path)) as source, av.open(str(late), "w") as target:
                copies = {s.index: target.add_stream_from_template(s) for s in source.streams}
                for packet in source.demux():
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + shift * 90_000, packet.dts + shift * 90_000
                        packet.stream = copies[packet.stream_index]
                        target.mux(packet)
            path = late
        parts.append((path.read_bytes(), rgb))
    (tmp_path / "both.ts").write_bytes(b"".join(data for data, _ in parts))
    return tmp_path / "both.ts", [rgb for _, rgb in parts]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("shift", [0, 86_400 // 4])
def test_joined_recordings_follow_each_other(tmp_path, suffix, shift):
    path, (first, second) = _joined(tmp_path, shift=shift)
    with open_clip(path) as clip:
        assert not clip.info.damaged
        assert clip.info.frames == 16
        times = [clip.info.time_s(i) for i in range(16)]
        assert all(0.02 < b - a < 0.25 for a, b in pairwise(times))
        assert psnr(clip.read(0, 8, exact=True), first) > 25
        assert psnr(clip.read(8, 16, exact=True), second) > 25
    rewrite(path, tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as out:
        sound = [float(p.pts * p.time_base) for p in out.demux(audio=0) if p.size]
    assert all(0 < b - a < 0.25 for a, b in pairwise(sound))
    assert len(sound) >= 10
    assert probe(tmp_path / f"out{suffix}").frames == 16


def test_sound_whose_clock_goes_back_is_written(make_clip, tmp_path):
    """Containers without clock jumps, too, may hold sound packets whose times do not rise."""
    picture, _ = make_clip("plain.mp4", frames=10, sound=0.4)
    path = tmp_path / "back.nut"
    with av.open(str(picture)) as source, av.open(str(path), "w") as target:
        copies = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream_index]
                target.mux(packet)
    assert rewrite(path, tmp_path / "out.mp4") == []


def test_lists_of_other_files_are_no_clips(make_clip, tmp_path):
    part, _ = make_clip("part.mp4", frames=2)
    texts = {
        "list.mp4": f"ffconcat version 1.0\nfile {part.name}\n",
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{part}\n#EXT-X-ENDLIST\n",
        "art.nfo": "\x1b[31mhello\n" * 30,
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="clip: expected a") as caught:
            open_clip(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="a list of other files"):
        open_clip(tmp_path / "list.mp4")


def test_tags_that_are_no_utf8_are_latin1(make_clip, tmp_path):
    path = tmp_path / "old.avi"
    encode(path, moving_picture(4, 48, 64), codec="mpeg4", pix_fmt="yuv420p")
    with av.open(str(path)) as source, av.open(str(tmp_path / "tagged.avi"), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        target.metadata["title"] = "Muenchen"
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    data = (tmp_path / "tagged.avi").read_bytes()
    path.write_bytes(data.replace(b"Muenchen", "M\u00fcnchen ".encode("latin-1")))
    with open_clip(path) as clip:
        assert clip.info.tags["title"].strip() == "M\u00fcnchen"
        assert clip.info.frames == 4
    rewrite(path, tmp_path / "out.mkv")
    assert probe(tmp_path / "out.mkv").tags["title"].strip() == "M\u00fcnchen"


def test_an_unknown_codec_is_named_so(make_clip, tmp_path):
    path, _ = make_clip(frames=2)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz9"))
    with pytest.raises(ValueError, match="video of a known codec"):
        open_clip(path)


def test_a_promise_of_two_billion_frames(make_clip):
    """A header that names more frames than fit into memory."""
    path, rgb = make_clip(frames=4)
    data = bytearray(path.read_bytes())
    at = data.index(b"stts") + 8
    (count,) = struct.unpack(">I", data[at : at + 4])
    assert count == 1
    data[at + 4 : at + 8] = struct.pack(">I", 0x7FFFFFFF)
    path.write_bytes(bytes(data))
    with open_clip(path, max_frames=3) as clip:
        assert psnr(clip.read(0, 3), rgb[:3]) > 30


def test_a_name_that_is_no_utf8(make_clip, tmp_path):
    path, _ = make_clip(frames=2)
    odd = path.rename(tmp_path / "caf\udce9.mp4")
    with pytest.raises(ValueError, match="clip: expected a name in UTF-8"):
        open_clip(odd)


def test_a_name_of_a_frame_that_is_no_utf8(make_clip, tmp_path):
    odd = tmp_path / "frames" / "caf\udce9.png"
    odd.parent.mkdir()
    Image.new("RGB", (16, 12)).save(odd)
    with pytest.raises(ValueError, match="clip: expected a name in UTF-8"):
        open_clip(odd.parent)
    with pytest.raises(ValueError, match="mask: expected a name in UTF-8"):
        read_mask(odd)


def test_a_percent_sign_is_no_number_of_a_frame(tmp_path):
    for name, level in (("a1.ppm", 50), ("a2.ppm", 100), ("a%d.ppm", 200)):
        Image.new("RGB", (16, 12), (level,) * 3).save(tmp_path / name)
    with open_clip(tmp_path / "a%d.ppm") as clip:
        assert clip.info.frames == 1
        assert float(clip.read(0, 1).mean()) == pytest.approx(200 / 255)


def test_frames_that_only_repeat_are_no_damage(tmp_path):
    """An AVI says with an empty packet that the last frame stays."""
    path = tmp_path / "gap.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 12)
        for time in (0, 1, 4, 5):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * time, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 12)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = probe(path)
    assert not info.damaged
    assert [info.time_s(i) * 12 for i in range(4)] == pytest.approx([0, 1, 4, 5])
