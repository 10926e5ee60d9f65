"""Masks: what is black stays bit for bit, whatever the mask is given as."""

import numpy as np
import pytest
import torch
from PIL import Image

from csd3d.media.clip.probe import probe
from csd3d.media.masks import ClipMask, feathered, masked
from tests.clips import encode


def half(height=48, width=64):
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask


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
    ):
        with pytest.raises(error, match=match):
            ClipMask(path, info)


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
