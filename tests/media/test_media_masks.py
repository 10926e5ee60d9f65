"""Masks: what is black stays bit for bit, whatever the mask is given as."""

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from csd3d.media.clip.probe import probe
from csd3d.media.masks import ClipMask, feathered, masked, read_mask
from panorama.regions import MaskFile
from tests.clips import encode


def half(height=48, width=64):
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask


GREEN = 0.7152
"""Luma of pure green after Rec. 709."""


def one_colour(path, pixel, dtype=np.uint8):
    """A mask of 64 x 48 px in one grey, RGB or RGBA colour."""
    picture = np.broadcast_to(np.array(pixel, dtype), (48, 64, len(pixel)))
    order = {1: slice(None), 3: [2, 1, 0], 4: [2, 1, 0, 3]}[len(pixel)]
    assert cv2.imwrite(str(path), picture[:, :, order])
    return path


@pytest.mark.parametrize(
    ("name", "pixel", "dtype", "level"),
    [
        ("white.png", [255], np.uint8, 1.0),
        ("grey.png", [40], np.uint8, 40 / 255),
        ("grey.bmp", [40, 40, 40], np.uint8, 40 / 255),
        ("grey16.png", [9830], np.uint16, 9830 / 65535),
        ("grey16.tif", [9830], np.uint16, 9830 / 65535),
        ("green.png", [0, 255, 0], np.uint8, GREEN),
        ("green16.tif", [0, 65535, 0], np.uint16, GREEN),
        ("clear.png", [255, 255, 255, 0], np.uint8, 0.0),
        ("half.png", [255, 255, 255, 51], np.uint8, 0.2),
        ("half16.png", [0, 65535, 0, 32768], np.uint16, GREEN * 32768 / 65535),
    ],
)
def test_a_mask_means_the_same_everywhere(make_clip, tmp_path, name, pixel, dtype, level):
    path = one_colour(tmp_path / name, pixel, dtype)
    expected = torch.full((48, 64), level)
    info = probe(make_clip(frames=2)[0])
    (tmp_path / "frames").mkdir()
    for k in range(2):
        (tmp_path / "frames" / f"{k}{path.suffix}").write_bytes(path.read_bytes())
    torch.testing.assert_close(read_mask(path), expected)
    for given in (path, tmp_path / "frames") if level else ():  # for a clip, nothing but black is refused
        with ClipMask(given, info) as mask:
            torch.testing.assert_close(mask(range(2)), expected.expand(2, 1, -1, -1))
    region = MaskFile.read(path, 48, 64)
    torch.testing.assert_close(region.weight(torch.tensor([0.5]), torch.tensor([0.5])), expected[0, :1])


def test_transparency_of_a_clip_of_masks_counts(make_clip, tmp_path):
    info = probe(make_clip(frames=2)[0])
    levels = np.full((48, 64, 4), 255, np.uint8)
    levels[:, :32, 3] = 0
    path = tmp_path / "m.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgba"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(levels, format="rgba")))
        container.mux(stream.encode(None))
    with ClipMask(path, info) as mask:
        assert torch.equal(mask(range(2)), torch.from_numpy(half() / 255).float().expand(2, 1, -1, -1))


@pytest.mark.parametrize(("mode", "value"), [("F", 1.0), ("I", 70000)])
def test_a_mask_of_32_bits_is_refused_in_one_line(tmp_path, mode, value):
    Image.new(mode, (64, 48), value).save(tmp_path / "m.tif")
    with pytest.raises(ValueError, match=r"^mask: expected a picture, got .*expected 8 or 16 bits a channel, got 32"):
        read_mask(tmp_path / "m.tif")


def test_a_picture_serves_every_frame(make_clip, tmp_path):
    info = probe(make_clip(frames=5)[0])
    Image.fromarray(half()).save(tmp_path / "m.png")
    with ClipMask(tmp_path / "m.png", info) as mask:
        assert torch.equal(mask(range(2, 5)), torch.from_numpy(half() / 255).float().expand(3, 1, -1, -1))
    Image.fromarray(half(24, 32)).save(tmp_path / "small.png")
    with ClipMask(tmp_path / "small.png", info) as mask:
        assert torch.equal(mask(range(1))[0, 0], torch.from_numpy(half() / 255).float())


def test_a_folder_and_a_video_have_one_a_frame(make_clip, tmp_path):
    info = probe(make_clip(frames=3)[0])
    (tmp_path / "masks").mkdir()
    levels = torch.zeros(4, 3, 48, 64)
    for i in range(4):
        levels[i, :, :, 16 * i :] = 1
        Image.fromarray((levels[i, 0] * 255).byte().numpy()).save(tmp_path / "masks" / f"{i}.png")
    video = encode(tmp_path / "m.mkv", levels, codec="ffv1", pix_fmt="bgr0")
    for path in (tmp_path / "masks", tmp_path / "masks" / "*.png", video):
        with ClipMask(path, info) as mask:
            assert torch.equal(mask(range(0, 2)), levels[:2, :1])
            assert torch.equal(mask(range(2, 3)), levels[2:3, :1])


def test_refusals(make_clip, tmp_path):
    info = probe(make_clip(frames=3)[0])
    Image.fromarray(half(48, 48)).save(tmp_path / "square.png")
    (tmp_path / "bad.png").write_bytes(b"no")
    short, _ = make_clip("short.mp4", frames=2)
    for path, error, match in (
        (tmp_path / "square.png", ValueError, "64x48 px, got 48x48"),
        (tmp_path / "bad.png", ValueError, "cannot be read"),
        (tmp_path / "none.png", FileNotFoundError, "does not exist"),
        (short, ValueError, "expected 3 frames as the clip has, got 2"),
        (tmp_path / "nowhere", FileNotFoundError, "expected a video file or a folder of frames"),
    ):
        with pytest.raises(error, match=f"^mask: .*{match}"):
            ClipMask(path, info)


def test_a_mask_that_leaves_nothing_to_edit_is_refused(make_clip, tmp_path):
    info = probe(make_clip(frames=3)[0])
    (tmp_path / "masks").mkdir()
    for i in range(4):
        Image.new("L", (64, 48)).save(tmp_path / "masks" / f"{i}.png")
    for path in (
        tmp_path / "masks" / "0.png",
        tmp_path / "masks",
        encode(tmp_path / "m.mkv", torch.zeros(4, 3, 48, 64)),
    ):
        with pytest.raises(ValueError, match=r"^mask: expected something white, got nothing but black in"):
            ClipMask(path, info)
    Image.new("L", (64, 48), 9).save(tmp_path / "masks" / "2.png")
    with ClipMask(tmp_path / "masks", info) as mask:
        assert not mask(range(2)).any()


def test_a_feather_fades_inwards():
    mask = torch.from_numpy(half(9, 20) / 255).float()[None, None]
    soft = feathered(mask, 3.0)
    assert torch.equal(soft[..., :10], mask[..., :10])
    torch.testing.assert_close(soft[0, 0, 4, 10:], torch.tensor([1, 2, 3, 4, 4, 4, 4, 4, 4, 4]) / 4, atol=0.02, rtol=0)


def test_outside_is_the_source_bit_for_bit():
    source, edited = torch.rand(2, 3, 6, 8), torch.rand(2, 3, 6, 8)
    mask = torch.zeros(2, 1, 6, 8)
    mask[..., 4:], mask[..., 6:] = 0.5, 1.0
    out = masked(source, edited, mask)
    assert torch.equal(out[..., :4], source[..., :4])
    torch.testing.assert_close(out[..., 4:6], (source + edited)[..., 4:6] / 2)
    assert torch.equal(out[..., 6:], edited[..., 6:])
