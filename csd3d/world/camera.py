"""Cameras and camera paths.

World frame: metres, z up, ground at z = 0. A camera-to-world matrix has OpenGL axes (x right, y up, the camera
looks along -z), which is also nerfstudio's `transforms.json` convention.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Projection = Literal["pinhole", "equirectangular", "cylindrical"]
PathName = Literal["orbit", "dolly", "pan", "shake"]


@dataclass(frozen=True)
class Camera:
    """One view: where it stands and how rays become pixels."""

    c2w: Float[Tensor, "4 4"]
    """Camera-to-world matrix, OpenGL axes."""
    height_px: int
    width_px: int
    fov: float = 50.0
    """Vertical field of view in degrees (pinhole and cylindrical)."""
    projection: Projection = "pinhole"
    """`equirectangular`: the full sphere, the middle column looks along -z of the camera, +y is up.

    `cylindrical`: columns are angles about the camera's y axis, `width_px / focal_px` radians in all.
    """

    @property
    def focal_px(self) -> float:
        """Focal length in pixels (square pixels, principal point in the middle)."""
        return 0.5 * self.height_px / math.tan(math.radians(self.fov) / 2)

    @property
    def wraps(self) -> bool:
        """Whether the left and right borders of the picture are neighbours (a full turn, to half a pixel)."""
        turn = self.projection == "cylindrical" and abs(self.width_px - 2 * math.pi * self.focal_px) < 0.5
        return turn or self.projection == "equirectangular"


def look_at(eye: tuple[float, float, float], target: tuple[float, float, float]) -> Float[Tensor, "4 4"]:
    """Camera-to-world matrix at `eye` looking at `target`, z of the world up. `eye` must not be right above."""
    position, aim = torch.tensor(eye, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    back = torch.nn.functional.normalize(position - aim, dim=0)
    right = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), back)
    right = torch.nn.functional.normalize(right, dim=0)
    up = torch.linalg.cross(back, right)
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :4] = torch.stack([right, up, back, position], dim=1)
    return c2w.float()


def rays(camera: Camera, *, samples: int = 1, rows: tuple[int, int] | None = None) -> Float[Tensor, "n 3"]:
    """Unit ray directions in the world, row by row, over a grid of `samples` x `samples` rays per pixel.

    With `samples` = 1 rays go through pixel centres. `rows` = (first, last) takes the rows of pixels first <= y < last
    only.
    """
    first, last = rows or (0, camera.height_px)
    y = (torch.arange(first * samples, last * samples) + 0.5) / (camera.height_px * samples)
    x = (torch.arange(camera.width_px * samples) + 0.5) / (camera.width_px * samples)
    v, u = torch.meshgrid(y, x, indexing="ij")
    return _directions(camera, u.reshape(-1), v.reshape(-1))


def rays_through(camera: Camera, position: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Unit ray directions in the world through pixel positions (x, y); pixel (0, 0) has its centre at (0.5, 0.5).

    The inverse of `project`, in the precision of `position`.
    """
    return _directions(camera, position[:, 0] / camera.width_px, position[:, 1] / camera.height_px)


def _directions(camera: Camera, x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Float[Tensor, "n 3"]:
    """Unit rays through positions given as fractions of width and height."""
    if camera.projection == "equirectangular":
        lat, lon = math.pi * (0.5 - y), 2 * math.pi * (x - 0.5)
        local = torch.stack([lat.cos() * lon.sin(), lat.sin(), -lat.cos() * lon.cos()], dim=-1)
    else:
        half = math.tan(math.radians(camera.fov) / 2)
        aspect = camera.width_px / camera.height_px
        v, u = half * (1 - 2 * y), half * aspect * (2 * x - 1)
        if camera.projection == "pinhole":
            local = torch.stack([u, v, -torch.ones_like(u)], dim=-1)
        else:
            local = torch.stack([u.sin(), v, -u.cos()], dim=-1)
    world = local @ camera.c2w[:3, :3].T.to(local.dtype)
    return torch.nn.functional.normalize(world, dim=-1)


def project(camera: Camera, offset: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Where points are seen, from their offset to the camera centre (a direction will do for points at infinity).

    Returns pixel positions (x, y), pixel (0, 0) having its centre at (0.5, 0.5), and how far in front of the camera
    they lie (pinhole: along the axis, negative behind; equirectangular: distance; cylindrical: distance to the axis).
    """
    local = offset @ camera.c2w[:3, :3].to(offset.dtype)
    if camera.projection == "pinhole":
        front = -local[:, 2]
        safe = torch.where(front.abs() < 1e-9, torch.full_like(front, 1e-9), front)
        x = camera.width_px / 2 + camera.focal_px * local[:, 0] / safe
        y = camera.height_px / 2 - camera.focal_px * local[:, 1] / safe
        return torch.stack([x, y], dim=-1), front
    lon = torch.atan2(local[:, 0], -local[:, 2])
    if camera.projection == "cylindrical":
        distance = torch.hypot(local[:, 0], local[:, 2])
        x = camera.width_px / 2 + camera.focal_px * lon
        y = camera.height_px / 2 - camera.focal_px * local[:, 1] / distance.clamp_min(1e-9)
        return torch.stack([x, y], dim=-1), distance
    distance = local.norm(dim=-1)
    lat = torch.asin((local[:, 1] / distance.clamp_min(1e-9)).clamp(-1, 1))
    x = camera.width_px * (lon / (2 * math.pi) + 0.5)
    y = camera.height_px * (0.5 - lat / math.pi)
    return torch.stack([x, y], dim=-1), distance


def camera_path(
    name: PathName,
    frames: int,
    *,
    height_px: int,
    width_px: int,
    target: tuple[float, float, float] = (0.0, 0.0, 0.85),
    distance: float = 4.4,
    azimuth: float = -90.0,
    elevation: float = 9.0,
    fov: float = 50.0,
    sweep: float = 1.0,
    seed: int = 0,
) -> list[Camera]:
    """Cameras along a path around `target`, starting `distance` metres away at (azimuth, elevation) degrees.

    `orbit` turns 30 degrees around the target, `dolly` comes 25 % closer, `pan` turns the head by 16 degrees,
    `shake` is a hand-held camera (smooth, reproducible from `seed`). `sweep` scales the motion.
    """
    progress = [i / max(frames - 1, 1) - 0.5 for i in range(frames)]
    if name not in ("orbit", "dolly", "pan", "shake"):
        raise ValueError(f"camera path: expected orbit, dolly, pan or shake, got {name!r}")
    phase = torch.rand(6, generator=torch.Generator().manual_seed(seed)).tolist()
    cameras = []
    for i, p in enumerate(progress):
        az, el, dist, aim = azimuth, elevation, distance, target
        if name == "orbit":
            az += 30.0 * p * sweep
        elif name == "dolly":
            dist *= 1 - 0.25 * p * sweep
        elif name == "shake":
            wobble = [math.sin(0.35 * i * (1 + 0.3 * k) + 2 * math.pi * phase[k]) for k in range(6)]
            az += 1.2 * sweep * wobble[0] + 6.0 * p * sweep
            el += 0.8 * sweep * wobble[1]
            dist *= 1 + 0.015 * sweep * wobble[2]
            aim = (
                target[0] + 0.05 * sweep * wobble[3],
                target[1] + 0.05 * sweep * wobble[4],
                target[2] + 0.05 * sweep * wobble[5],
            )
        a, e = math.radians(az), math.radians(el)
        eye = (
            target[0] + dist * math.cos(e) * math.cos(a),
            target[1] + dist * math.cos(e) * math.sin(a),
            target[2] + dist * math.sin(e),
        )
        if name == "pan":
            turn = math.radians(16.0 * p * sweep)
            dx, dy = target[0] - eye[0], target[1] - eye[1]
            aim = (
                eye[0] + dx * math.cos(turn) - dy * math.sin(turn),
                eye[1] + dx * math.sin(turn) + dy * math.cos(turn),
                target[2],
            )
        cameras.append(Camera(look_at(eye, aim), height_px, width_px, fov))
    return cameras


def sphere_camera(height_px: int, *, eye: tuple[float, float, float] = (0.0, -3.2, 1.3)) -> Camera:
    """A full equirectangular view from `eye`, twice as wide as high, facing the middle of the world (+y)."""
    return Camera(look_at(eye, (eye[0], eye[1] + 1.0, eye[2])), height_px, 2 * height_px, projection="equirectangular")


def strip_camera(
    height_px: int, *, turn: float = 180.0, fov: float = 50.0, eye: tuple[float, float, float] = (0.0, -3.2, 1.3)
) -> Camera:
    """A cylindrical view of `turn` degrees (360: it wraps) about the vertical through `eye`, its middle facing +y.

    The width follows from the vertical field of view `fov`, which is adjusted by less than a pixel.
    """
    if not 0 < turn <= 360:
        raise ValueError(f"turn of a strip: expected degrees in (0, 360], got {turn}")
    angle = math.radians(turn)
    width_px = round(angle * 0.5 * height_px / math.tan(math.radians(fov) / 2))
    exact = 2 * math.degrees(math.atan(0.5 * height_px * angle / width_px))
    c2w = look_at(eye, (eye[0], eye[1] + 1.0, eye[2]))
    return Camera(c2w, height_px, width_px, exact, projection="cylindrical")
