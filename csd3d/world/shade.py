"""Colour for what the rays hit. Shading does not move anything: the same `Hits` serve every look of a scene."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.world.cast import GROUND, SKY, Hits
from csd3d.world.look import Look, look_of, paint_of
from csd3d.world.scene import Scene

TILE = 128
"""Side of the noise tile, in samples."""


@dataclass(frozen=True)
class _Rows:
    """Some of the rays of one scene."""

    direction: Float[Tensor, "m 3"]
    t: Float[Tensor, "m 1"]
    point: Float[Tensor, "m 3"]
    normal: Float[Tensor, "m 3"]
    local: Float[Tensor, "m 3"]
    lit: Float[Tensor, "m 1"]

    def take(self, index: Int[Tensor, " k"]) -> "_Rows":
        return _Rows(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@lru_cache(maxsize=4)
def _noise_tile(device: str) -> Float[Tensor, "T T"]:
    """A seamless tile of smooth noise in [0, 1]: random Fourier phases under a 1 / f spectrum, cut at 24 cycles."""
    rng = torch.Generator().manual_seed(7)
    f = torch.fft.fftfreq(TILE, 1 / TILE)
    radius = (f[:, None] ** 2 + f[None] ** 2).sqrt()
    amplitude = torch.where((radius > 0) & (radius <= 24), radius.clamp_min(1) ** -1.3, 0.0)
    phase = 2 * math.pi * torch.rand(TILE, TILE, generator=rng)
    tile = torch.fft.ifft2(torch.polar(amplitude, phase)).real
    return ((tile - tile.mean()) / tile.std() * 0.22 + 0.5).clamp(0, 1).to(device)


def noise(uv: Float[Tensor, "... 2"]) -> Float[Tensor, "..."]:
    """The tile repeated over the plane with period 1, bilinear."""
    tile = _noise_tile(str(uv.device))
    p = uv * TILE
    base = p.floor()
    f = p - base
    i = base.long() % TILE
    j = (i + 1) % TILE
    rows = tile.flatten()
    a, b = rows[i[..., 1] * TILE + i[..., 0]], rows[i[..., 1] * TILE + j[..., 0]]
    c, d = rows[j[..., 1] * TILE + i[..., 0]], rows[j[..., 1] * TILE + j[..., 0]]
    top, bottom = torch.lerp(a, b, f[..., 0]), torch.lerp(c, d, f[..., 0])
    return torch.lerp(top, bottom, f[..., 1])


def _mix(a: Tensor, b: Tensor, amount: Tensor) -> Tensor:
    return a + (b - a) * amount


def _smooth(x: Tensor, low: float, high: float) -> Tensor:
    s = ((x - low) / (high - low)).clamp(0, 1)
    return s * s * (3 - 2 * s)


def sky(direction: Float[Tensor, "m 3"], look: Look) -> Float[Tensor, "m 3"]:
    """The sky, clouds, sun or moon and the hills on the horizon, all infinitely far away."""
    up = direction[:, 2:]
    colour = _mix(look.horizon, look.zenith, _smooth(up, 0.0, 0.75))
    plane = direction[:, :2] / (up.clamp_min(0) + 0.25)
    cover = _smooth(noise(plane * 0.11 + look.phase)[:, None], 0.46, 0.75) * _smooth(up, 0.02, 0.25)
    colour = _mix(colour, look.cloud_colour, cover * look.cloud)
    towards = (direction @ look.sun).clamp_min(0)[:, None]
    colour = colour + look.glow * (towards**48 + 0.6 * towards**6 * (1 - up.clamp(0, 1)))
    if look.hill_height == 0:
        return colour
    azimuth = torch.atan2(direction[:, 1:2], direction[:, 0:1])
    ridge = torch.zeros_like(up)
    for k, a in ((2, 0.5), (5, 0.3), (9, 0.14), (17, 0.06)):
        ridge += a * torch.sin(k * azimuth + 2 * math.pi * look.phase * k)
    slope = up / direction[:, :2].norm(dim=-1, keepdim=True).clamp_min(1e-6)
    hill = _smooth(look.hill_height * (0.6 + 0.5 * ridge) - slope, -0.004, 0.004)
    return _mix(colour, _mix(look.hill_colour, look.horizon, 0.25 + 0.5 * _smooth(slope, 0.0, 0.3)), hill)


def _ground_albedo(point: Float[Tensor, "m 3"], t: Float[Tensor, "m 1"], look: Look) -> Float[Tensor, "m 3"]:
    calm = torch.exp(-t / 9.0)
    grain = noise(point[:, :2] * 0.23 + look.phase)[:, None]
    if look.ground_kind == "checkerboard":
        waves = torch.sin(math.pi * point[:, :1]) * torch.sin(math.pi * point[:, 1:2])
        amount = 0.5 + 0.5 * (waves * 200 / t.clamp(1, 60)).clamp(-1, 1) * calm.sqrt()
    elif look.ground_kind == "lava":
        amount = _smooth(grain, 0.45, 0.75)
    else:
        amount = 0.5 + (grain - 0.5) * (0.35 + 1.3 * calm)
    colour = _mix(look.ground[0], look.ground[1], amount)
    if look.snow:
        white = torch.tensor([0.93, 0.95, 0.98], device=colour.device) * (0.95 + 0.1 * (grain - 0.5))
        colour = _mix(colour, white, torch.tensor(0.96 * look.snow, device=colour.device))
    return colour


def _material(name: str, p: Float[Tensor, "m 3"], albedo: Float[Tensor, "3"]) -> tuple[Float[Tensor, "m 3"], float]:
    """Albedo in the part's own frame and the share that is mirrored."""
    if name in ("chrome", "gold"):
        colour = (0.80, 0.82, 0.86) if name == "chrome" else (0.98, 0.74, 0.20)
        return torch.tensor(colour, device=p.device).expand_as(p), 0.72 if name == "chrome" else 0.45
    if name == "striped":
        stripe = (torch.sin(2 * math.pi * p[:, 2:]) * 6).clamp(-1, 1) * 0.5 + 0.5
        other = torch.full_like(albedo, 0.10 if albedo.min() > 0.8 else 0.95)
        return _mix(albedo, other, stripe), 0.0
    if name in ("checked", "spotted"):
        other = torch.full_like(albedo, 0.10 if albedo.min() > 0.8 else 0.95)
        return _mix(albedo, other, _checks(p) if name == "checked" else _spots(p)), 0.0
    grain = noise((p[:, :2] + p[:, 2:] * 0.7) * 0.16)[:, None]
    if name == "wood":
        dark, light = torch.tensor([[0.36, 0.20, 0.09], [0.62, 0.40, 0.20]], device=p.device)
        rings = 0.5 + 0.5 * torch.sin(9 * p[:, :1] + 3 * p[:, 2:] + 10 * grain)
        return _mix(dark, light, rings), 0.0
    return albedo * (0.9 + 0.2 * grain), 0.0


def _checks(p: Float[Tensor, "m 3"]) -> Float[Tensor, "m 1"]:
    """Cubes of side 0.5 of the part's frame, alternately 0 and 1, none of whose faces lies on a flat side."""
    waves = torch.sin(2 * math.pi * (p + 0.125)).prod(-1, keepdim=True)
    return (waves * 8).clamp(-1, 1) * 0.5 + 0.5


def _spots(p: Float[Tensor, "m 3"]) -> Float[Tensor, "m 1"]:
    """1 inside balls of radius 0.2 whose centres are 2 / 3 apart; flat sides cut a layer of them in the middle."""
    offset = (p + 1) / 0.6667
    away = ((offset - offset.round()) * 0.6667).norm(dim=-1, keepdim=True)
    return _smooth(-away, -0.24, -0.20)


def _light(rows: _Rows, albedo: Float[Tensor, "m 3"], look: Look) -> Float[Tensor, "m 3"]:
    """Sun and sky light on a matte surface."""
    facing = (rows.normal @ look.sun).clamp_min(0)[:, None] * rows.lit
    return albedo * (look.ambient * (0.75 + 0.25 * rows.normal[:, 2:]) + facing * look.sun_colour)


def _bounce(rows: _Rows) -> Float[Tensor, "m 3"]:
    cosine = (rows.direction * rows.normal).sum(-1, keepdim=True)
    return torch.nn.functional.normalize(rows.direction - 2 * cosine * rows.normal, dim=-1)


def _shade_ground(rows: _Rows, look: Look) -> Float[Tensor, "m 3"]:
    albedo = _ground_albedo(rows.point, rows.t, look)
    lit = _light(rows, albedo, look)
    if look.ground_kind == "lava" and not look.snow:
        lit = torch.maximum(lit, albedo * _smooth(albedo[:, :1], 0.25, 0.8))
    if look.wet:
        fresnel = 0.25 + 0.75 * (1 + rows.direction[:, 2:]).clamp(0, 1) ** 3
        lit = _mix(lit * (1 - 0.35 * look.wet), sky(_bounce(rows), look), 0.75 * fresnel * look.wet)
    return lit


def _shade_part(rows: _Rows, look: Look, colour: Float[Tensor, "3"], material: str) -> Float[Tensor, "m 3"]:
    albedo, mirror = _material(material, rows.local, colour)
    share = torch.full_like(rows.t, mirror)
    if look.snow:
        cover = look.snow * _smooth(rows.normal[:, 2:], 0.35, 0.75)
        albedo = _mix(albedo, torch.tensor([0.94, 0.95, 0.98], device=albedo.device), cover)
        share = share * (1 - cover)
    lit = _light(rows, albedo, look)
    bounce = _bounce(rows)
    if mirror:
        below = look.ground.mean(dim=0) * (look.ambient + 0.6 * look.sun_colour)
        seen = torch.where(bounce[:, 2:] < 0, below, sky(bounce, look))
        lit = _mix(lit, seen * albedo, share)
    highlight = (bounce @ look.sun).clamp_min(0)[:, None] ** 24 * rows.lit
    return lit + (0.12 + 0.5 * share) * highlight * look.sun_colour


def _shade_one(rows: _Rows, part: Int[Tensor, " n"], scene: Scene, first_part: int) -> Float[Tensor, "n 3"]:
    look = look_of(scene, device=part.device)
    out = torch.empty_like(rows.direction)
    in_sky = (part == SKY).nonzero(as_tuple=True)[0]
    out[in_sky] = sky(rows.direction[in_sky], look)
    on_ground = (part == GROUND).nonzero(as_tuple=True)[0]
    surfaces = [(on_ground, _shade_ground(rows.take(on_ground), look))]
    for k, (colour, material) in enumerate(paint_of(scene)):
        on_part = (part == first_part + k).nonzero(as_tuple=True)[0]
        if len(on_part):
            albedo = torch.tensor(colour, device=part.device)
            surfaces.append((on_part, _shade_part(rows.take(on_part), look, albedo, material)))
    for where, lit in surfaces:
        fade = 1 - torch.exp(-look.haze * (rows.t[where] - 2.0).clamp_min(0))
        out[where] = _mix(lit, look.horizon, fade)
    return out.clamp(0, 1)


def shade(hits: Hits, scenes: list[Scene]) -> Float[Tensor, "b n 3"]:
    """Colours in [0, 1] of b x n rays. The scenes must have the geometry that was cast; paint and look may differ."""
    first_part, out = 0, []
    for b, scene in enumerate(scenes):
        t = hits.t[b, :, None].clamp_max(1000.0)
        point = hits.origin[b] + t * hits.direction[b]
        rows = _Rows(hits.direction[b], t, point, hits.normal[b], hits.local[b], hits.lit[b, :, None])
        out.append(_shade_one(rows, hits.part[b], scene, first_part))
        first_part += len(paint_of(scene))
    return torch.stack(out)
