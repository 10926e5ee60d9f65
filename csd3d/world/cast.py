"""What each ray hits: batched over scenes, every part tested only against the rays that can meet it."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csd3d.world.geometry import HIT, NEAR, NORMAL, PRIMITIVES
from csd3d.world.scene import Scene

SKY, GROUND = -2, -1
"""Values of `Hits.part` where a ray meets no part."""


@dataclass(frozen=True)
class Geometry:
    """The parts of b scenes, one row each. A point of a part is `centre + axes @ (half * p)`, p in [-1, 1]^3."""

    scene: Int[Tensor, " k"]
    thing: Int[Tensor, " k"]
    """Index of the part's thing in its scene."""
    kind: Int[Tensor, " k"]
    """Index into `geometry.PRIMITIVES`."""
    centre: Float[Tensor, "k 3"]
    axes: Float[Tensor, "k 3 3"]
    half: Float[Tensor, "k 3"]


@dataclass(frozen=True)
class Hits:
    """First hits of n rays in each of b scenes. `t` is the distance along the ray, inf in the sky."""

    origin: Float[Tensor, "b 3"]
    direction: Float[Tensor, "b n 3"]
    t: Float[Tensor, "b n"]
    part: Int[Tensor, "b n"]
    """Row of `Geometry`, or GROUND, or SKY."""
    normal: Float[Tensor, "b n 3"]
    local: Float[Tensor, "b n 3"]
    """The hit point in the part's own frame; zero elsewhere."""
    lit: Float[Tensor, "b n"]
    """1 in sunlight, 0 in shadow."""

    @property
    def point(self) -> Float[Tensor, "b n 3"]:
        """Hit points in the world; 1 km away in the sky."""
        return self.origin[:, None] + self.t.clamp_max(1000.0)[..., None] * self.direction


def geometry_of(
    scenes: list[Scene], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Geometry:
    """Lay out the parts of every scene, in the order of its things."""
    rows: list[tuple[int, int, int, tuple[float, ...], float, tuple[float, ...]]] = []
    for b, scene in enumerate(scenes):
        for i, thing in enumerate(scene.things):
            yaw = math.radians(thing.yaw)
            for part in thing.parts():
                x, y, z = (thing.size * v for v in part.centre)
                centre = (
                    thing.position[0] + x * math.cos(yaw) - y * math.sin(yaw),
                    thing.position[1] + x * math.sin(yaw) + y * math.cos(yaw),
                    z,
                )
                half = tuple(thing.size * v for v in part.half)
                rows.append((b, i, PRIMITIVES.index(part.primitive), centre, yaw, half))
    ints = torch.tensor([r[:3] for r in rows], dtype=torch.long).reshape(-1, 3)
    yaws = torch.tensor([r[4] for r in rows], dtype=dtype)
    axes = torch.eye(3, dtype=dtype).repeat(len(rows), 1, 1)
    axes[:, 0, 0], axes[:, 0, 1] = yaws.cos(), -yaws.sin()
    axes[:, 1, 0], axes[:, 1, 1] = yaws.sin(), yaws.cos()
    geometry = Geometry(
        ints[:, 0],
        ints[:, 1],
        ints[:, 2],
        torch.tensor([r[3] for r in rows], dtype=dtype).reshape(-1, 3),
        axes,
        torch.tensor([r[5] for r in rows], dtype=dtype).reshape(-1, 3),
    )
    return Geometry(*(getattr(geometry, f).to(device) for f in Geometry.__dataclass_fields__))


def _bounding_radius(geometry: Geometry) -> Float[Tensor, " k"]:
    round_, box = geometry.half.amax(-1) * 1.01, geometry.half.norm(dim=-1)
    tube = (geometry.half[:, :2].amax(-1) ** 2 + geometry.half[:, 2] ** 2).sqrt()
    is_round = (geometry.kind == PRIMITIVES.index("sphere")) | (geometry.kind == PRIMITIVES.index("torus"))
    return torch.where(is_round, round_, torch.where(geometry.kind == PRIMITIVES.index("box"), box, tube))


def _pairs(
    geometry: Geometry, origin: Float[Tensor, "b #n 3"], direction: Float[Tensor, "b n 3"], alive: Bool[Tensor, "b n"]
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """(part, ray) pairs whose ray passes the part's bounding sphere; rays are numbered b * n."""
    n = direction.shape[1]
    d, o = direction[geometry.scene], origin[geometry.scene]
    radius = _bounding_radius(geometry)
    to_centre = geometry.centre[:, None] - o
    along = (to_centre * d).sum(-1)
    miss2 = (to_centre * to_centre).sum(-1) - along * along
    near = (miss2 <= (radius * radius)[:, None]) & (along > -radius[:, None]) & alive[geometry.scene]
    part, ray = near.nonzero(as_tuple=True)
    return part, ray + n * geometry.scene[part]


def _intersect(
    geometry: Geometry, origin: Float[Tensor, "b #n 3"], direction: Float[Tensor, "b n 3"], alive: Bool[Tensor, "b n"]
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, "m 3"]]:
    """Pairs (part, ray), their distance (inf: no hit) and the hit point in the part's frame."""
    part, ray = _pairs(geometry, origin, direction, alive)
    o = origin.expand_as(direction).reshape(-1, 3)[ray] - geometry.centre[part]
    d = direction.reshape(-1, 3)[ray]
    to_local = (geometry.axes / geometry.half[:, None, :]).transpose(1, 2)[part]
    o, d = (to_local @ o[..., None])[..., 0], (to_local @ d[..., None])[..., 0]
    t = torch.full_like(o[:, 0], torch.inf)
    kind = geometry.kind[part]
    for k, hit in enumerate(HIT):
        rows = (kind == k).nonzero(as_tuple=True)[0]
        if len(rows):
            t[rows] = hit(o[rows], d[rows])
    return part, ray, t, o + t.clamp_max(1e6)[:, None] * d


def _shadowed(
    geometry: Geometry, point: Float[Tensor, "b n 3"], sun: Float[Tensor, "b 3"], alive: Bool[Tensor, "b n"]
) -> Bool[Tensor, "b n"]:
    b, n = alive.shape
    direction = sun[:, None].expand(b, n, 3)
    _, ray, t, _ = _intersect(geometry, point, direction, alive)
    dark = torch.zeros(b * n, dtype=torch.bool, device=point.device)
    dark[ray[t < torch.inf]] = True
    return dark.reshape(b, n)


def sun_direction(scene: Scene) -> tuple[float, float, float]:
    """Unit vector towards the light."""
    az, el = math.radians(scene.sun_azimuth), math.radians(scene.sun_elevation)
    return (math.cos(el) * math.cos(az), math.cos(el) * math.sin(az), math.sin(el))


def cast(
    scenes: list[Scene], origin: Float[Tensor, "b 3"], direction: Float[Tensor, "b n 3"], *, shadows: bool = True
) -> Hits:
    """First hits of unit rays from one eye per scene, on things, the ground (z = 0) and the sky.

    `shadows` also finds out which points the sun reaches (otherwise all count as lit). Everything is computed in the
    precision of the rays.
    """
    geometry = geometry_of(scenes, device=direction.device, dtype=direction.dtype)
    b, n = direction.shape[:2]
    down = direction[..., 2].clamp_max(-1e-9)
    ground = torch.where(direction[..., 2] < -1e-6, -origin[:, None, 2] / down, torch.inf)
    everywhere = torch.ones(b, n, dtype=torch.bool, device=direction.device)
    part, ray, t_pair, local_pair = _intersect(geometry, origin[:, None], direction, everywhere)
    t = ground.reshape(-1).scatter_reduce(0, ray, t_pair, "amin")
    won = (t_pair < torch.inf) & (t_pair == t[ray])
    part, ray, local_pair = part[won], ray[won], local_pair[won]
    hit_part = torch.where(t < torch.inf, GROUND, SKY)
    hit_part[ray] = part
    local = torch.zeros(b * n, 3, device=t.device, dtype=t.dtype)
    local[ray] = local_pair
    normal = torch.tensor([0.0, 0.0, 1.0], device=t.device, dtype=t.dtype).repeat(b * n, 1)
    for k, normal_of in enumerate(NORMAL):
        rows = geometry.kind[part] == k
        q = part[rows]
        world = (geometry.axes[q] @ (normal_of(local_pair[rows]) / geometry.half[q])[..., None])[..., 0]
        normal[ray[rows]] = torch.nn.functional.normalize(world, dim=-1)
    hits = Hits(
        origin,
        direction,
        t.reshape(b, n),
        hit_part.reshape(b, n),
        normal.reshape(b, n, 3),
        local.reshape(b, n, 3),
        torch.ones(b, n, device=t.device, dtype=t.dtype),
    )
    if not shadows:
        return hits
    sun = torch.tensor([sun_direction(s) for s in scenes], device=t.device, dtype=t.dtype)
    facing = (hits.normal * sun[:, None]).sum(-1) > 0
    alive = facing & (hits.part != SKY) & (hits.t < 30.0)
    dark = _shadowed(geometry, hits.point + 20 * NEAR * hits.normal, sun, alive)
    lit = torch.where(dark | ~facing, 0.0, 1.0).to(t.dtype)
    return Hits(hits.origin, hits.direction, hits.t, hits.part, hits.normal, hits.local, lit)
