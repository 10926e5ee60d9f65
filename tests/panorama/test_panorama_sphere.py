"""An edited sphere: no seam, no star at the poles, and an unedited one is the source."""

import math
from pathlib import Path

import pytest
import torch

from csd3d.media.pictures.read import Picture
from panorama.regions import Everywhere, Plan, Sentence, Span
from panorama.sphere import make_sphere
from panorama.views import sphere_directions
from tests.toys import ToyCodec

PLAIN = Plan((Sentence("x", Everywhere()),))


def world(height, *, deep=False):
    """A picture given on directions, with grain: it has neither seam nor pole."""
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    x = (torch.arange(2 * height, dtype=torch.float64) + 0.5) / (2 * height)
    at_y, at_x = torch.meshgrid(y, x, indexing="ij")
    d = sphere_directions(at_x, at_y)
    waves = torch.stack([(d @ torch.randn(3, generator=torch.Generator().manual_seed(k)).double()) for k in range(9)])
    rgb = 0.5 + 0.12 * (4 * waves[:3]).sin() + 0.06 * (25 * waves[3:6]).sin() + 0.1 * waves[6:]
    levels = 65535 if deep else 255
    array = (rgb.clamp(0, 1) * levels).round().permute(1, 2, 0).numpy()
    return Picture(Path("world.png"), array.astype("uint16" if deep else "uint8"))


def sphere_of(picture, *, size=64, window=32):
    return make_sphere(picture.height_px, picture.width_px, size_px=size, factor=8, window_px=window)


def encoded(sphere, picture):
    *_, (done, canvas) = sphere.encode(picture, ToyCodec().encode)
    assert done == sphere.parts
    return canvas


def assembled(sphere, picture, z, s, *, detail=1.0):
    out = torch.full((3, picture.height_px, picture.width_px), float("nan"))
    for block in sphere.blocks(picture, z, s, ToyCodec().decode, detail=detail):
        out[:, block.rows[:, None], block.columns[None]] = block.edited
    return out


def at_own_size(picture):
    return picture.rgb(torch.arange(picture.height_px), torch.arange(picture.width_px))


def seam_ratio(rgb):
    """The step over the seam over the mean step between neighbouring columns."""
    seam = (rgb[..., 0] - rgb[..., -1]).abs().mean()
    return float(seam / rgb.diff(dim=-1).abs().mean())


def star(rgb, row):
    """How much the row next to a pole varies along itself: all its pixels show nearly the same point."""
    return float(rgb[:, row].std(dim=-1).mean())


@pytest.mark.parametrize("deep", [False, True])
def test_an_unedited_canvas_gives_back_the_source(deep):
    picture = world(90, deep=deep)
    sphere = sphere_of(picture)
    s = encoded(sphere, picture)
    out = assembled(sphere, picture, s.clone(), s)
    assert torch.equal((out * picture.levels).round(), (at_own_size(picture) * picture.levels).round())


def test_an_edit_has_no_seam_and_no_star():
    picture = world(128)
    sphere = sphere_of(picture)
    s = encoded(sphere, picture)
    noise = torch.randn(s.shape, generator=torch.Generator().manual_seed(1))
    edited = 0.5 * s + 0.2 + 0.25 * noise  # every view edited a little differently
    out = assembled(sphere, picture, edited, s)
    assert (out - at_own_size(picture)).abs().mean() > 0.05
    assert seam_ratio(out) < 1.1
    for row in (0, -1):
        assert star(out, row) < star(at_own_size(picture), row) + 0.01
        assert star(out, row) < 0.025


def test_settling_brings_views_together_and_leaves_agreement_alone():
    picture = world(128)
    sphere = sphere_of(picture)
    s = encoded(sphere, picture)
    codec = ToyCodec()
    noise = torch.randn(len(s), 4, 1, 1, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    apart = 0.5 * s + 0.1 * noise

    def disagreement(z):
        from panorama.views import agree

        y = codec.decode(z)
        return float((agree(y, sphere.views) - y).abs().mean())

    once = sphere.settle(apart, codec.encode, codec.decode)
    twice = sphere.settle(once, codec.encode, codec.decode)
    assert disagreement(once) < 0.6 * disagreement(apart)
    assert disagreement(twice) < disagreement(once)
    flat = torch.full_like(s, 0.2)
    assert torch.allclose(sphere.settle(flat, codec.encode, codec.decode), flat, atol=1e-5)


def test_sentences_by_span_go_over_the_seam():
    picture = world(64)
    sphere = sphere_of(picture)
    plan = Plan((Sentence("a", Everywhere()), Sentence("b", Span(0.75, 0.25, wraps=True))))
    windows = sphere.windows(plan)
    total = torch.zeros(len(sphere.views), 2, 4, 4)
    windows.scatter_add(total, torch.nn.functional.one_hot(windows.prompt, 2)[:, :, None, None].float())
    assert torch.allclose(total.sum(1), torch.ones(len(sphere.views), 4, 4), atol=1e-5)
    for i, view in enumerate(sphere.views):
        if abs(view.pitch) < 0.1:
            middle = total[i, 1, 1:3, 1:3].mean()
            away = abs(math.remainder(view.yaw - math.pi, 2 * math.pi))  # from the middle of the span, at the seam
            if away < 0.3:
                assert middle > 0.95
            if away > math.pi - 0.3:
                assert middle < 0.05
    assert sphere.mask(plan) is None


def test_a_mask_drops_views_and_holds_the_others():
    class Upper:
        def weight(self, x, y):
            return (y < 0.3).to(x)

    picture = world(64)
    sphere = sphere_of(picture)
    plan = Plan((Sentence("a", Everywhere()),), mask=Upper())
    windows, mask = sphere.windows(plan), sphere.mask(plan)
    assert 0 < len(windows) < len(sphere.views)
    assert mask is not None
    for i, view in enumerate(sphere.views):
        if view.pitch > 1.5:
            assert bool((mask[i, :, 1:3, 1:3] == 1).all())
        if view.pitch < -0.7:
            assert bool((mask[i] == 0).all())
            assert i not in windows.layer.tolist()


def test_pictures_and_sizes_that_make_no_sphere_are_refused():
    with pytest.raises(ValueError, match="twice as wide"):
        make_sphere(100, 300, size_px=64, factor=8, window_px=32)
    with pytest.raises(ValueError, match="at least"):
        make_sphere(100, 200, size_px=32, factor=8, window_px=32)
