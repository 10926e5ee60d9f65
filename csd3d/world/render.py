"""From scenes and cameras to pictures and their truth."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.world.camera import Camera, rays
from csd3d.world.cast import GROUND, SKY, Hits, cast, geometry_of
from csd3d.world.scene import Scene
from csd3d.world.shade import shade

SAMPLES = 2
"""Rays per pixel along each axis (4 rays a pixel)."""
BUDGET_RAYS = 1 << 17
"""Rays that `render_bounded` holds at a time, some 100 MB; more are not faster on a CPU."""
ID_SKY, ID_GROUND, ID_FIRST_THING = 0, 1, 2


@dataclass(frozen=True)
class Truth:
    """What is behind the centre of every pixel."""

    depth: Float[Tensor, "b H W"]
    """Metres along the ray; inf in the sky."""
    ids: Int[Tensor, "b H W"]
    """0 sky, 1 ground, 2 + i the i-th thing."""
    hits: Hits


def _one_size(cameras: list[Camera]) -> tuple[int, int]:
    sizes = {(c.height_px, c.width_px) for c in cameras}
    if len(sizes) != 1:
        raise ValueError(f"cameras of one call: expected one size, got {sorted(sizes)}")
    return sizes.pop()


def _cast(scenes: list[Scene], cameras: list[Camera], samples: int, device: torch.device | str, shadows: bool) -> Hits:
    if len(scenes) != len(cameras):
        raise ValueError(f"cameras: expected one per scene ({len(scenes)}), got {len(cameras)}")
    _one_size(cameras)
    direction = torch.stack([rays(c, samples=samples) for c in cameras]).to(device)
    origin = torch.stack([c.c2w[:3, 3] for c in cameras]).to(device)
    return cast(scenes, origin, direction, shadows=shadows)


def to_pictures(colour: Float[Tensor, "b n 3"], camera: Camera, *, samples: int = SAMPLES) -> Float[Tensor, "b 3 H W"]:
    """Average the rays of each pixel."""
    rows, cols = camera.height_px * samples, camera.width_px * samples
    picture = colour.reshape(-1, rows, cols, 3).permute(0, 3, 1, 2)
    return torch.nn.functional.avg_pool2d(picture, samples) if samples > 1 else picture.contiguous()


def render(
    scenes: list[Scene], cameras: list[Camera], *, samples: int = SAMPLES, device: torch.device | str = "cpu"
) -> Float[Tensor, "b 3 H W"]:
    """Pictures in [0, 1] of b scenes, each through its own camera; all cameras have one size."""
    return render_looks([[s] for s in scenes], cameras, samples=samples, device=device)[0]


def render_looks(
    looks: list[list[Scene]], cameras: list[Camera], *, samples: int = SAMPLES, device: torch.device | str = "cpu"
) -> list[Float[Tensor, "b 3 H W"]]:
    """Several looks of b scenes: `looks[i]` are variants of one scene that share their geometry, cast only once.

    Returns one batch of pictures per look. Every scene must have as many looks as the first.
    """
    hits = _cast([variants[0] for variants in looks], cameras, samples, device, True)
    return [
        to_pictures(shade(hits, [variants[k] for variants in looks]), cameras[0], samples=samples)
        for k in range(len(looks[0]))
    ]


def render_bounded(
    scenes: list[Scene],
    cameras: list[Camera],
    *,
    samples: int = SAMPLES,
    budget_rays: int = BUDGET_RAYS,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "b 3 H W"]:
    """The pictures of `render`, a few of them or a band of one at a time, so that only they themselves take memory.

    Works for pictures and batches of any size; they come back on the CPU.
    """
    height, width = _one_size(cameras)
    pictures = torch.empty(len(scenes), 3, height, width)
    rays_a_row = width * samples * samples
    if rays_a_row * height <= budget_rays:
        step = budget_rays // (rays_a_row * height)
        for i in range(0, len(scenes), step):
            some = slice(i, i + step)
            pictures[some] = render(scenes[some], cameras[some], samples=samples, device=device).cpu()
        return pictures
    rows = max(1, budget_rays // rays_a_row)
    for picture, scene, camera in zip(pictures, scenes, cameras, strict=True):
        for first in range(0, height, rows):
            last = min(first + rows, height)
            direction = rays(camera, samples=samples, rows=(first, last))[None].to(device)
            colour = shade(cast([scene], camera.c2w[None, :3, 3].to(device), direction), [scene])
            picture[:, first:last] = to_pictures(colour, replace(camera, height_px=last - first), samples=samples)[0]
    return pictures


def truth(scenes: list[Scene], cameras: list[Camera], *, device: torch.device | str = "cpu") -> Truth:
    """Depth and ids through the centre of every pixel."""
    height, width = _one_size(cameras)
    hits = _cast(scenes, cameras, 1, device, False)
    thing = geometry_of(scenes, device=device).thing
    lookup = torch.cat([thing, torch.zeros(1, dtype=torch.long, device=thing.device)])
    ids = torch.where(hits.part >= 0, ID_FIRST_THING + lookup[hits.part.clamp_min(0)], ID_GROUND)
    ids = torch.where(hits.part == SKY, ID_SKY, ids)
    assert GROUND < 0
    return Truth(hits.t.reshape(-1, height, width), ids.reshape(-1, height, width), hits)
