"""Frames are turned, mirrored and coloured as players show them."""

import struct

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange

from csd3d.media.clip.formats import Encoding
from csd3d.media.clip.output import open_output
from csd3d.media.clip.probe import probe
from csd3d.media.clip.source import open_clip
from csd3d.media.pictures.levels import oriented
from tests.media.test_media_clip_sink import rewrite
from tests.video.video_toys import psnr

MATRICES = {
    2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1), 5: (0, 1, 1, 0), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}  # fmt: skip
"""a b c d of a display matrix, x' = a x + c y, y' = b x + d y with y downwards, by EXIF's number."""


def with_matrix(path, a, b, c, d):
    """Put a display matrix into the track header of an MP4."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: 36 bytes of matrix after 40 of other fields
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("orientation", sorted(MATRICES))
def test_turned_and_mirrored(make_clip, tmp_path, orientation):
    path, rgb = make_clip(frames=2)
    with_matrix(path, *MATRICES[orientation])
    upright = torch.stack(
        [torch.from_numpy(oriented(x.permute(1, 2, 0).numpy(), orientation).copy()).permute(2, 0, 1) for x in rgb]
    )
    with open_clip(path) as clip:
        assert clip.info.orientation == orientation
        for exact in (False, True):
            assert psnr(clip.read(0, 2, exact=exact), upright) > 35
    rewrite(path, tmp_path / "out.mp4")
    with open_clip(tmp_path / "out.mp4") as clip:
        assert clip.info.orientation == 1
        assert psnr(clip.read(0, 2, exact=True), upright) > 35


def test_mirrored_is_left_for_right(make_clip):
    """EXIF's numbers apart: the left column comes to the right, rows stay."""
    path, rgb = make_clip(frames=1)
    with_matrix(path, -1, 0, 0, 1)
    with open_clip(path) as clip:
        assert psnr(clip.read(0, 1), rgb.flip(3)) > 35


def test_an_angle_between_is_said(make_clip):
    path, rgb = make_clip(frames=1)
    with_matrix(path, 1, 1, -1, 1)
    with open_clip(path) as clip:
        assert any("angle" in note for note in clip.notes)
        assert psnr(clip.read(0, 1), rgb) > 35


def plain_yuv(path, y, u, v, *, height, width, matrix=None, primaries=None, transfer=None, deep=False):
    """Two frames of one colour, tagged as asked for or not at all."""
    form, scale = ("yuv420p10le", 4) if deep else ("yuv420p", 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = height, width, form
        codec = stream.codec_context
        if matrix:
            codec.colorspace, codec.color_range = matrix, ColorRange.MPEG
        if primaries:
            codec.color_primaries, codec.color_trc = primaries, transfer
        sizes = [(height, width), (height // 2, width // 2), (height // 2, width // 2)]
        for pts in range(2):
            frame = av.VideoFrame(width, height, form)
            for plane, level, (rows, _) in zip(frame.planes, (y, u, v), sizes, strict=True):
                kind = np.dtype("<u2") if deep else np.dtype("u1")
                plane.update(np.full((rows, plane.line_size // kind.itemsize), level * scale, kind).tobytes())
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def planes(path):
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return [int(np.frombuffer(bytes(plane), np.uint8)[0]) for plane in frame.planes]


def rgb_of(y, u, v, red, blue):
    """Limited-range Y'CbCr by a matrix's weights, for comparison."""
    luma, cb, cr = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    return torch.tensor([r, (luma - red * r - blue * b) / (1 - red - blue), b])


@pytest.mark.parametrize(
    ("height", "width", "red", "blue"),
    [(720, 1280, 0.2126, 0.0722), (64, 1280, 0.2126, 0.0722), (720, 64, 0.2126, 0.0722), (576, 720, 0.299, 0.114)],
)
def test_untagged_clips_have_the_matrix_of_their_size(tmp_path, height, width, red, blue):
    path = plain_yuv(tmp_path / "a.mp4", 84, 113, 150, height=height, width=width)
    with open_clip(path) as clip:
        got = clip.read(0, 1, exact=True)[0, :, 8, 8]
    assert (got - rgb_of(84, 113, 150, red, blue)).abs().max() < 1.5 / 255
    if width == 1280:
        rewrite(path, tmp_path / "out.mp4", crf=0)
        assert np.abs(np.subtract(planes(tmp_path / "out.mp4"), (84, 113, 150))).max() <= 1


def test_a_tag_wins_over_the_size(tmp_path):
    path = plain_yuv(tmp_path / "a.mp4", 84, 113, 150, height=720, width=1280, matrix=5)
    with open_clip(path) as clip:
        got = clip.read(0, 1, exact=True)[0, :, 8, 8]
    assert (got - rgb_of(84, 113, 150, 0.299, 0.114)).abs().max() < 1.5 / 255


@pytest.mark.parametrize(
    ("matrix", "primaries", "transfer", "word"),
    [(9, 9, 18, "HDR (HLG)"), (9, 9, 16, "HDR (PQ)"), (9, 9, 14, "BT.2020"), (1, 12, 13, "Display P3")],
)
def test_wide_colours_keep_their_tags_and_levels(tmp_path, matrix, primaries, transfer, word):
    path = plain_yuv(
        tmp_path / "a.mp4", 84, 113, 150, height=48, width=64, matrix=matrix, primaries=primaries, transfer=transfer,
        deep=True,
    )  # fmt: skip
    with open_clip(path) as clip:
        assert any(word in note for note in clip.notes)
        assert rewrite(path, tmp_path / "out.mp4", crf=0) == ["10 bits a channel become 8"]
        notes = []
        with open_output(tmp_path / "frames", clip.info, Encoding(depth=10), tags={}, notes=notes) as writer:
            writer.write(clip.read(0, 2, exact=True))
        assert any("do not say that their colours are" in note for note in notes)
    assert np.abs(np.subtract(planes(tmp_path / "out.mp4"), (84, 113, 150))).max() <= 1
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
        assert [int(x) for x in (frame.colorspace, frame.color_primaries, frame.color_trc)] == [
            matrix, primaries, transfer,
        ]  # fmt: skip


def test_interlaced_and_transparent_clips_are_said(tmp_path):
    path = tmp_path / "i.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=25, options={"x264-params": "tff=1:interlaced=1", "preset": "ultrafast"}
        )
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for pts in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 60, np.uint8), format="rgb24")
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert any("interlaced" in note for note in probe(path).notes)
    webm = tmp_path / "a.webm"
    with av.open(str(webm), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 4), 60, np.uint8), format="rgba")
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert "transparency is left out" in probe(webm).notes


def test_tags_of_a_phone_stay(make_clip, tmp_path):
    path, _ = make_clip("plain.mp4", frames=2)
    tags = {
        "title": "Trip", "creation_time": "2024-05-06T07:08:09.000000Z",
        "com.apple.quicktime.location.ISO6709": "+48.1371+011.5754+524/", "com.apple.quicktime.make": "Apple",
    }  # fmt: skip
    rewrite(path, tmp_path / "phone.mov", tags=tags)
    for suffix in (".mov", ".mp4", ".mkv"):
        rewrite(tmp_path / "phone.mov", tmp_path / f"out{suffix}")
        got = {k.lower(): v for k, v in probe(tmp_path / f"out{suffix}").tags.items()}
        for key, text in tags.items():
            assert got[key.lower()].startswith(text[:19])


def test_a_spherical_clip_is_said(make_clip):
    path, _ = make_clip(frames=2, height=32, width=64)
    data = path.read_bytes()
    xml = (
        b'<?xml version="1.0"?><rdf:SphericalVideo xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        b'xmlns:GSpherical="http://ns.google.com/videos/1.0/spherical/"><GSpherical:Spherical>true</GSpherical:Spherical>'
        b"<GSpherical:Stitched>true</GSpherical:Stitched>"
        b"<GSpherical:StitchingSoftware>x</GSpherical:StitchingSoftware>"
        b"<GSpherical:ProjectionType>equirectangular</GSpherical:ProjectionType></rdf:SphericalVideo>"
    )
    box = struct.pack(">I4s", 24 + len(xml), b"uuid") + bytes.fromhex("ffcc8263f8554a938814587a02521fdd") + xml
    moov, trak = data.index(b"moov") - 4, data.index(b"trak") - 4
    sizes = [struct.unpack(">I", data[at : at + 4])[0] for at in (moov, trak)]
    assert moov + sizes[0] == len(data), "moov comes last"
    path.write_bytes(
        data[:moov] + struct.pack(">I", sizes[0] + len(box)) + data[moov + 4 : trak]
        + struct.pack(">I", sizes[1] + len(box)) + data[trak + 4 : trak + sizes[1]] + box + data[trak + sizes[1] :]
    )  # fmt: skip
    assert any("spherical" in note for note in probe(path).notes)


@pytest.mark.parametrize("kind", [b"dvcC", b"dvvC"])
def test_dolby_vision_is_said_once(make_clip, kind):
    path, _ = make_clip(frames=2)
    assert probe(path).notes == ()
    with path.open("ab") as file:  # in a sample description in life; FFmpeg passes over it anywhere
        file.write((32).to_bytes(4, "big") + kind + b"\1\0\x0a\x2d" + bytes(20))
    (note,) = probe(path).notes
    assert "Dolby Vision" in note
