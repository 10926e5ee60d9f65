"""Casting and rendering: determinism, batches, brute force, shadows, seams, depth, bounded memory."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from world_toys import front_camera, march, one_thing, scene_outside

import csd3d.world.render as render_module
from csd3d.world.camera import Camera, camera_path, project, rays, sphere_camera, strip_camera
from csd3d.world.cast import GROUND, SKY, cast, geometry_of, sun_direction
from csd3d.world.leaves import dead_leaves
from csd3d.world.render import ID_FIRST_THING, render, render_bounded, render_looks, truth
from csd3d.world.scene import SIMPLE_SHAPES, Ground, Scene, SceneSampler, Season, Shape, Sky, Thing, Time, Weather


def scenes(count: int) -> list[Scene]:
    return [SceneSampler(plain=0.3).sample(s) for s in range(count)]


def test_same_seed_same_bytes_and_other_seed_other_picture() -> None:
    camera = front_camera()
    first, again, other = (SceneSampler(moving=True).sample(s) for s in (7, 7, 8))
    assert first == again
    assert torch.equal(render([first], [camera]), render([again], [camera]))
    assert not torch.equal(render([first], [camera]), render([other], [camera]))
    assert torch.equal(dead_leaves(1, 24, seed=1), dead_leaves(1, 24, seed=1))
    assert 0 <= dead_leaves(1, 24, seed=1).min() <= dead_leaves(1, 24, seed=1).max() <= 1


def test_a_batch_is_its_scenes_one_by_one() -> None:
    path = camera_path("shake", 6, height_px=20, width_px=28, seed=1)
    some = scenes(6)
    one_by_one = torch.cat([render([s], [c]) for s, c in zip(some, path, strict=True)])
    batch = render(some, path)
    assert batch.shape == (6, 3, 20, 28)
    assert torch.equal(batch, one_by_one)
    assert 0 <= batch.min() <= batch.max() <= 1
    together = truth(some, path)
    alone = [truth([s], [c]) for s, c in zip(some, path, strict=True)]
    assert torch.equal(together.ids, torch.cat([t.ids for t in alone]))
    assert torch.equal(together.depth, torch.cat([t.depth for t in alone]))


@pytest.mark.parametrize(
    "camera", [front_camera(), sphere_camera(20), strip_camera(18, turn=90.0)], ids=lambda c: c.projection
)
def test_bounded_rendering_gives_the_same_pictures_with_few_rays_at_a_time(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, cameras = scenes(3), [camera] * 3
    whole = render(some, cameras)
    held: list[int] = []

    def counting(scenes, origin, direction, **options):
        held.append(direction.shape[0] * direction.shape[1])
        return cast(scenes, origin, direction, **options)

    monkeypatch.setattr(render_module, "cast", counting)
    height, width = whole.shape[-2:]
    for budget in (4 * width * 5, 4 * width * height * 2, 10**9):
        held.clear()
        torch.testing.assert_close(render_bounded(some, cameras, budget_rays=budget), whole, rtol=0, atol=1e-6)
        assert max(held) <= budget


@pytest.mark.parametrize("shape", get_args(Shape))
def test_every_shape_is_seen_where_marching_meets_it(shape: Shape) -> None:
    scene = one_thing(shape, yaw=25.0, hat=shape in (*SIMPLE_SHAPES, "snowman"))
    camera = front_camera(16, 20)
    direction, eye = rays(camera), camera.c2w[:3, 3]
    hits = cast([scene], eye[None], direction[None], shadows=False)
    steps = torch.linspace(2.5, 6.5, 1601)
    entered, least = march(scene_outside(scene, eye + steps[:, None] * direction[:, None]), steps)
    floor = torch.where(direction[:, 2] < 0, -eye[2] / direction[:, 2], torch.inf)
    on_thing = entered < floor
    clear = (least.abs() > 0.02) & ((entered - floor).abs().nan_to_num(9.0) > 0.02)
    assert torch.equal((hits.part[0] >= 0)[clear], on_thing[clear])
    assert (hits.t[0] - entered)[clear & on_thing].abs().max() < 0.01
    assert (clear & on_thing).sum() > 8
    assert torch.equal((hits.part[0] == SKY), (hits.t[0] == torch.inf))
    assert torch.equal((hits.part[0] == GROUND)[~on_thing & clear], (floor < torch.inf)[~on_thing & clear])
    assert (hits.normal.norm(dim=-1) - 1).abs().max() < 1e-5
    assert (hits.normal * hits.direction).sum(-1)[hits.part != SKY].max() < 1e-5


def test_the_shadow_of_a_ball_is_where_the_sun_says() -> None:
    scene = replace(one_thing("ball"), sun_azimuth=200.0, sun_elevation=40.0)
    camera = front_camera(40, 56)
    hits = truth([scene], [camera]).hits
    direction = torch.stack([rays(camera)])
    lit = cast([scene], camera.c2w[None, :3, 3], direction).lit[0]
    assert hits.lit.min() == 1  # not asked for
    point, sun = hits.point[0], torch.tensor(sun_direction(scene))
    centre, radius = torch.tensor([0.0, 0.0, 0.8]), 0.8
    away = point - centre
    behind = (away @ sun) < 0
    from_axis = (away - (away @ sun)[:, None] * sun).norm(dim=-1)
    ground = (hits.part[0] == GROUND) & (hits.t[0] < 20) & ((from_axis - radius).abs() > 0.01)
    expected = torch.where(behind & (from_axis < radius), 0.0, 1.0)
    assert torch.equal(lit[ground], expected[ground])
    assert 10 < (expected[ground] == 0).sum() < ground.sum() / 2
    picture = render([scene], [camera], samples=1)[0].mean(0).reshape(-1)
    near = ground & (point[:, :2].norm(dim=-1) < 2.5)
    assert picture[near & (lit == 0)].mean() < 0.75 * picture[near & (lit == 1)].mean()


@pytest.mark.parametrize("camera", [sphere_camera(48), strip_camera(32, turn=360.0)], ids=["sphere", "full turn"])
def test_the_borders_of_a_picture_that_wraps_are_neighbours(camera) -> None:
    place = Scene(things=(Thing("ball", (0.0, -7.0)), Thing("cube", (0.3, 0.0))), hills=0.15, seed=4321)
    picture = render([place], [camera])[0]  # the ball is behind the camera, on the border
    assert (truth([place], [camera]).ids[0, :, 0] == ID_FIRST_THING).any()
    seam = (picture[..., 0] - picture[..., -1]).abs().mean()
    inner = picture.diff(dim=-1).abs().mean((0, 1))
    assert seam <= inner.max()
    assert seam < 3 * inner.mean() + 0.01


def test_depth_agrees_with_rays_and_projection() -> None:
    for camera in (front_camera(), sphere_camera(16), strip_camera(16)):
        scene = SceneSampler().sample(3)
        t = truth([scene], [camera])
        eye = camera.c2w[:3, 3]
        seen = (t.depth[0] < 50).reshape(-1)
        point = eye + t.depth[0].reshape(-1, 1)[seen] * rays(camera)[seen]
        position, front = project(camera, point - eye)
        y, x = torch.meshgrid(torch.arange(camera.height_px), torch.arange(camera.width_px), indexing="ij")
        centres = torch.stack([x, y], dim=-1).reshape(-1, 2)[seen] + 0.5
        torch.testing.assert_close(position, centres, rtol=0, atol=2e-3)
        assert (front > 0).all()
        on_ground = t.ids[0].reshape(-1)[seen] == 1
        assert point[on_ground, 2].abs().max() < 1e-4


def test_ids_name_the_things_in_order() -> None:
    scene = Scene(things=(Thing("snowman", (-0.9, 0.0)), Thing("tree", (0.9, 0.0), size=0.6)))
    ids = truth([scene, scene], [front_camera()] * 2).ids
    assert ids.unique().tolist() == [0, 1, 2, 3]
    x = torch.arange(ids.shape[-1]).expand_as(ids).float()
    assert x[ids == 2].mean() < x[ids == 3].mean()
    assert torch.equal(ids[0], ids[1])


def test_a_thing_moves_with_its_velocity() -> None:
    scene = one_thing("cube", velocity=(0.3, -0.2))
    moved = scene.at(2.0)
    assert moved.things[0].position == pytest.approx((0.6, -0.4))
    still = replace(scene, things=(replace(scene.things[0], position=moved.things[0].position),))
    camera = front_camera()
    assert torch.equal(render([moved], [camera]), render([still], [camera]))
    assert scene.at(0.0) == scene


def test_looks_share_one_cast() -> None:
    some, camera = scenes(2), front_camera()
    looks = [[s, replace(s, time="night"), replace(s, ground="lava")] for s in some]
    together = render_looks(looks, [camera, camera])
    for k, pictures in enumerate(together):
        assert torch.equal(pictures, render([variants[k] for variants in looks], [camera, camera]))


def test_every_word_of_a_scene_changes_the_picture() -> None:
    base, camera = one_thing("tree"), front_camera()
    words = {"time": Time, "weather": Weather, "season": Season, "ground": Ground, "sky": Sky}
    for name, values in words.items():
        variants = [replace(base, **{name: v}) for v in get_args(values)]
        pictures = torch.cat([render([v], [camera], samples=1) for v in variants])
        for i in range(len(pictures)):
            for j in range(i):
                assert (pictures[i] - pictures[j]).abs().mean() > 0.004, (
                    name,
                    get_args(values)[i],
                    get_args(values)[j],
                )


def test_an_empty_scene_and_a_single_pixel() -> None:
    empty = Scene(things=())
    picture = render([empty], [front_camera(1, 1)])
    assert picture.shape == (1, 3, 1, 1)
    assert picture.isfinite().all()
    assert truth([empty], [front_camera()]).ids.max() == 1
    assert len(geometry_of([empty]).scene) == 0


def test_cameras_that_do_not_fit_are_refused() -> None:
    scene = one_thing()
    with pytest.raises(ValueError, match=r"expected one per scene \(2\), got 1"):
        render([scene, scene], [front_camera()])
    with pytest.raises(ValueError, match="expected one size"):
        render([scene, scene], [front_camera(8, 8), front_camera(8, 9)])


def test_only_rays_near_a_part_are_tested_against_it() -> None:
    """Speed without a clock: of all pairs of a ray and a part, few are intersected."""
    from csd3d.world.cast import _pairs

    some, camera = [SceneSampler().sample(s) for s in range(8)], front_camera(32, 32)
    geometry, direction = geometry_of(some), rays(camera).expand(8, -1, -1)
    origin = camera.c2w[:3, 3].expand(8, 1, 3)
    part, ray = _pairs(geometry, origin, direction, torch.ones(8, 1024, dtype=torch.bool))
    assert 0 < len(ray) < 0.25 * len(geometry.scene) * 1024
    assert torch.equal(geometry.scene[part], ray // 1024)


def test_samplers_give_what_they_promise() -> None:
    sampler = SceneSampler(things=(2, 2), moving=True, plain=1.0)
    for seed in range(20):
        scene = sampler.sample(seed)
        assert len(scene.things) == 2
        assert len({t.shape for t in scene.things}) == 2
        assert (scene.time, scene.weather, scene.season, scene.sky) == ("day", "clear", "summer", "natural")
        assert all(0.1 <= math.hypot(*t.velocity) <= 0.35 for t in scene.things)
        assert 35 <= scene.sun_elevation <= 60
