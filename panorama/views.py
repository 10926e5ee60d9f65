"""Perspective views of a sphere, and the way between their pixels and an equirectangular picture.

Directions have x to the right, y up, z to the middle of the equirectangular picture; longitude grows to the right:

    (x, y, z) = (cos lat sin lon, sin lat, cos lat cos lon)

A view looks along (yaw, pitch), not rolled; its pixel (u, v) sees ((u - w/2) / f, (h/2 - v) / f, 1), turned. Pixel
(0, 0) has its centre at (0.5, 0.5), in views as in the picture.

A merged value weighs what the views see by a window that fades towards their borders, times the solid angle of the
pixel there: cos^3 of the angle to the axis (a pixel far from the axis is stretched and sees less of the sphere).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample, pad

FADE = 0.35
"""Share of a view's side over which its weight rises from its border."""


@dataclass(frozen=True)
class View:
    """A square perspective view."""

    yaw: float
    """Longitude of its axis in radians, to the right of the picture's middle."""
    pitch: float
    """Latitude of its axis in radians, upwards."""
    fov: float
    """Field of view in radians, across as well as up."""
    side_px: int

    @property
    def focal_px(self) -> float:
        """Focal length in pixels."""
        return 0.5 * self.side_px / math.tan(self.fov / 2)

    def axes(self) -> Float[Tensor, "3 3"]:
        """Rows: its right, up and forward in the sphere's coordinates."""
        sin_y, cos_y, sin_p, cos_p = (f(a) for a in (self.yaw, self.pitch) for f in (math.sin, math.cos))
        right = (cos_y, 0.0, -sin_y)
        up = (-sin_p * sin_y, cos_p, -sin_p * cos_y)
        forward = (cos_p * sin_y, sin_p, cos_p * cos_y)
        return torch.tensor([right, up, forward], dtype=torch.float64)

    def directions(self, per_px: int = 1) -> Float[Tensor, "h w 3"]:
        """Unit directions through the centres of its pixels, or of `per_px` x `per_px` parts of each."""
        n = self.side_px * per_px
        at = ((torch.arange(n, dtype=torch.float64) + 0.5) / per_px - self.side_px / 2) / self.focal_px
        v, u = torch.meshgrid(-at, at, indexing="ij")
        local = torch.stack([u, v, torch.ones_like(u)], -1)
        return torch.nn.functional.normalize(local @ self.axes(), dim=-1)

    def project(self, directions: Float[Tensor, "*d 3"]) -> tuple[Float[Tensor, "*d 2"], Float[Tensor, "*d"]]:
        """Where it sees directions, as (u, v) in pixels, and the cosine of their angle to its axis (0: never)."""
        local = directions @ self.axes().T.to(directions)
        front = local[..., 2]
        safe = front.clamp_min(1e-6)
        u = self.side_px / 2 + self.focal_px * local[..., 0] / safe
        v = self.side_px / 2 - self.focal_px * local[..., 1] / safe
        return torch.stack([u, v], -1), front

    def weight(self, uv: Float[Tensor, "*d 2"], front: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
        """What the view counts there: fading window times cos^3; 0 outside of it."""
        inner = torch.minimum(uv, self.side_px - uv) / (FADE * self.side_px)
        fade = torch.sin(math.pi / 2 * inner.clamp(0, 1)).square().prod(-1)
        return torch.where(front > 0, fade * front.clamp_min(0) ** 3, 0.0)


def cover_sphere(fov: float, side_px: int, *, overlap: float = 0.4) -> tuple[View, ...]:
    """Views of field `fov` (radians) that see every direction, both poles in the middle of one.

    Rows of latitude lie evenly from pole to pole, views evenly in a row; neighbours share about `overlap` of a view.

    Raises:
        ValueError: a field of view outside (0, 2] radians, or an overlap outside [0.2, 0.9].
    """
    if not 0 < fov <= 2 or not 0.2 <= overlap <= 0.9:
        raise ValueError(f"views: expected a field in (0, 2] and an overlap in [0.2, 0.9], got {fov}, {overlap}")
    step = fov * (1 - overlap)
    rows = max(2, math.ceil(math.pi / step))
    views = []
    for r in range(rows + 1):
        pitch = math.pi * (r / rows - 0.5)
        if r in (0, rows):
            views.append(View(0.0, pitch, fov, side_px))
            continue
        nearest = max(abs(pitch) - step / 2, 0.0)  # the widest circle of the row
        count = max(3, math.ceil(2 * math.pi * math.cos(nearest) / step))
        turn = 0.5 if r % 2 else 0.0
        views += [View(2 * math.pi * ((k + turn) / count - 0.5), pitch, fov, side_px) for k in range(count)]
    return tuple(views)


def sphere_directions(x: Float[Tensor, "*d"], y: Float[Tensor, "*d"]) -> Float[Tensor, "*d 3"]:
    """Directions at positions of an equirectangular picture, given as fractions of its width and height."""
    lon, lat = 2 * math.pi * (x - 0.5), math.pi * (0.5 - y)
    return torch.stack([lat.cos() * lon.sin(), lat.sin(), lat.cos() * lon.cos()], -1)


def sphere_positions(directions: Float[Tensor, "*d 3"]) -> tuple[Float[Tensor, "*d"], Float[Tensor, "*d"]]:
    """The inverse: fractions (x, y) of width and height, each in [0, 1]."""
    lon = torch.atan2(directions[..., 0], directions[..., 2])
    lat = torch.asin(directions[..., 1].clamp(-1, 1))
    return lon / (2 * math.pi) + 0.5, 0.5 - lat / math.pi


def view_of(picture: Float[Tensor, "c H W"], view: View, *, per_px: int = 2) -> Float[Tensor, "c h w"]:
    """What a view sees of an equirectangular picture; the seam and the poles are no borders.

    Each pixel is the mean of `per_px` x `per_px` bilinear samples.
    """
    height, width = picture.shape[-2:]
    x, y = sphere_positions(view.directions(per_px))
    framed = _beyond(picture)  # one pixel more on every side, what the sphere shows there
    gx = 2 * (x * width + 1) / (width + 2) - 1
    gy = 2 * (y * height + 1) / (height + 2) - 1
    at = torch.stack([gx, gy], -1).to(picture)[None]
    seen = grid_sample(framed[None], at, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.nn.functional.avg_pool2d(seen, per_px)[0]


def sample_view(
    layer: Float[Tensor, "c h w"],
    view: View,
    uv: Float[Tensor, "*d 2"],
    *,
    mode: Literal["bicubic", "bilinear"] = "bicubic",
) -> Float[Tensor, "c *d"]:
    """Values of a view's own pixels at positions (u, v); its border pixels repeat outside of it."""
    at = (2 * uv / view.side_px - 1).to(layer).reshape(1, 1, -1, 2)
    found = grid_sample(layer[None], at, mode=mode, padding_mode="border", align_corners=False)
    return found.reshape(len(layer), *uv.shape[:-1])


def agree(layers: Float[Tensor, "n c h w"], views: tuple[View, ...]) -> Float[Tensor, "n c h w"]:
    """What each view would show if all showed the same: the weighted mean of all that see a place, in its own pixels.

    Its own pixels enter unresampled, so where a view is alone it is returned as it is.
    """
    out = torch.empty_like(layers)
    centres = torch.stack([view.axes()[2] for view in views])
    for i, view in enumerate(views):
        directions = view.directions()
        uv, front = view.project(directions)
        weight = view.weight(uv, front).to(layers)
        total, mixed = weight, weight * layers[i]
        reach = math.sqrt(2) * (view.fov + max(other.fov for other in views)) / 2
        near = torch.where(centres @ centres[i] > math.cos(min(reach, math.pi)))[0].tolist()
        for j in (j for j in near if j != i):
            uv, front = views[j].project(directions)
            weight = views[j].weight(uv, front).to(layers)
            if bool((weight > 0).any()):
                mixed = mixed + weight * sample_view(layers[j], views[j], uv)
                total = total + weight
        out[i] = torch.where(total > 1e-9, mixed / total.clamp_min(1e-9), layers[i])
    return out


def _beyond(picture: Tensor) -> Tensor:
    """The picture with one more pixel on every side: around the seam, and over the poles half a turn away."""
    half = picture.shape[-1] // 2
    tall = torch.cat([picture[:, :1].roll(half, -1), picture, picture[:, -1:].roll(half, -1)], dim=-2)
    return pad(tall[None], (1, 1, 0, 0), mode="circular")[0]
