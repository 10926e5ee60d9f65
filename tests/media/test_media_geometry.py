"""Aspect kept, multiples by padding, and back to the very pixels."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from csd3d.media.geometry import (
    from_working,
    middle_square,
    pixel_centres,
    read_square,
    resize,
    strip_note,
    to_working,
    working_size,
)
from csd3d.metrics import psnr


@pytest.mark.parametrize(
    ("aspect", "height", "width"),
    [
        (Fraction(16, 9), 128, 228),
        (Fraction(9, 16), 228, 128),
        (Fraction(1), 128, 128),
        (Fraction(321, 181), 128, 227),
        (Fraction(4, 3) * Fraction(64, 45), 128, 243),
    ],
)
def test_short_side_and_aspect(aspect, height, width):
    size = working_size(aspect, 128, 8)
    assert (size.height_px, size.width_px) == (height, width)
    assert all(side % 8 == 0 for side in size.padded)
    assert all(p - s < 8 for p, s in zip(size.padded, (height, width), strict=True))
    assert abs(size.left_px - size.right_px) <= 1
    assert abs(size.top_px - size.bottom_px) <= 1


@pytest.mark.parametrize(
    ("width", "height", "content", "padded"),
    [
        (640, 2, (2, 640), (64, 640)),  # not 20480 px wide
        (2, 640, (640, 2), (640, 64)),
        (32, 2, (16, 256), (64, 256)),
        (40, 30, (64, 85), (64, 88)),
        (6400, 200, (64, 2048), (64, 2048)),
    ],
)
def test_small_strips_are_enlarged_only_so_far(width, height, content, padded):
    size = working_size(Fraction(width, height), 64, 8, source_px=min(width, height))
    assert (size.height_px, size.width_px) == content
    assert size.padded == padded
    rgb = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    assert from_working(to_working(rgb, size), size, height, width).shape == rgb.shape


def test_of_strips_something_is_said():
    assert "640x2 px are next to nothing" in str(strip_note(2, 640, 64, windows=True))
    assert "640x40 px are 16 times as long as wide" in str(strip_note(40, 640, 64))
    assert strip_note(40, 640, 64, windows=True) is strip_note(64, 400, 64) is None


def test_size_below_the_unit_is_refused():
    with pytest.raises(ValueError, match="at least 8 px"):
        working_size(Fraction(1), 7, 8)


def test_padding_repeats_edges_and_is_cropped_away_exactly():
    rgb = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    size = working_size(Fraction(30, 20), 20, 8)
    small = to_working(rgb, size)
    assert small.shape[-2:] == size.padded == (24, 32)
    assert torch.equal(small[:, :, 0, 1:-1], small[:, :, 2, 1:-1])
    assert torch.equal(from_working(small, size, 20, 30), rgb)


def test_down_and_up_keep_smooth_pictures_in_place():
    x = torch.linspace(0, 3, 120)
    rgb = (0.5 + 0.4 * torch.sin(x)[None, :] * torch.cos(x[:90, None])).expand(1, 3, 90, 120)
    size = working_size(Fraction(4, 3), 32, 8)
    back = from_working(to_working(rgb, size), size, 90, 120)
    assert psnr(back, rgb) > 40
    flipped = from_working(to_working(rgb.flip(3), size), size, 90, 120).flip(3)
    assert (flipped - back).abs().max() < 0.02  # nothing drifts to one side


def test_pixels_that_are_not_square_become_square_and_return():
    rgb = torch.zeros(1, 3, 40, 40)
    rgb[..., 20:] = 1  # shown 80 wide
    size = working_size(Fraction(2), 40, 8)
    small = to_working(rgb, size)
    assert small.shape[-2:] == (40, 80)
    assert small[0, 0, 20, 36] < 0.1
    assert small[0, 0, 20, 44] > 0.9
    assert psnr(from_working(small, size, 40, 40), rgb) > 20


def test_same_size_is_untouched():
    rgb = torch.rand(1, 3, 8, 8)
    assert resize(rgb, 8, 8) is rgb


def test_the_middle_of_a_picture() -> None:
    levels = np.zeros((6, 10, 3), np.uint8)
    levels[:, 2:8] = 255
    assert torch.equal(middle_square(Image.fromarray(levels), 4), torch.ones(3, 4, 4))


def test_a_square_of_a_file_is_upright_and_keeps_sixteen_bit_grey(tmp_path):
    column = np.arange(8)[:, None].repeat(10, 1)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray((column * 30).astype(np.uint8)).save(tmp_path / "a.png", exif=exif)
    square = read_square(tmp_path / "a.png", 8)
    assert square.shape == (3, 8, 8)
    assert torch.equal(square[0, :, 0], torch.arange(7, -1, -1) * 30 / 255)
    Image.fromarray((column * 30 * 257).astype(np.uint16)).save(tmp_path / "deep.png")
    assert torch.equal(read_square(tmp_path / "deep.png", 8)[0, :, 0], torch.arange(8) * 30 / 255)
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bad.png cannot be read"):
        read_square(tmp_path / "bad.png", 8)


def test_centres_of_pixels():
    assert pixel_centres(2, 3).tolist() == [[[x + 0.5, y + 0.5] for x in range(3)] for y in range(2)]
