"""Where the points seen in one picture are in another: exact flow and visibility between any two cameras and times.

Things move rigidly with their velocity, the ground stands still, the sky is infinitely far away and only follows the
camera's rotation. Everything is computed in float64 by casting rays, so positions are exact to a small fraction of a
pixel, and a point counts as hidden only if something really stands in front of it. Shadows, reflections and highlights
move too, but they are no surface: flow knows nothing of them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csd3d.world.camera import Camera, project, rays_through
from csd3d.world.cast import SKY, Hits, cast, geometry_of
from csd3d.world.scene import Scene

IN_FRONT = 1e-6
"""Points nearer to the camera plane than this many metres have no place in the picture."""
CHUNK = 1 << 17
"""Pixels traced at a time, which bounds the memory."""
SAME_POINT = 1e-6
"""A ray that ends within this share of the distance (plus as many metres) of a point has reached it."""


@dataclass(frozen=True)
class Flow:
    """How the pixels of view A move to view B."""

    flow: Float[Tensor, "2 H W"]
    """(dx, dy) in pixels from the pixel's centre; 0 where the point is behind camera B.

    Between two views that wrap, the short way round: |dx| is at most half the width.
    """
    visible: Bool[Tensor, "H W"]
    """The point is inside picture B, in front of its camera and not hidden there."""


def pixel_centres(camera: Camera) -> Float[Tensor, "n 2"]:
    """Positions (x, y) of all pixel centres, row by row, float64; the first is (0.5, 0.5)."""
    y, x = torch.meshgrid(
        torch.arange(camera.height_px, dtype=torch.float64) + 0.5,
        torch.arange(camera.width_px, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    return torch.stack([x.reshape(-1), y.reshape(-1)], dim=-1)


def trace(
    scene: Scene,
    camera_a: Camera,
    camera_b: Camera,
    position: Float[Tensor, "n 2"],
    *,
    time_a: float = 0.0,
    time_b: float = 0.0,
) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"]]:
    """Where what view A shows at pixel positions (x, y) is in view B, and whether it is visible there.

    Positions may lie between pixel centres and are float64, as the result is. Times are in seconds. A point behind
    camera B stays at its position in A and is not visible.
    """
    position = position.double()
    eye_b = camera_b.c2w[:3, 3].double()
    hits = _hits(scene.at(time_a), camera_a.c2w[:3, 3].double(), rays_through(camera_a, position))
    sky = hits.part[0] == SKY
    moved = hits.origin + hits.t[0].where(~sky, 0.0)[:, None] * hits.direction[0]
    moved = moved + (time_b - time_a) * _velocity(scene, hits)
    offset = torch.where(sky[:, None], hits.direction[0], moved - eye_b)
    seen, front = project(camera_b, offset)
    ahead = front > IN_FRONT
    if camera_a.wraps and camera_b.wraps:
        turns = ((seen[:, 0] - position[:, 0]) / camera_b.width_px).round()
        seen = torch.stack([seen[:, 0] - camera_b.width_px * turns, seen[:, 1]], dim=-1)
        inside_x = torch.ones_like(ahead)
    else:
        inside_x = (seen[:, 0] >= 0) & (seen[:, 0] <= camera_b.width_px)
    inside = ahead & inside_x & (seen[:, 1] >= 0) & (seen[:, 1] <= camera_b.height_px)
    visible = inside & _reached(scene.at(time_b), eye_b, offset, sky)
    return torch.where(ahead[:, None], seen, position), visible


def flow(scene: Scene, camera_a: Camera, camera_b: Camera, *, time_a: float = 0.0, time_b: float = 0.0) -> Flow:
    """Flow from the picture of camera A at `time_a` seconds to that of camera B at `time_b`, at every pixel of A."""
    shape = (camera_a.height_px, camera_a.width_px)
    moves, visible = [], []
    for centres in pixel_centres(camera_a).split(CHUNK):
        seen, mask = trace(scene, camera_a, camera_b, centres, time_a=time_a, time_b=time_b)
        moves.append((seen - centres).float())
        visible.append(mask)
    return Flow(torch.cat(moves).T.reshape(2, *shape).contiguous(), torch.cat(visible).reshape(shape))


def _hits(scene: Scene, eye: Float[Tensor, "3"], direction: Float[Tensor, "n 3"]) -> Hits:
    return cast([scene], eye[None], direction[None], shadows=False)


def _velocity(scene: Scene, hits: Hits) -> Float[Tensor, "n 3"]:
    """Metres a second of every hit point."""
    still = torch.zeros(1, 3, dtype=torch.float64)
    things = torch.tensor([(*t.velocity, 0.0) for t in scene.things], dtype=torch.float64).reshape(-1, 3)
    of_part = torch.cat([things[geometry_of([scene]).thing], still])
    return of_part[hits.part[0].clamp_min(-1)]


def _reached(
    scene: Scene, eye: Float[Tensor, "3"], offset: Float[Tensor, "n 3"], sky: Bool[Tensor, " n"]
) -> Bool[Tensor, " n"]:
    """Whether a ray from the eye gets to the point (or, for the sky, out of the world)."""
    distance = offset.norm(dim=-1)
    t = _hits(scene, eye, torch.nn.functional.normalize(offset, dim=-1)).t[0]
    return torch.where(sky, t == torch.inf, t >= distance * (1 - SAME_POINT) - SAME_POINT)
