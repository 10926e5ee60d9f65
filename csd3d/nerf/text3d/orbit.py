"""Random cameras on a sphere about the origin, and which side of a thing each of them sees. Knows no nerfstudio.

    eye = radius (cos elevation sin azimuth, -cos elevation cos azimuth, sin elevation)        z is up

Azimuth 0 is the front. The cameras of one step divide the circle among them, at a random turn: renders that are moved
together are of different sides.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.validate import require

Range = tuple[float, float]

SIDES = ("front", "side", "back", "above")
"""What captions of viewpoints tell apart."""
ABOVE = 60.0
"""Degrees of elevation from which on a camera looks from above."""


@dataclass(frozen=True)
class Places:
    """Where cameras are: azimuth and elevation in degrees, radius in units of the scene, vertical field of view in
    degrees."""

    azimuth: Float[Tensor, " n"]
    elevation: Float[Tensor, " n"]
    radius: Float[Tensor, " n"]
    fov: Float[Tensor, " n"]


@dataclass(frozen=True)
class Orbit:
    """The ranges that cameras are drawn from, uniformly. Raises `ValueError` for ranges that cannot be."""

    radius: Range
    elevation: Range
    azimuth: Range
    fov: Range

    def __post_init__(self) -> None:
        bounds = {"radius": (0.0, 1e6), "elevation": (-90.0, 90.0), "azimuth": (-360.0, 360.0), "fov": (0.0, 180.0)}
        for name, (least, most) in bounds.items():
            low, high = getattr(self, name)
            closed = name in ("elevation", "azimuth")
            inside = least <= low <= high <= most if closed else least < low <= high < most
            what = f"two numbers, the smaller one first, {'from' if closed else 'between'} {least:g} and {most:g}"
            require(self, name, inside, what)

    def draw(self, count: int, rng: torch.Generator) -> Places:
        """`count` cameras, from `rng` on the CPU alone."""
        turn, *rest = torch.rand(count + 3 * count, generator=rng).split([count, count, count, count])
        low, high = self.azimuth
        azimuth = low + (high - low) * ((torch.arange(count) + turn[0]) / count)
        spans = (self.elevation, self.radius, self.fov)
        elevation, radius, fov = (a + (b - a) * u for (a, b), u in zip(spans, rest, strict=True))
        return Places(azimuth, elevation, radius, fov)

    def ring(self, count: int) -> Places:
        """`count` cameras once around at the middle of all other ranges, the first one in front."""
        middles = ((low + high) / 2 for low, high in (self.elevation, self.radius, self.fov))
        elevation, radius, fov = (torch.full((count,), value) for value in middles)
        return Places(360 * torch.arange(count) / count, elevation, radius, fov)


def poses(places: Places) -> Float[Tensor, "n 3 4"]:
    """Camera-to-world matrices with OpenGL axes (x right, y up, looking along -z), towards the origin."""
    a, e = torch.deg2rad(places.azimuth.double()), torch.deg2rad(places.elevation.double())
    zero = torch.zeros_like(a)
    right = torch.stack([a.cos(), a.sin(), zero], dim=-1)
    back = torch.stack([e.cos() * a.sin(), -e.cos() * a.cos(), e.sin()], dim=-1)
    up = torch.stack([-e.sin() * a.sin(), e.sin() * a.cos(), e.cos()], dim=-1)
    return torch.stack([right, up, back, places.radius[:, None] * back], dim=-1).float()


def focal_px(fov: Float[Tensor, " n"], height_px: int) -> Float[Tensor, " n"]:
    """Focal lengths in pixels of views of that height."""
    return 0.5 * height_px / torch.tan(torch.deg2rad(fov) / 2)


def side_of(azimuth: float, elevation: float) -> int:
    """The number in `SIDES` of what a camera sees: quarters of the circle, front and back about 0 and 180 degrees."""
    if elevation >= ABOVE:
        return SIDES.index("above")
    away = abs(math.remainder(azimuth, 360.0))
    return SIDES.index("front" if away < 45 else "back" if away > 135 else "side")


def captions(prompt: str) -> tuple[str, ...]:
    """A caption for each of `SIDES`, in the wording of DreamFusion (Poole et al. 2023)."""
    views = {"front": "front view", "side": "side view", "back": "back view", "above": "overhead view"}
    return tuple(f"{prompt}, {views[side]}" for side in SIDES)
