"""Colours of frames are those that a screen shows, whatever profile says so."""

from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from csd3d.media.clip.source import open_clip
from csd3d.media.pictures.profile import Profile, profile_from


def fixed(value):
    return round(value * 65536).to_bytes(4, "big", signed=True)


def profile(columns, curve):
    """An ICC profile with these primaries in XYZ (D50) and one curve for all channels."""
    xyz = [b"XYZ \0\0\0\0" + b"".join(map(fixed, column)) for column in columns]
    bodies = [*xyz, curve, curve, curve]
    names = (b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC")
    start, table, data = 128 + 4 + 12 * len(names), b"", b""
    for name, body in zip(names, bodies, strict=True):
        table += name + (start + len(data)).to_bytes(4, "big") + len(body).to_bytes(4, "big")
        data += body + b"\0" * (-len(body) % 4)
    head = bytearray(128)
    head[8:12], head[12:24], head[36:40] = b"\2\x10\0\0", b"mntrRGB XYZ ", b"acsp"
    head[68:80] = fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    head[:4] = (start + len(data)).to_bytes(4, "big")
    return bytes(head) + len(names).to_bytes(4, "big") + table + data


def para(form, *values):
    return b"para\0\0\0\0" + form.to_bytes(2, "big") + b"\0\0" + b"".join(map(fixed, values))


SRGB_CURVE = para(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
SRGB = ((0.4360747, 0.2225045, 0.0139322), (0.3850649, 0.7168786, 0.0971045), (0.1430804, 0.0606169, 0.7141733))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
GAMMA = b"curv\0\0\0\0\0\0\0\1\x02\x33"  # 2.2 in eights and fractions
TABLE = (
    b"curv\0\0\0\0"
    + (1024).to_bytes(4, "big")
    + b"".join(round(65535 * (k / 1023) ** 2.2).to_bytes(2, "big") for k in range(1024))
)


def test_a_green_of_display_p3():
    p3 = Profile(profile(P3, SRGB_CURVE))
    assert not p3.is_srgb
    assert p3.to_srgb(np.array([[[32, 192, 64]]], np.uint8)).tolist() == [[[0, 195, 32]]]
    deep = p3.to_srgb(np.array([[[32, 192, 64]]], np.uint16) * 257) / 257
    assert np.abs(deep - [[[0, 195, 32]]]).max() < 0.5


@pytest.mark.parametrize("primaries", [P3, ADOBE])
@pytest.mark.parametrize("curve", [SRGB_CURVE, GAMMA, TABLE, para(0, 2.2), b"curv\0\0\0\0\0\0\0\0"])
def test_as_littlecms_converts(primaries, curve):
    data = profile(primaries, curve)
    levels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    expected = ImageCms.profileToProfile(
        Image.fromarray(levels), ImageCms.ImageCmsProfile(BytesIO(data)), ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )  # fmt: skip
    assert expected is not None
    difference = np.abs(np.asarray(expected).astype(int) - Profile(data).to_srgb(levels))
    assert difference.mean() < 0.1
    assert difference.max() <= 2


def test_srgb_is_left_alone():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    for data in (profile(SRGB, SRGB_CURVE), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        assert Profile(data).to_srgb(levels) is levels


@pytest.mark.parametrize("data", [b"", b"nothing", bytes(200), profile(P3, b"mft2" + bytes(40)), profile(P3, b"para")])
def test_other_kinds_are_no_profile(data):
    assert profile_from(data) is None


@pytest.mark.parametrize("deep", [False, True])
def test_frames_with_a_profile(tmp_path, deep):
    (tmp_path / "p3").mkdir()
    pixels = np.full((8, 8, 3), (32, 192, 64), np.uint8)
    path = tmp_path / "p3" / "0.png"
    Image.fromarray(pixels).save(path, icc_profile=profile(P3, SRGB_CURVE))
    if deep:
        from csd3d.media.pictures.tags import Tags
        from csd3d.media.pictures.write import write_picture

        write_picture(path, pixels.astype(np.uint16) * 257, tags=Tags(icc=profile(P3, SRGB_CURVE)))
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    with open_clip(tmp_path / "p3") as clip:
        assert any("converted to sRGB" in note for note in clip.notes)
        got = clip.read(0, 1)[0, :, 0, 0] * 255
    assert np.abs(got.numpy() - (0, 195, 32)).max() <= 0.5


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_frames_of_an_animation_are_what_their_profile_shows(tmp_path, name):
    first, second = (Image.fromarray(np.full((16, 16, 3), (32, 192 - k, 64), np.uint8)) for k in (0, 1))
    icc = profile(P3, SRGB_CURVE)
    first.save(tmp_path / name, save_all=True, append_images=[second], duration=40, icc_profile=icc, lossless=True)
    for exact in (True, False):
        with open_clip(tmp_path / name) as clip:
            assert any("converted to sRGB" in note for note in clip.notes)
            assert (255 * clip.read(0, 1, exact=exact)[0, :, 0, 0]).round().tolist() == [0, 195, 32]
