"""Cameras: projection is the inverse of the rays, paths move as their names say."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError

from csd3d.world.camera import (
    Camera,
    camera_path,
    look_at,
    project,
    rays,
    rays_through,
    sphere_camera,
    strip_camera,
)

POSE = look_at((1.0, -4.0, 1.7), (0.2, 0.0, 0.6))
CAMERAS = [
    Camera(POSE, 7, 11, 50.0),
    Camera(POSE, 8, 16, projection="equirectangular"),
    Camera(POSE, 9, 23, 46.0, projection="cylindrical"),
    strip_camera(10, turn=360.0),
]
IDS = ["pinhole", "equirectangular", "cylindrical", "full turn"]


@pytest.mark.parametrize("camera", CAMERAS, ids=IDS)
def test_projecting_a_ray_gives_its_position(camera: Camera) -> None:
    rng = torch.Generator().manual_seed(0)
    size = torch.tensor([camera.width_px, camera.height_px], dtype=torch.float64)
    position = (0.01 + 0.98 * torch.rand(50, 2, generator=rng, dtype=torch.float64)) * size
    direction = rays_through(camera, position)
    assert direction.norm(dim=-1).tolist() == pytest.approx([1.0] * 50)
    back, front = project(camera, 3.7 * direction)
    assert (front > 0).all()
    torch.testing.assert_close(back, position, rtol=0, atol=1e-5)


@pytest.mark.parametrize("camera", CAMERAS, ids=IDS)
def test_rays_of_pixels_go_through_their_centres_row_by_row(camera: Camera) -> None:
    loops = [(x + 0.5, y + 0.5) for y in range(camera.height_px) for x in range(camera.width_px)]
    torch.testing.assert_close(rays(camera), rays_through(camera, torch.tensor(loops)), rtol=0, atol=1e-6)
    finer = rays(camera, samples=2).reshape(camera.height_px, 2, camera.width_px, 2, 3).mean((1, 3)).reshape(-1, 3)
    cosine = (torch.nn.functional.normalize(finer, dim=-1) * rays(camera)).sum(-1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize("camera", CAMERAS, ids=IDS)
def test_bands_of_rows_are_those_of_the_whole(camera: Camera) -> None:
    bands = [
        rays(camera, samples=2, rows=(first, min(first + 3, camera.height_px)))
        for first in range(0, camera.height_px, 3)
    ]
    torch.testing.assert_close(torch.cat(bands), rays(camera, samples=2), rtol=0, atol=1e-6)


def test_a_pinhole_sees_the_target_in_its_middle_and_z_upwards() -> None:
    camera = CAMERAS[0]
    eye = camera.c2w[:3, 3]
    points = torch.tensor([[0.2, 0.0, 0.6], [0.2, 0.0, 0.9], [1.8, -8.0, 2.8]]) - eye
    position, front = project(camera, points)
    assert position[0].tolist() == pytest.approx([5.5, 3.5], abs=1e-4)
    assert position[1, 1] < position[0, 1]
    assert (front > 0).tolist() == [True, True, False]
    assert math.degrees(2 * math.atan(0.5 * camera.height_px / camera.focal_px)) == pytest.approx(camera.fov)


def test_the_poles_of_the_sphere_are_its_first_and_last_rows() -> None:
    sphere = sphere_camera(64)
    up = rays(sphere).reshape(64, 128, 3)
    assert up[0, :, 2].min() > 0.999
    assert up[-1, :, 2].max() < -0.999
    assert up[32, 64, 1] > 0.999  # the middle faces +y
    assert up[32, 96, 0] > 0.999  # and x is to its right


def test_which_cameras_wrap() -> None:
    assert [c.wraps for c in CAMERAS] == [False, True, False, True]
    strip = strip_camera(10, turn=360.0)
    assert strip.width_px == pytest.approx(2 * math.pi * strip.focal_px, abs=1e-6)
    with pytest.raises(ValueError, match="turn of a strip: expected degrees in"):
        strip_camera(10, turn=400.0)


def eyes(name: str, **change: float) -> torch.Tensor:
    path = camera_path(name, 9, height_px=8, width_px=8, **change)  # type: ignore[arg-type]
    return torch.stack([c.c2w[:3, 3] for c in path])


def test_paths_do_what_their_names_say() -> None:
    target = torch.tensor([0.0, 0.0, 0.85])
    orbit, dolly, pan = eyes("orbit") - target, eyes("dolly") - target, eyes("pan")
    assert orbit.norm(dim=-1).tolist() == pytest.approx([4.4] * 9, abs=1e-4)
    ends = torch.atan2(orbit[[0, -1], 1], orbit[[0, -1], 0])
    assert math.degrees(ends[1] - ends[0]) == pytest.approx(30, abs=1e-3)
    assert (dolly.norm(dim=-1)[0] - dolly.norm(dim=-1)[-1]).item() == pytest.approx(0.25 * 4.4, abs=1e-3)
    assert torch.allclose(pan, pan[:1].expand(9, 3))
    looks = [c.c2w[:3, 2] for c in camera_path("pan", 9, height_px=8, width_px=8)]
    flat = [math.atan2(v[1], v[0]) for v in looks]
    assert math.degrees(flat[-1] - flat[0]) == pytest.approx(16, abs=1e-3)


def test_a_shaky_hand_is_reproducible_smooth_and_its_own() -> None:
    assert torch.equal(eyes("shake", seed=3), eyes("shake", seed=3))
    assert not torch.equal(eyes("shake", seed=3), eyes("shake", seed=4))
    steps = eyes("shake", seed=3).diff(dim=0).norm(dim=-1)
    assert 0 < steps.max() < 0.25


def test_an_unknown_path_is_refused() -> None:
    with pytest.raises((ValueError, TypeCheckError), match="'zoom'"):
        camera_path("zoom", 3, height_px=8, width_px=8)  # type: ignore[arg-type]
