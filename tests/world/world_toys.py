"""Small scenes and slow, obvious oracles for the tests of the world."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.world.camera import Camera, camera_path
from csd3d.world.geometry import PRIMITIVES, TUBE
from csd3d.world.scene import Scene, Shape, Thing


def one_thing(shape: Shape = "ball", **change: object) -> Scene:
    """A thing in the middle of a clear day."""
    return Scene(things=(Thing(shape=shape, position=(0.0, 0.0), size=0.8, **change),))  # type: ignore[arg-type]


def front_camera(height_px: int = 24, width_px: int = 32) -> Camera:
    """A view of the middle of the world."""
    return camera_path("orbit", 1, height_px=height_px, width_px=width_px)[0]


def outside(kind: str, p: Float[Tensor, "... 3"]) -> Float[Tensor, "..."]:
    """Negative inside the unit primitive, positive outside, zero on its surface."""
    x, y, z = p.unbind(-1)
    around = (x * x + y * y).sqrt()
    if kind == "sphere":
        return p.norm(dim=-1) - 1
    if kind == "box":
        return p.abs().amax(-1) - 1
    if kind == "cylinder":
        return torch.maximum(around - 1, z.abs() - 1)
    if kind == "cone":
        return torch.maximum(around - (1 - z) / 2, -1 - z)
    return (((x * x + z * z).sqrt() - (1 - TUBE)) ** 2 + y * y).sqrt() - TUBE


def march(value: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(first t where value [n, T] turns negative, inf if never; least value): brute force along rays."""
    negative = value < 0
    first = negative.to(torch.uint8).argmax(-1)
    return torch.where(negative.any(-1), t[first], torch.inf), value.amin(-1)


def scene_outside(scene: Scene, p: Float[Tensor, "... 3"]) -> Float[Tensor, "..."]:
    """The same for all things of a scene, without the ground: the least over their parts, in units of the part."""
    values = []
    for thing in scene.things:
        angle = math.radians(thing.yaw)
        for part in thing.parts():
            q = p - torch.tensor([*thing.position, 0.0], dtype=p.dtype)
            x = (q[..., 0] * math.cos(angle) + q[..., 1] * math.sin(angle)) / thing.size - part.centre[0]
            y = (q[..., 1] * math.cos(angle) - q[..., 0] * math.sin(angle)) / thing.size - part.centre[1]
            z = q[..., 2] / thing.size - part.centre[2]
            half = part.half
            values.append(outside(part.primitive, torch.stack([x / half[0], y / half[1], z / half[2]], dim=-1)))
    return torch.stack(values).amin(0)


assert set(PRIMITIVES) == {"sphere", "box", "cylinder", "cone", "torus"}
