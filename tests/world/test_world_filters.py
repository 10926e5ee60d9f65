"""Filters keep range and shape at any size, treat pictures one by one, and look alike at every size."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from world_toys import front_camera

from csd3d.world.filters import FILTERS, black_and_white, blur, luma, negative, pixel_art, posterise
from csd3d.world.render import render
from csd3d.world.scene import SceneSampler


def noise_pictures(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", [(33, 47), (16, 16), (64, 25), (9, 70), (4, 5)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_filters_keep_shape_range_and_input(name: str, size: tuple[int, int]) -> None:
    rgb = noise_pictures(2, 3, *size)
    kept = rgb.clone()
    out = FILTERS[name](rgb)
    assert out.shape == rgb.shape
    assert 0 <= out.min() <= out.max() <= 1
    assert torch.equal(rgb, kept)
    one_by_one = torch.cat([FILTERS[name](rgb[:1]), FILTERS[name](rgb[1:])])
    torch.testing.assert_close(out, one_by_one, rtol=0, atol=1e-6)
    for extreme in (torch.zeros_like(rgb), torch.ones_like(rgb)):
        assert 0 <= FILTERS[name](extreme).min() <= FILTERS[name](extreme).max() <= 1


@pytest.mark.parametrize("name", FILTERS)
def test_filters_look_alike_at_another_size(name: str) -> None:
    scene = SceneSampler().sample(1)
    small, large = (render([scene], [front_camera(s, s)]) for s in (48, 96))
    shrunk = interpolate(FILTERS[name](large), scale_factor=0.5, mode="area")
    assert (shrunk - FILTERS[name](small)).abs().mean() < 0.06


def test_filters_differ_from_the_source_and_from_each_other() -> None:
    rgb = render([SceneSampler().sample(4)], [front_camera(48, 48)])
    outs = {name: f(rgb) for name, f in FILTERS.items()} | {"source": rgb}
    for a in outs:
        for b in outs:
            assert a == b or (outs[a] - outs[b]).abs().mean() > 0.02, (a, b)


def test_simple_filters_against_loops() -> None:
    rgb = noise_pictures(1, 3, 5, 6)
    y = luma(rgb)
    for i in range(5):
        for j in range(6):
            r, g, b = rgb[0, :, i, j].tolist()
            brightness = 0.299 * r + 0.587 * g + 0.114 * b
            assert y[0, 0, i, j].item() == pytest.approx(brightness, abs=1e-6)
            assert negative(rgb)[0, :, i, j].tolist() == pytest.approx([1 - r, 1 - g, 1 - b], abs=1e-6)
            grey = min(max((brightness - 0.5) * 1.15 + 0.5, 0), 1)
            assert black_and_white(rgb)[0, :, i, j].tolist() == pytest.approx([grey] * 3, abs=1e-6)


def test_blocks_and_levels() -> None:
    rgb = noise_pictures(1, 3, 64, 96)
    blocks = pixel_art(rgb)
    assert torch.equal(blocks[..., ::4, ::4].repeat_interleave(4, -1).repeat_interleave(4, -2), blocks)
    assert len((blocks * 5).round(decimals=4).unique()) <= 6
    flat = posterise(render([SceneSampler().sample(4)], [front_camera(48, 48)]))
    near_a_level = ((flat * 2 - (flat * 2).round()).abs() < 1e-3).float().mean()
    assert near_a_level > 0.5


def test_blur_keeps_a_flat_picture_and_the_mean() -> None:
    flat = torch.full((1, 2, 20, 30), 0.3)
    torch.testing.assert_close(blur(flat, 0.05), flat, rtol=0, atol=1e-6)
    spot = torch.zeros(1, 1, 31, 31)
    spot[..., 15, 15] = 1
    out = blur(spot, 0.06)
    assert out.sum().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(out.argmax(), spot.argmax())
    torch.testing.assert_close(out, out.flip(-1), rtol=0, atol=1e-7)
