"""Where rays meet the unit primitives.

Every primitive lives in its own frame inside the cube [-1, 1]^3. Rays are `o + t d` in that frame; `d` need not be a
unit vector, so that `t` stays the distance in the world. Each function returns the distance to the first hit in front
of the ray, `inf` where there is none.
"""

import torch
from jaxtyping import Float
from torch import Tensor

NEAR = 1e-4
"""Hits closer than this are ignored (a surface does not shadow itself)."""
TUBE = 0.3
"""Radius of the torus' tube; its outer radius is 1. It stands upright: its axis is y."""
MARCH_STEPS = 48

Rays = Float[Tensor, "m 3"]
Distance = Float[Tensor, " m"]


def _first(candidates: Float[Tensor, "m k"], valid: Tensor) -> Distance:
    return torch.where(valid & (candidates > NEAR), candidates, torch.inf).amin(dim=-1)


def hit_sphere(o: Rays, d: Rays) -> Distance:
    """|p| = 1."""
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
    disc = b * b - a * c
    root = disc.clamp_min(0).sqrt()
    t = torch.stack([(-b - root) / a, (-b + root) / a], dim=-1)
    return _first(t, (disc >= 0)[:, None])


def hit_box(o: Rays, d: Rays) -> Distance:
    """The surface of [-1, 1]^3 (slab method)."""
    safe = torch.where(d.abs() < 1e-12, torch.full_like(d, 1e-12), d)
    t0, t1 = (-1 - o) / safe, (1 - o) / safe
    near, far = torch.minimum(t0, t1).amax(-1), torch.maximum(t0, t1).amin(-1)
    return _first(torch.stack([near, far], dim=-1), (near <= far)[:, None])


def _hit_caps(o: Rays, d: Rays, heights: tuple[float, ...]) -> tuple[Float[Tensor, "m k"], Tensor]:
    dz = torch.where(d[:, 2].abs() < 1e-12, torch.full_like(d[:, 2], 1e-12), d[:, 2])
    t = torch.stack([(h - o[:, 2]) / dz for h in heights], dim=-1)
    x, y = o[:, :1] + t * d[:, :1], o[:, 1:2] + t * d[:, 1:2]
    return t, x * x + y * y <= 1


def hit_cylinder(o: Rays, d: Rays) -> Distance:
    """x^2 + y^2 = 1 for |z| <= 1, with both caps."""
    a = (d[:, :2] ** 2).sum(-1).clamp_min(1e-12)
    b, c = (o[:, :2] * d[:, :2]).sum(-1), (o[:, :2] ** 2).sum(-1) - 1
    disc = b * b - a * c
    root = disc.clamp_min(0).sqrt()
    side = torch.stack([(-b - root) / a, (-b + root) / a], dim=-1)
    z = o[:, 2:] + side * d[:, 2:]
    caps, on_cap = _hit_caps(o, d, (-1.0, 1.0))
    return _first(torch.cat([side, caps], dim=-1), torch.cat([(disc >= 0)[:, None] & (z.abs() <= 1), on_cap], dim=-1))


def hit_cone(o: Rays, d: Rays) -> Distance:
    """Apex at z = 1, base of radius 1 at z = -1: x^2 + y^2 = ((1 - z) / 2)^2, with its base."""
    oz, dz = (1 - o[:, 2]) / 2, -d[:, 2] / 2
    a = (d[:, :2] ** 2).sum(-1) - dz * dz
    b = (o[:, :2] * d[:, :2]).sum(-1) - oz * dz
    c = (o[:, :2] ** 2).sum(-1) - oz * oz
    a = torch.where(a.abs() < 1e-9, torch.full_like(a, 1e-9), a)
    disc = b * b - a * c
    root = disc.clamp_min(0).sqrt()
    side = torch.stack([(-b - root) / a, (-b + root) / a], dim=-1)
    z = o[:, 2:] + side * d[:, 2:]
    base, on_base = _hit_caps(o, d, (-1.0,))
    return _first(torch.cat([side, base], dim=-1), torch.cat([(disc >= 0)[:, None] & (z.abs() <= 1), on_base], dim=-1))


def torus_sdf(p: Rays) -> Distance:
    """Signed distance to the upright torus."""
    ring = (p[:, 0] ** 2 + p[:, 2] ** 2).sqrt() - (1 - TUBE)
    return (ring * ring + p[:, 1] ** 2).sqrt() - TUBE


def hit_torus(o: Rays, d: Rays) -> Distance:
    """Sphere tracing from the bounding sphere; rays still outside after `MARCH_STEPS` steps miss.

    That is as exact as a picture needs: the outline may be 0.002 wide. In float64, as for optical flow, the march is
    longer and its end is polished to a root (error below 1e-8).
    """
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1.0
    disc = b * b - a * c
    root = disc.clamp_min(0).sqrt()
    t, leave = ((-b - root) / a).clamp_min(10 * NEAR), (-b + root) / a
    speed, exact = a.sqrt(), o.dtype == torch.float64
    for _ in range(MARCH_STEPS * (4 if exact else 1)):
        t = t + torus_sdf(o + t[:, None] * d) / speed
    if exact:
        t = _polish_torus(o, d, t)
    outside = torus_sdf(o + t[:, None] * d).abs()
    hit = (disc >= 0) & (t <= leave + 1e-3) & (outside < (1e-9 if exact else 2e-3)) & (t > 10 * NEAR)
    return torch.where(hit, t, torch.inf)


def _polish_torus(o: Rays, d: Rays, t: Distance) -> Distance:
    """Newton's method on the signed distance along rays that are about to enter; the others stay where they are."""
    for _ in range(8):
        p = o + t[:, None] * d
        slope = (torch.nn.functional.normalize(normal_torus(p), dim=-1) * d).sum(-1)
        step = torch.where(slope < -1e-9, -torus_sdf(p) / slope.clamp_max(-1e-9), 0.0)
        t = t + step.clamp(-0.05, 0.05)
    return t


def normal_sphere(p: Rays) -> Rays:
    """Outward normal (not normalised) at a surface point."""
    return p


def normal_box(p: Rays) -> Rays:
    """Axis of the face the point lies on."""
    return torch.where(p.abs() >= p.abs().amax(-1, keepdim=True) - 1e-6, p.sign(), torch.zeros_like(p))


def normal_cylinder(p: Rays) -> Rays:
    """Radial on the side, vertical on the caps."""
    cap = (p[:, 2:].abs() > 1 - 1e-4).to(p)
    return torch.cat([p[:, :2] * (1 - cap), p[:, 2:].sign() * cap], dim=-1)


def normal_cone(p: Rays) -> Rays:
    """Gradient of x^2 + y^2 - ((1 - z) / 2)^2, or down on the base."""
    base = (p[:, 2:] < -1 + 1e-4).to(p)
    side = torch.cat([p[:, :2], (1 - p[:, 2:]) / 4], dim=-1)
    down = torch.tensor([0.0, 0.0, -1.0]).to(p)
    return side * (1 - base) + down * base


def normal_torus(p: Rays) -> Rays:
    """Away from the nearest point of the tube's centre line."""
    axis = torch.stack([p[:, 0], torch.zeros_like(p[:, 0]), p[:, 2]], dim=-1)
    return p - torch.nn.functional.normalize(axis, dim=-1) * (1 - TUBE)


PRIMITIVES = ("sphere", "box", "cylinder", "cone", "torus")
HIT = (hit_sphere, hit_box, hit_cylinder, hit_cone, hit_torus)
NORMAL = (normal_sphere, normal_box, normal_cylinder, normal_cone, normal_torus)
