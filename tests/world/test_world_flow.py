"""Flow and visibility: closed forms, round trips, and pictures warped onto each other."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import grid_sample, max_pool2d
from world_toys import one_thing

from csd3d.world.camera import Camera, camera_path, look_at, rays, sphere_camera, strip_camera
from csd3d.world.flow import flow, pixel_centres, trace
from csd3d.world.render import render, truth
from csd3d.world.scene import Scene, SceneSampler, Thing


def looking_down(x: float, y: float, height: float) -> Camera:
    c2w = torch.eye(4)
    c2w[:3, 3] = torch.tensor([x, y, height])
    return Camera(c2w, 12, 18, 40.0)


def at(eye: tuple[float, float, float], target: tuple[float, float, float], size: tuple[int, int] = (14, 20)) -> Camera:
    return Camera(look_at(eye, target), *size, 55.0)


def test_sliding_over_a_plane_moves_every_pixel_alike() -> None:
    a, b = looking_down(0.0, 0.0, 2.0), looking_down(0.3, -0.1, 2.0)
    found = flow(Scene(things=()), a, b)
    expected = torch.tensor([-0.3, -0.1]) * a.focal_px / 2.0
    torch.testing.assert_close(found.flow, expected[:, None, None].expand(2, 12, 18), rtol=0, atol=1e-4)
    for y in range(12):
        for x in range(18):
            inside = 0 <= x + 0.5 + expected[0] <= 18 and 0 <= y + 0.5 + expected[1] <= 12
            assert found.visible[y, x].item() == inside


def test_rising_over_a_plane_shrinks_about_the_middle() -> None:
    a, b = looking_down(0.0, 0.0, 2.0), looking_down(0.0, 0.0, 3.0)
    found = flow(Scene(things=()), a, b)
    assert found.visible.all()
    for y in range(12):
        for x in range(18):
            expected = ((x + 0.5 - 9) * (2 / 3 - 1), (y + 0.5 - 6) * (2 / 3 - 1))
            assert found.flow[:, y, x].tolist() == pytest.approx(expected, abs=1e-4)


def test_turning_the_head_moves_sky_and_things_alike() -> None:
    eye = (0.0, -4.0, 1.2)
    a, b = at(eye, (0.0, 0.0, 1.4)), at(eye, (0.35, 0.0, 1.9))
    scene = one_thing("cone")
    found = flow(scene, a, b)
    assert len(truth([scene], [a]).ids.unique()) == 3
    turn = (b.c2w[:3, :3].T @ a.c2w[:3, :3]).double()
    for y in range(14):
        for x in range(20):
            u, v = (x + 0.5 - 10) / a.focal_px, (7 - y - 0.5) / a.focal_px
            p, q, r = (turn @ torch.tensor([u, v, -1.0], dtype=torch.float64)).tolist()
            seen = (10 + b.focal_px * p / -r, 7 - b.focal_px * q / -r)
            assert (found.flow[:, y, x] + torch.tensor([x + 0.5, y + 0.5])).tolist() == pytest.approx(seen, abs=1e-3)
            assert found.visible[y, x].item() == (0 <= seen[0] <= 20 and 0 <= seen[1] <= 14)


def test_the_sky_ignores_where_the_camera_stands() -> None:
    a, b = at((0.0, -4.0, 1.2), (0.0, 0.0, 2.0)), at((0.7, -3.0, 1.9), (0.7, 1.0, 2.7))
    found = flow(Scene(things=()), a, b)
    sky = truth([Scene(things=())], [a]).ids[0] == 0
    assert sky.any()
    assert found.flow[:, sky].abs().max() < 1e-3
    assert found.flow[:, ~sky].abs().max() > 0.5


def test_a_moving_ball_moves_by_its_velocity_over_its_depth() -> None:
    camera = at((0.0, -4.0, 0.8), (0.0, 0.0, 0.8), (24, 32))
    scene = one_thing("ball", velocity=(0.5, 0.0))
    found = flow(scene, camera, camera, time_a=0.1, time_b=0.5)
    seen = truth([scene.at(0.1)], [camera])
    ball = seen.ids[0] == 2
    assert ball.sum() > 60
    z = (seen.depth[0].reshape(-1) * -(rays(camera) @ camera.c2w[:3, :3])[:, 2]).reshape(24, 32)
    torch.testing.assert_close(found.flow[0][ball], camera.focal_px * 0.2 / z[ball], rtol=1e-4, atol=1e-3)
    assert found.flow[1][ball].abs().max() < 1e-4
    assert found.flow[:, ~ball].abs().max() < 1e-4  # the world stands still
    after = truth([scene.at(0.5)], [camera]).ids[0] == 2
    assert torch.equal(found.visible[~ball], ~after[~ball])  # and is hidden where the ball went
    assert found.visible[ball].float().mean() > 0.8


def test_nothing_moves_between_a_view_and_itself() -> None:
    camera, scene = at((0.4, -4.2, 1.4), (0.0, 0.0, 0.8)), SceneSampler(moving=True).sample(5)
    found = flow(scene, camera, camera, time_a=1.0, time_b=1.0)
    assert found.flow.abs().max() < 1e-5
    assert found.visible.all()
    assert found.flow.dtype == torch.float32


ORBIT = camera_path("orbit", 2, height_px=28, width_px=36, elevation=12.0)
PAIRS = {
    "pinhole": (ORBIT[0], ORBIT[1]),
    "sphere": (sphere_camera(24), sphere_camera(24, eye=(0.5, -2.9, 1.5))),
    "full turn": (strip_camera(20, turn=360.0), strip_camera(20, turn=360.0, eye=(-0.4, -3.4, 1.6))),
    "strip to pinhole": (strip_camera(20, turn=120.0), at((0.5, -3.5, 1.4), (0.2, 0.0, 0.9))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_there_and_back_again(name: str) -> None:
    """What is visible returns to its pixel within a thousandth; what is hidden does not."""
    a, b = PAIRS[name]
    returned = hidden = 0
    for seed in range(5):
        scene = SceneSampler(things=(3, 3), moving=True).sample(seed)
        centres = pixel_centres(a)
        seen, visible = trace(scene, a, b, centres, time_a=0.0, time_b=1.5)
        back, _ = trace(scene, b, a, seen, time_a=1.5, time_b=0.0)
        error = (back - centres).abs()
        error[:, 0] = torch.minimum(error[:, 0], (error[:, 0] - a.width_px).abs())
        error = error.amax(-1)
        assert error[visible].max() < 1e-3
        in_b = (seen[:, 0] >= 0) & (seen[:, 0] <= b.width_px) & (seen[:, 1] >= 0) & (seen[:, 1] <= b.height_px)
        covered = in_b & ~visible & ((seen - centres).abs().amax(-1) > 0)
        assert (error[covered] > 1e-3).all()
        returned, hidden = returned + int(visible.sum()), hidden + int(covered.sum())
    assert returned > 500
    assert hidden > 10


def test_flow_is_the_trace_from_pixel_centres() -> None:
    a, b = PAIRS["pinhole"]
    scene = SceneSampler(moving=True).sample(2)
    seen, visible = trace(scene, a, b, pixel_centres(a), time_b=0.7)
    found = flow(scene, a, b, time_b=0.7)
    assert torch.equal(found.visible.reshape(-1), visible)
    loops = torch.stack([seen[y * 36 + x] - torch.tensor([x + 0.5, y + 0.5]) for y in range(28) for x in range(36)])
    torch.testing.assert_close(found.flow.reshape(2, -1).T.double(), loops, rtol=0, atol=1e-4)


def test_turning_a_sphere_shifts_it_the_short_way_round() -> None:
    a = sphere_camera(16)
    for degrees in (30.0, -45.0, 170.0, -170.0):
        angle = math.radians(degrees)
        turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
        c2w = a.c2w.clone()
        c2w[:3, :3] = turn @ a.c2w[:3, :3]
        found = flow(one_thing("ring"), a, replace(a, c2w=c2w))
        assert found.visible.all()
        torch.testing.assert_close(found.flow[0], torch.full((16, 32), 32 * degrees / 360), rtol=0, atol=1e-3)
        assert found.flow[1].abs().max() < 1e-3


def test_what_is_behind_the_camera_is_not_visible_and_finite() -> None:
    a, b = at((0.0, -4.0, 1.2), (0.0, 0.0, 0.9)), at((0.0, 4.0, 1.2), (0.0, 8.0, 0.9))
    found = flow(one_thing("cube"), a, b)
    ids = truth([one_thing("cube")], [a]).ids[0]
    assert not found.visible[ids == 2].any()
    assert found.flow[:, ids == 2].abs().max() == 0
    assert found.flow.isfinite().all()


def test_an_occluder_hides_what_is_behind_it_and_only_that() -> None:
    """A small ball in front of a cube: visible parts of the cube, by the distance of the ball to the line of sight."""
    scene = Scene(things=(Thing("cube", (0.0, 1.0), size=0.9), Thing("ball", (0.3, -1.0), size=0.35)))
    a, b = at((1.6, -4.0, 1.2), (0.0, 0.0, 0.8)), at((0.3, -4.4, 0.9), (0.0, 0.0, 0.8))
    found, seen = flow(scene, a, b), truth([scene], [a])
    eye, ball = b.c2w[:3, 3], torch.tensor([0.3, -1.0, 0.35])
    cube = (seen.ids[0] == 2).nonzero().tolist()
    for y, x in cube:
        point = a.c2w[:3, 3] + seen.depth[0, y, x] * rays(a).reshape(14, 20, 3)[y, x]
        way = point - eye
        nearest = eye + ((ball - eye) @ way / (way @ way)).clamp(0, 1) * way
        blocked = (nearest - ball).norm() < 0.35
        side = point[0] > 0.7645  # the cube's right face looks away from B
        target = found.flow[:, y, x] + torch.tensor([x + 0.5, y + 0.5])
        inside = 0 <= target[0] <= 20 and 0 <= target[1] <= 14
        assert found.visible[y, x].item() == (inside and not blocked and not side)
    assert 0 < sum(found.visible[y, x].item() for y, x in cube) < len(cube)


def edges(ids: torch.Tensor) -> torch.Tensor:
    """Pixels with another id within one pixel."""
    x = ids[None].float()
    return (max_pool2d(x, 3, 1, 1) != -max_pool2d(-x, 3, 1, 1))[0]


@pytest.mark.parametrize("path", ["orbit", "shake"])
def test_the_other_picture_warped_by_the_flow_is_this_one(path: str) -> None:
    scene = Scene(
        things=(Thing("ball", (-1.0, 0.0), velocity=(0.2, 0.1)), Thing("cube", (0.9, 0.2), yaw=20.0, colour="blue")),
        ground="grass",
        hills=0.15,
        seed=777,
    )
    a, _, b = camera_path(path, 3, height_px=96, width_px=128, sweep=0.3, seed=2)  # type: ignore[arg-type]
    pictures = render([scene, scene.at(1.0)], [a, b], samples=3)
    found = flow(scene, a, b, time_b=1.0)
    size = torch.tensor([128.0, 96.0])
    grid = 2 * (pixel_centres(a).float().reshape(96, 128, 2) + found.flow.movedim(0, -1)) / size - 1
    warp = lambda x: grid_sample(x[None], grid[None], align_corners=False, padding_mode="border")[0]  # noqa: E731
    ids_a, ids_b = truth([scene, scene.at(1.0)], [a, b]).ids
    # a shadow's border is no surface: leave out what is lit in one picture and dark in the other, near the ball
    near_edge = edges(ids_a) | (warp(edges(ids_b)[None].float())[0] > 0)
    change = (warp(pictures[1]) - pictures[0]).abs().amax(0)
    shadow = (ids_a == 1) & (change > 0.06)
    counted = found.visible & ~near_edge & ~shadow
    assert shadow[found.visible & ~near_edge].float().mean() < 0.03
    assert counted.float().mean() > 0.75
    error = ((warp(pictures[1]) - pictures[0]) ** 2)[:, counted].mean()
    unwarped = ((pictures[1] - pictures[0]) ** 2)[:, counted].mean()
    assert -10 * math.log10(error) > 38
    assert unwarped > 10 * error
