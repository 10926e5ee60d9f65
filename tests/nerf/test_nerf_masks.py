"""Masks of views: levels as everywhere, white from half on."""

import numpy as np
import pytest
from PIL import Image

from csd3d.nerf.masks import read_masks


@pytest.mark.parametrize(
    ("pixel", "white"),
    [
        (np.uint8(127), False),
        (np.uint8(128), True),
        (np.uint16(9830), False),  # 15 %
        (np.uint16(40000), True),
        ((np.uint8(0), np.uint8(255), np.uint8(0)), True),
        ((np.uint8(255), np.uint8(255), np.uint8(255), np.uint8(0)), False),
    ],
)
def test_grey_of_sixteen_bits_colour_and_transparency_are_read_as_everywhere(tmp_path, pixel, white):
    shape = (6, 8) if np.ndim(pixel) == 0 else (6, 8, len(pixel))
    Image.fromarray(np.full(shape, pixel, np.asarray(pixel).dtype)).save(tmp_path / "a.png")
    masks = read_masks(tmp_path, ["a", "b"], 6, 8)
    assert bool(masks[0].all()) is white
    assert bool(masks[0].any()) is white
    assert bool(masks[1].all())


def test_refusals(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read as one"):
        read_masks(tmp_path, ["a"], 6, 8)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="mask-dir: expected 8x6 px, got 8x8"):
        read_masks(tmp_path, ["a"], 6, 8)
    with pytest.raises(ValueError, match="none in"):
        read_masks(tmp_path, ["c"], 6, 8)
