"""Correspondences by depth against the exact flow of the world."""

from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras

from csd3d.engine.transport import transport
from csd3d.media.geometry import WorkingSize
from csd3d.nerf.correspond import DepthCorrespondences, distorted
from csd3d.nerf.views import correspond
from csd3d.world.flow import trace
from csd3d.world.sample import Views, sample_scene

FAR = 1e5
"""The sky, in metres."""


def posed(px: int = 48) -> Views:
    return sample_scene(8, train_views=5, test_views=1, height_px=px, width_px=px).train


def cameras(views: Views) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    c2w = torch.stack([c.c2w[:3] for c in views.cameras])
    focal = torch.tensor([[c.focal_px, c.focal_px] for c in views.cameras])
    centre = torch.tensor([[views.width_px / 2, views.height_px / 2]]).expand(len(views), 2)
    distance = views.surfaces().depth[:, None].float()
    return c2w, focal, centre, torch.where(distance.isinf(), FAR, distance)


@dataclass(frozen=True)
class Pairs:
    position: torch.Tensor
    visible: torch.Tensor


def pairs(*args: Any) -> Pairs:
    """Of all views with all."""
    found = DepthCorrespondences(*args)
    n = len(found.c2w)
    rows = [found(i, torch.arange(n)) for i in range(n)]
    return Pairs(*(torch.stack(part) for part in zip(*rows, strict=True)))


def test_positions_and_visibility_are_those_of_the_exact_flow() -> None:
    views = posed()
    size = WorkingSize(48, 48, 0, 0, 0, 0)
    found = pairs(*cameras(views), size, 1)
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    here = torch.stack([x, y])
    for i, j in ((0, 1), (3, 1), (2, 2)):
        exact = views.flow(i, j)
        both = exact.visible & (found.visible[i, j] > 0)
        error = (found.position[i, j].permute(2, 0, 1) - here - exact.flow).norm(dim=0)
        assert error[both].max() < 0.01  # the sky is infinitely far there, and FAR here
        assert ((found.visible[i, j] > 0) == exact.visible).float().mean() > 0.93
        hidden = ~exact.visible & (found.position[i, j] >= 0).all(-1) & (found.position[i, j] <= 48).all(-1)
        assert found.visible[i, j][hidden].mean() < 0.25 or not hidden.any()


def test_latents_of_a_padded_view_lie_where_their_pixels_do() -> None:
    views = posed()
    size = WorkingSize(96, 96, 6, 2, 0, 0)  # twice as large as the depth, padded above and below
    found = pairs(*cameras(views), size, 8)
    assert found.position.shape == (5, 5, 13, 12, 2)
    assert found.visible[:, :, 0].sum() == 0  # centres of the first row lie in the padding
    assert found.visible[:, :, 1].sum() > 0
    pixel = torch.tensor([[5.5 * 8 / 2, (9.5 * 8 - 6) / 2]], dtype=torch.float64)  # of latent (column 5, row 9)
    views_ij = (views.cameras[1], views.cameras[2])
    near = (pixel.floor() + 0.5).double()  # depth is that of the whole pixel
    expected, _ = trace(views.scene, *views_ij, near)
    moved = (found.position[1, 2, 9, 5] * 8 - torch.tensor([0.0, 6.0])) / 2
    assert torch.allclose(moved.double(), expected[0] + (pixel - near)[0], atol=0.3)


def test_windows_of_views_correspond_as_the_views_do() -> None:
    views = posed()
    c2w, focal, centre, distance = cameras(views)
    made = Cameras(c2w, focal[:, :1], focal[:, 1:], centre[:, :1].clone(), centre[:, 1:].clone(), 48, 48)
    whole = correspond(made, [1, 2], distance[[1, 2]], WorkingSize(48, 48, 0, 0, 0, 0), 1)
    corners = torch.tensor([[8.0, 20.0], [16.0, 12.0]])
    cut = torch.stack([distance[1, :, 20:44, 8:32], distance[2, :, 12:36, 16:40]])
    size = WorkingSize(24, 24, 0, 0, 0, 0)
    windows = correspond(made, [1, 2], cut, size, 1, whole_px=(48, 48), corner_px=corners)
    position, visible = whole(0, torch.arange(2))
    moved, seen = windows(0, torch.arange(2))
    assert torch.allclose(moved, position[:, 20:44, 8:32] - corners[:, None, None], atol=1e-3)
    assert (seen <= visible[:, 20:44, 8:32]).all()
    assert seen[0].all()
    assert 0.2 < seen[1].mean() < 1


def test_transport_along_them_shows_one_view_from_the_other() -> None:
    views = posed()
    rgb = views.source()
    found = pairs(*cameras(views), WorkingSize(48, 48, 0, 0, 0, 0), 1)
    seen = found.visible[2, 3] > 0
    moved = transport(rgb[3:4], found.position[2, 3:4])
    aligned = (moved[0] - rgb[2]).abs().mean(0)[seen].mean()
    unaligned = (rgb[3] - rgb[2]).abs().mean(0)[seen].mean()
    assert aligned < 0.5 * unaligned


def test_lens_distortion_is_that_of_the_rays_of_training() -> None:
    turned = torch.tensor([[0.96, 0.0, 0.28, 0.3], [0.0, 1.0, 0.0, 0.1], [-0.28, 0.0, 0.96, -0.1]])
    c2w = torch.stack([torch.eye(4)[:3], turned])
    lens = torch.tensor([[-0.3, 0.08, 0.0, 0.0, 0.01, -0.02], [-0.2, 0.05, 0.01, 0.0, -0.01, 0.01]])
    views = Cameras(c2w, 40.0, 42.0, 25.0, 22.0, 48, 44, lens)
    distance = torch.full((2, 1, 44, 48), 3.0)
    position, visible = correspond(views, [0, 1], distance, WorkingSize(44, 48, 0, 0, 0, 0), 1)(0, torch.arange(2))
    grid = torch.stack(torch.meshgrid(torch.arange(44) + 0.5, torch.arange(48) + 0.5, indexing="ij"), -1)
    rays = views.generate_rays(0, coords=grid)
    points = rays.origins + rays.directions * 3.0
    assert (position[0].flip(-1) - grid).abs().max() < 1e-3
    inside = ((position[1] >= 0) & (position[1] <= torch.tensor([48, 44]))).all(-1)
    assert inside.float().mean() > 0.5
    back = views.generate_rays(1, coords=position[1].flip(-1))
    along = torch.nn.functional.normalize(points - back.origins, dim=-1)
    assert ((along - back.directions).norm(dim=-1)[inside] < 1e-4).all()
    assert visible[0].all()


def test_what_a_lens_folds_back_into_its_picture_is_not_visible() -> None:
    lens = torch.tensor([-0.3, 0.0, 0.0, 0.0, 0.0, 0.0]).expand(2, 6)  # turns back at r = 1.05
    aside = torch.tensor([[0.48, 0.0, -0.88, 0.0], [0.0, 1.0, 0.0, 0.0], [0.88, 0.0, 0.48, 0.0]])  # by 61 degrees
    views = Cameras(torch.stack([torch.eye(4)[:3], aside]), 100.0, 100.0, 24.0, 24.0, 48, 48, lens)
    distance = torch.full((2, 1, 48, 48), 3.0)
    position, visible = correspond(views, [0, 1], distance, WorkingSize(48, 48, 0, 0, 0, 0), 1)(0, torch.arange(2))
    inside = ((position[1] >= 0) & (position[1] <= 48)).all(-1)
    assert not (visible[1].bool() & inside).any()
    shown = distorted(torch.tensor([1.83, 0.0]), lens[0])
    assert shown.abs().max() < 0.01  # 61 degrees from the axis, the polynomial shows things in the middle
