"""Pictures with the statistics of photographs and no meaning: overlapping textured discs and boxes ("dead leaves").

Many sizes, drawn with a density that falls with the cube of the size, give the sharp edges and the 1 / f spectrum of
natural pictures (Lee, Mumford and Huang 2001). They teach the codec what the geometric world lacks.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.world.filters import blur
from csd3d.world.shade import noise


def dead_leaves(count: int, size_px: int, *, seed: int) -> Float[Tensor, "n 3 S S"]:
    """`count` square pictures in [0, 1]."""
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, size_px), torch.linspace(0, 1, size_px), indexing="ij")
    out = torch.empty(count, 3, size_px, size_px)
    for k in range(count):
        picture = torch.rand(3, 1, 1, generator=rng).expand(3, size_px, size_px).clone()
        palette = torch.rand(5, 3, generator=rng)
        for _ in range(60):
            u = torch.rand(12, generator=rng)
            radius = 0.03 / (1 - 0.985 * u[0].item()) ** 0.55
            dx, dy = x - u[1] * 1.2 + 0.1, y - u[2] * 1.2 + 0.1
            turn = math.pi * u[3].item()
            a, b = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
            b = b * (0.5 + 1.5 * u[4])
            distance = torch.hypot(a, b) if u[5] < 0.6 else torch.maximum(a.abs(), b.abs())
            cover = ((radius - distance) * size_px * (0.15 if u[6] < 0.2 else 0.8) + 0.5).clamp(0, 1)
            colour = 0.75 * palette[int(u[7] * 5)] + 0.25 * torch.rand(3, generator=rng)
            grain = noise(torch.stack([a, b], -1) * (0.2 + 1.5 * u[8]) + u[9]) - 0.5
            slope = (a * (u[10] - 0.5) + b * (u[11] - 0.5)) * 1.5
            paint = colour[:, None, None] * (1 + 0.7 * u[5] * grain + slope)
            picture = torch.lerp(picture, paint, cover)
        out[k] = picture.clamp(0, 1)
    return blur(out, 0.5 / size_px)
