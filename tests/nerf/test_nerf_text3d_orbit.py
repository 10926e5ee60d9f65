"""Cameras around a thing, what they see of it, what changes with time, and terms that hold density."""

import math

import pytest
import torch

from csd3d.nerf.text3d import terms
from csd3d.nerf.text3d.anneal import largest_timestep, progress_at, size_at
from csd3d.nerf.text3d.orbit import SIDES, Orbit, Places, captions, focal_px, poses, side_of

ORBIT = Orbit(radius=(1.5, 2.5), elevation=(-20.0, 70.0), azimuth=(0.0, 360.0), fov=(40.0, 60.0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_cameras_stay_within_their_ranges_and_fill_them() -> None:
    rng = generator()
    drawn = [ORBIT.draw(4, rng) for _ in range(200)]
    for name, low, high in (("elevation", -20, 70), ("radius", 1.5, 2.5), ("fov", 40, 60), ("azimuth", 0, 360)):
        values = torch.cat([getattr(places, name) for places in drawn])
        assert low <= float(values.min()) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < float(values.max()) <= high


def test_the_cameras_of_a_step_divide_the_circle() -> None:
    azimuth = ORBIT.draw(5, generator(3)).azimuth
    torch.testing.assert_close(azimuth.diff(), torch.full((4,), 72.0))


def test_a_seed_gives_the_same_cameras() -> None:
    a, b = (ORBIT.draw(3, generator(7)) for _ in range(2))
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_cameras_look_at_the_middle_with_z_up() -> None:
    places = ORBIT.draw(6, generator(1))
    c2w = poses(places)
    rotation, eye = c2w[:, :, :3], c2w[:, :, 3]
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, torch.eye(3).expand(6, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(6))
    torch.testing.assert_close(eye.norm(dim=1), places.radius)
    torch.testing.assert_close(-rotation[:, :, 2] * places.radius[:, None], -eye)  # -z of the camera to the origin
    assert not rotation[:, 2, 0].any()  # x of the camera is level
    assert (rotation[:, 2, 1] > 0).all()
    torch.testing.assert_close(torch.rad2deg(torch.asin(eye[:, 2] / places.radius)), places.elevation)


def test_the_front_is_seen_from_minus_y_and_the_ring_goes_once_around() -> None:
    ring = ORBIT.ring(4)
    eye = poses(ring)[:, :, 3] / (2 * math.cos(math.radians(25)))
    torch.testing.assert_close(eye[:, :2], torch.tensor([[0, -1], [1, 0], [0, 1], [-1, 0.0]]), atol=1e-6, rtol=0)
    assert [SIDES[side_of(float(a), 0.0)] for a in ring.azimuth] == ["front", "side", "back", "side"]


def test_focal_length_is_that_of_the_field_of_view() -> None:
    assert float(focal_px(torch.tensor([90.0]), 64)) == pytest.approx(32)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "side"),
    [(0, 0, "front"), (44, 10, "front"), (-44, 10, "front"), (316, 0, "front"), (46, 0, "side"), (270, 0, "side"),
     (136, 0, "back"), (-140, 59, "back"), (0, 60, "above"), (180, 89, "above")],
)  # fmt: skip
def test_sides(azimuth: int, elevation: int, side: str) -> None:
    assert SIDES[side_of(float(azimuth), float(elevation))] == side


def test_a_caption_for_every_side() -> None:
    assert captions("a ball") == (
        "a ball, front view",
        "a ball, side view",
        "a ball, back view",
        "a ball, overhead view",
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"radius": (0.0, 1.0)}, "radius: expected two numbers, the smaller one first, between 0 and 1e"),
        ({"radius": (2.0, 1.0)}, "radius: expected"),
        ({"elevation": (0.0, 91.0)}, "elevation: expected two numbers, the smaller one first, from -90 and 90"),
        ({"fov": (10.0, 180.0)}, "fov: expected"),
        ({"azimuth": (float("nan"), 1.0)}, "azimuth: expected"),
    ],
)
def test_ranges_that_cannot_be_are_refused(changes: dict[str, tuple[float, float]], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        Orbit(**{**vars(ORBIT), **changes})


def test_timesteps_fall_and_renders_grow() -> None:
    assert [progress_at(step, 10) for step in (0, 5, 10, 99)] == [0, 0.5, 1, 1]
    assert [largest_timestep(p, first=980, last=500) for p in (0.0, 0.5, 1.0)] == [980, 740, 500]
    assert [size_at(p, (32, 64)) for p in (0.0, 0.49, 0.5, 1.0)] == [32, 32, 64, 64]


def test_density_begins_in_the_middle() -> None:
    x = torch.tensor([[0.0, 0, 0], [0.25, 0, 0], [0, 0.5, 0], [1, 0, 0]])
    torch.testing.assert_close(terms.blob(x, strength=10.0, radius=0.5), torch.tensor([10.0, 5, 0, -10]))


def test_terms_of_opacity() -> None:
    empty, full, half = torch.zeros(5), torch.ones(5), torch.full((5,), 0.5)
    assert float(terms.opacity(empty)) == pytest.approx(0.1)
    assert float(terms.opacity(full)) == pytest.approx(math.sqrt(1.01))
    assert float(terms.entropy(half)) == pytest.approx(1)
    assert max(float(terms.entropy(empty)), float(terms.entropy(full))) < 1e-3
    a = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(terms.opacity, a)
    (slope,) = torch.autograd.grad(terms.entropy(a), a)
    assert slope.isfinite().all()


def test_surfaces_that_look_away_cost_by_their_weight() -> None:
    weights = torch.tensor([[0.5, 0.25]], requires_grad=True)
    directions = torch.tensor([[[0.0, 1, 0], [0, 1, 0]]])
    towards, away = torch.tensor([[[0.0, -1, 0], [0, -1, 0]]]), torch.tensor([[[0.0, 1, 0], [0, 0.6, 0.8]]])
    assert float(terms.orientation(weights, towards, directions)) == 0
    assert float(terms.orientation(weights, away, directions)) == pytest.approx(0.5 + 0.25 * 0.36)


def test_places_are_plain_data() -> None:
    assert set(vars(ORBIT.ring(2))) == set(Places.__dataclass_fields__)
