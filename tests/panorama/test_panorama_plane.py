"""A picture on its canvas: aspect kept, tiles without seams, bounded pixels, and an unedited canvas is the source."""

from pathlib import Path

import pytest
import torch
from panorama_toys import scenery
from torch.nn.functional import interpolate, pad

from csd3d.media.pictures.read import Picture
from panorama.plane import TILE_LAT, make_plane
from panorama.regions import Everywhere, Plan, Sentence
from tests.toys import ToyCodec

PLAIN = Plan((Sentence("x", Everywhere()),))


def picture_of(height, width, **options):
    return Picture(Path("made.png"), scenery(height, width, **options))


def plane_of(picture, *, size=32, window=4, stride=2, **options):
    return make_plane(
        picture.height_px, picture.width_px, size_px=size, factor=8, window_lat=window, stride_lat=stride, **options
    )


def encoded(plane, picture, codec=None):
    *_, (done, canvas) = plane.encode(picture, (codec or ToyCodec()).encode)
    assert done == plane.parts
    return canvas


def assembled(plane, picture, z, s, *, detail=1.0):
    out = torch.full((3, picture.height_px, picture.width_px), float("nan"))
    for block in plane.blocks(picture, z, s, ToyCodec().decode, detail=detail):
        out[:, block.rows[:, None], block.columns[None]] = block.edited
    return out


@pytest.mark.parametrize(
    ("height", "width", "size", "content", "canvas"),
    [
        (894, 5823, 128, (128, 834), (128, 840)),
        (256, 1536, 128, (128, 768), (128, 768)),
        (1536, 256, 128, (768, 128), (768, 128)),
        (1, 1, 32, (32, 32), (32, 32)),
        (513, 7, 128, (513, 7), (520, 128)),  # enlarged no further than sense has it, and padded to a whole window
        (100, 150, 30, (30, 45), (32, 48)),
    ],
)
def test_aspect_is_kept_and_sides_are_padded_to_latents(height, width, size, content, canvas):
    plane = make_plane(height, width, size_px=size, factor=8, window_lat=16, stride_lat=8)
    assert (plane.y.content_px, plane.x.content_px) == content
    assert (plane.y.canvas_px, plane.x.canvas_px) == canvas


def test_a_cylinder_is_a_whole_number_of_latents_around():
    plane = make_plane(894, 5823, size_px=128, factor=8, window_lat=16, stride_lat=8, wraps=True)
    assert (plane.x.content_px, plane.x.canvas_px, plane.x.before_px) == (832, 832, 0)
    assert abs(plane.x.scale / plane.y.scale - 1) < 0.5 * 8 / 832 + 0.002


def test_working_pixels_equal_scaling_the_whole_picture():
    picture = picture_of(61, 203)
    plane = plane_of(picture)
    rgb = picture.rgb(torch.arange(61), torch.arange(203))
    small = interpolate(rgb[None], (32, plane.x.content_px), mode="bicubic", antialias=True).clamp(0, 1)
    left = plane.x.before_px
    right = plane.x.canvas_px - plane.x.content_px - left
    expected = pad(small, (left, right, 0, 0), mode="replicate")[0]
    got = plane.working(picture, torch.arange(32), torch.arange(plane.x.canvas_px))
    assert torch.allclose(got, expected, atol=1e-5)
    part = plane.working(picture, torch.arange(8, 16), torch.arange(40, 56))
    assert torch.allclose(part, expected[:, 8:16, 40:56], atol=1e-5)


def test_reading_in_pieces_changes_nothing(monkeypatch):
    picture = picture_of(90, 130)
    plane = plane_of(picture)
    at = torch.arange(32), torch.arange(plane.x.canvas_px)
    whole = plane.working(picture, *at)
    monkeypatch.setattr("panorama.plane._READ_PX", 1000)
    assert torch.allclose(plane.working(picture, *at), whole, atol=1e-5)


@pytest.mark.parametrize("wraps", [False, True])
def test_tiled_encoding_equals_encoding_at_once_for_a_local_codec(wraps):
    picture = picture_of(64, 1000, wraps=wraps)
    plane = plane_of(picture, size=64, wraps=wraps)
    assert plane.parts > 2
    codec = ToyCodec()
    whole = codec.encode(plane.working(picture, torch.arange(64), torch.arange(plane.x.canvas_px))[None])
    codec.sizes.clear()
    assert torch.allclose(encoded(plane, picture, codec), whole, atol=1e-5)
    assert max(shape[-1] for shape in codec.sizes) <= 8 * TILE_LAT


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize(("height", "width", "size"), [(70, 900, 32), (600, 40, 32), (64, 1000, 64), (20, 30, 32)])
def test_an_unedited_canvas_gives_back_the_source(height, width, size, wraps):
    picture = picture_of(height, width, wraps=wraps)
    plane = plane_of(picture, size=size, wraps=wraps)
    s = encoded(plane, picture)
    out = assembled(plane, picture, s.clone(), s)
    assert torch.allclose(out, picture.rgb(torch.arange(height), torch.arange(width)), atol=1e-5)


def test_without_detail_the_decoded_canvas_is_scaled_up():
    picture = picture_of(64, 1000)
    plane = plane_of(picture, size=32)
    z = encoded(plane, picture) * 0.5
    out = assembled(plane, picture, z, z, detail=0.0)
    whole = ToyCodec().decode(z)[..., plane.x.before_px : plane.x.before_px + plane.x.content_px]
    expected = interpolate(whole, (64, 1000), mode="bicubic", antialias=True).clamp(0, 1)[0]
    # tiles end in the middle of what this decoder interpolates: there, and only there, it sees less
    assert (out - expected).abs().median() < 1e-5
    assert (out - expected).abs().max() < 0.03


def test_turning_a_cylinder_turns_the_result():
    """The seam is a place like any other: shift the picture by whole windows and the result shifts along."""
    picture = picture_of(32, 32 * 24, wraps=True)
    turned = Picture(Path("t.png"), picture.pixels[:, list(range(256, 768)) + list(range(256))].copy())
    results = []
    for p in (picture, turned):
        plane = plane_of(p, wraps=True)
        assert plane.x.scale == 1
        s = encoded(plane, p)
        results.append(assembled(plane, p, s * 0.7 + 0.1, s))
    back = results[1].roll(256, -1)
    assert (back - results[0]).abs().mean() < 2e-3
    seam = (results[0][..., 0] - results[0][..., -1]).abs().mean()
    inner = results[0].diff(dim=-1).abs().mean()
    assert seam < 1.5 * inner


def test_blocks_are_bounded_and_cover_each_pixel_once():
    picture = picture_of(700, 1300)
    plane = plane_of(picture)
    s = encoded(plane, picture)
    count = torch.zeros(700, 1300)
    for block in plane.blocks(picture, s, s, ToyCodec().decode, detail=1.0):
        assert len(block.rows) * len(block.columns) <= 512**2
        count[block.rows[:, None], block.columns[None]] += 1
    assert bool((count == 1).all())


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="at least 8 px"):
        make_plane(10, 10, size_px=7, factor=8, window_lat=4, stride_lat=2)
