"""The sphere has no border: every direction is seen, and views of it agree with each other and with a peer."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from panorama.views import View, agree, cover_sphere, sample_view, sphere_directions, sphere_positions, view_of


def patterned(directions):
    """A smooth picture given on directions, so that it has neither seam nor pole. [..., 3] -> [3, ...]."""
    x, y, z = directions.unbind(-1)
    return torch.stack([0.5 + 0.3 * x * y + 0.1 * z, 0.5 + 0.4 * (2 * z * x), 0.5 + 0.3 * (3 * y * y - 1) / 2]).float()


def equirect(height):
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    x = (torch.arange(2 * height, dtype=torch.float64) + 0.5) / (2 * height)
    at_y, at_x = torch.meshgrid(y, x, indexing="ij")
    return patterned(sphere_directions(at_x, at_y))


def some_directions(n=20_000):
    d = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([torch.nn.functional.normalize(d, dim=-1), torch.eye(3).double(), -torch.eye(3).double()])


def test_positions_and_directions_are_inverse_and_oriented():
    d = some_directions()
    assert torch.allclose(sphere_directions(*sphere_positions(d)), d, atol=1e-9)
    middle = sphere_directions(torch.tensor([0.5, 0.75, 0.5]), torch.tensor([0.5, 0.5, 0.0]))
    assert torch.allclose(middle, torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), atol=1e-6)


@pytest.mark.parametrize("yaw", [0.0, 1.3, -2.9])
@pytest.mark.parametrize("pitch", [0.0, 0.9, -math.pi / 2])
def test_a_view_sees_its_own_pixels_where_they_are(yaw, pitch):
    view = View(yaw, pitch, 1.2, 10)
    axes = view.axes()
    assert torch.allclose(axes @ axes.T, torch.eye(3).double(), atol=1e-12)
    assert torch.det(axes[[0, 1, 2]]) == pytest.approx(1.0)
    uv, front = view.project(view.directions())
    v, u = torch.meshgrid(torch.arange(10) + 0.5, torch.arange(10) + 0.5, indexing="ij")
    assert torch.allclose(uv, torch.stack([u, v], -1).double(), atol=1e-6)
    assert bool((front > 0).all())
    x, y = sphere_positions(axes[2])
    assert float(y) == pytest.approx(0.5 - pitch / math.pi, abs=1e-6)
    if abs(pitch) < 1.5:
        assert float(x) == pytest.approx(0.5 + yaw / (2 * math.pi), abs=1e-6)


def test_the_weight_is_solid_angle_times_a_fading_window():
    """Numerically: the area on the unit sphere of a small pixel is cos^3 / f^2."""
    view = View(0.3, -0.4, 1.5, 64)
    per = view.directions(4)
    for r, c in ((30, 33), (20, 50), (40, 10)):
        corner = per[4 * r : 4 * r + 4, 4 * c : 4 * c + 4]
        side_u, side_v = corner[1, 3] - corner[1, 0], corner[3, 1] - corner[0, 1]
        area = torch.linalg.cross(side_u, side_v).norm() * (4 / 3) ** 2
        uv, front = view.project(corner[1:3, 1:3].mean((0, 1))[None])
        inner = min(float(uv.min()), float((64 - uv).min())) / (0.35 * 64)
        assert front[0] ** 3 / view.focal_px**2 == pytest.approx(float(area), rel=0.02)
        if inner >= 1:
            assert view.weight(uv, front)[0] == pytest.approx(float(front[0] ** 3), rel=1e-6)
    edge = view.weight(torch.tensor([[0.0, 32.0], [65.0, 32.0], [32.0, -1.0]]), torch.ones(3))
    assert edge.tolist() == [0, 0, 0]
    assert view.weight(torch.tensor([[32.0, 32.0]]), torch.tensor([-0.5])).tolist() == [0]


@pytest.mark.parametrize("fov", [0.5, 1.0, 1.33, 1.74])
def test_every_direction_is_seen_well_by_some_view(fov):
    views = cover_sphere(fov, 32)
    total = torch.zeros(len(some_directions()), dtype=torch.float64)
    for view in views:
        total += view.weight(*view.project(some_directions()))
    assert float(total.min()) > 0.05
    assert {round(view.pitch, 6) for view in views} >= {round(math.pi / 2, 6), round(-math.pi / 2, 6)}
    assert len(views) < 16 / (fov * 0.6) ** 2 + 8  # about 4 pi over the step squared, and rounding up


def test_looking_into_the_picture_shows_what_is_there_seam_and_poles_included():
    picture = equirect(256)
    for yaw, pitch in ((0.0, 0.0), (math.pi, 0.0), (2.0, math.pi / 2), (0.5, -math.pi / 2), (-3.0, 0.7)):
        view = View(yaw, pitch, 1.4, 48)
        seen = view_of(picture, view)
        assert (seen - patterned(view.directions())).abs().max() < 4e-3


def test_perspective_agrees_with_a_peer(real_data):
    """py360convert's stored result: yaw 120, pitch 23, field 60 degrees; its own tolerance is 1.2 levels."""
    folder = real_data / "reference" / "py360convert"
    source, expected = (
        torch.from_numpy(np.asarray(Image.open(folder / name).convert("RGB")).copy()).permute(2, 0, 1).float()
        for name in ("example_input.png", "example_e2p.png")
    )
    view = View(math.radians(120), math.radians(23), math.radians(60), 300)
    got = view_of(source / 255, view, per_px=1) * 255
    assert (got - expected).abs().mean() < 1.2


def test_a_view_seen_at_its_own_pixels_is_itself():
    view, layer = View(0.0, 0.0, 1.0, 12), torch.rand(3, 12, 12)
    uv, _ = view.project(view.directions())
    assert torch.allclose(sample_view(layer, view, uv), layer, atol=1e-5)


def test_views_of_one_picture_agree_already():
    views = cover_sphere(1.33, 48)
    layers = torch.stack([patterned(view.directions()) for view in views])
    assert (agree(layers, views) - layers).abs().max() < 2e-3


def agree_by_loops(layers, views, i, r, c):
    """The weighted mean at one pixel of one view, others sampled at the nearest of their pixels."""
    d = views[i].directions()[r, c]
    top, bottom = torch.zeros(3), 0.0
    for j, view in enumerate(views):
        uv, front = view.project(d[None])
        w = float(view.weight(uv, front)[0])
        if w > 0:
            u, v = (min(max(int(x), 0), view.side_px - 1) for x in uv[0].tolist())
            top += w * layers[j, :, v, u]
            bottom += w
    return top / bottom


def test_views_that_differ_meet_in_their_weighted_mean():
    views = cover_sphere(1.33, 40)
    tint = torch.rand(len(views), 3, 1, 1, generator=torch.Generator().manual_seed(3))
    layers = tint.expand(-1, -1, 40, 40).contiguous()
    mean = agree(layers, views)
    for i, r, c in ((0, 20, 20), (3, 1, 38), (7, 39, 20), (len(views) - 1, 5, 5)):
        assert torch.allclose(mean[i, :, r, c], agree_by_loops(layers, views, i, r, c), atol=1e-4)
    spread = layers.amax((0, 2, 3)) - layers.amin((0, 2, 3))
    assert bool((mean.amax((0, 2, 3)) - mean.amin((0, 2, 3)) <= spread + 1e-5).all())


def test_a_view_alone_is_returned_as_it_is():
    view, layer = View(0.0, 0.0, 1.0, 16), torch.rand(1, 3, 16, 16)
    assert torch.allclose(agree(layer, (view,)), layer, atol=1e-6)


@pytest.mark.parametrize(("fov", "overlap"), [(0.0, 0.4), (2.5, 0.4), (1.0, 0.1), (1.0, 0.95)])
def test_views_that_cannot_cover_are_refused(fov, overlap):
    with pytest.raises(ValueError, match="field"):
        cover_sphere(fov, 16, overlap=overlap)
