"""How the views of a scene that was made from a sentence agree with each other, without any truth."""

from fractions import Fraction

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from torch import Tensor

from csd3d.engine.transport import along
from csd3d.media.geometry import working_size
from csd3d.nerf.text3d.data import cameras_at
from csd3d.nerf.text3d.orbit import Orbit
from csd3d.nerf.views import correspond

BINS = 4
"""Of each colour channel in a histogram."""


@torch.no_grad()
def seen_around(model: Model, orbit: Orbit, count: int, side_px: int) -> dict[str, Tensor]:
    """`rgb` in [0, 1], `distance` along the rays and `opacity` of a scene from `count` places once around, the first
    from the front; each n c s s, on the CPU."""
    model.eval()
    cameras = cameras_at(orbit.ring(count), side_px).to(model.device)
    views = [model.get_outputs_for_camera(cameras[i : i + 1]) for i in range(count)]
    names = {"rgb": "rgb", "distance": "depth", "opacity": "accumulation"}
    found = {name: torch.stack([view[of] for view in views]).permute(0, 3, 1, 2) for name, of in names.items()}
    return {name: values.float().cpu().contiguous() for name, values in found.items()} | {
        "rgb": found["rgb"].clamp(0, 1).float().cpu().contiguous()
    }


def ring_warp(
    cameras: Cameras,
    rgb: Float[Tensor, "n 3 s s"],
    distance: Float[Tensor, "n 1 s s"],
    opacity: Float[Tensor, "n 1 s s"],
) -> float:
    """Mean difference between views once around and their neighbours where these show the same points of what is
    there (`opacity` above a half), by the depth of the field, in [0, 1]; NaN where no two of them do. Fog is in it."""
    side = rgb.shape[-1]
    size, total, seen = working_size(Fraction(1), side, 1), 0.0, 0.0
    for i in range(len(rgb)):
        pair = [i, (i + 1) % len(rgb)]
        found = correspond(cameras, pair, distance[pair], size, 1)
        moved, visible = along(0, rgb[pair], found, torch.arange(2))
        both = visible[1] * (opacity[i, 0] > 0.5)
        total += float(((moved[1] - rgb[i]).abs().mean(0) * both).sum())
        seen += float(both.sum())
    return total / seen if seen else float("nan")


def opposite(rgb: Float[Tensor, "n 3 s s"]) -> float:
    """Mean difference between views from opposite sides, mirrored as they see each other's outline, in [0, 1]: next to
    nothing where a thing has a face on both sides (or is round). n is even."""
    half = len(rgb) // 2
    return float((rgb[:half] - rgb[half:].flip(-1)).abs().mean())


def colours_apart(rgb: Float[Tensor, "n 3 s s"]) -> float:
    """How far the views' histograms of colours are from their mean: half the sum of differences, in [0, 1]."""
    levels = (rgb * BINS).long().clamp(0, BINS - 1)
    numbers = (levels[:, 0] * BINS + levels[:, 1]) * BINS + levels[:, 2]
    counts = torch.stack([torch.bincount(n.flatten(), minlength=BINS**3).float() for n in numbers])
    shares = counts / counts.sum(1, keepdim=True)
    return float((shares - shares.mean(0)).abs().sum(1).mean() / 2)
