"""Does a picture have the same structure as another, whatever its colours?"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from csd3d.metrics.perceptual import self_similarity_distance

CELL_PX = 8
ORIENTATIONS = 8
FAINT = 0.02
"""Contrast, in luminance a pixel, below which edges hardly count."""
_LUMA = (0.299, 0.587, 0.114)


def structure_distance(a: Float[Tensor, "n 3 H W"], b: Float[Tensor, "n 3 H W"]) -> Float[Tensor, " n"]:
    """Mean squared difference of the edge self-similarities of two pictures, in [0, 4], lower is better.

    A picture is cut into cells of 8 x 8 px. A cell is described by where its edges point (a histogram of gradient
    orientations over half a turn, weighted by contrast, with a share for "no edge"). Self-similarity is the matrix of
    cosines between all pairs of cells (as Tumanyan et al. 2022 do with features of DINO, here with edges). It does not
    change with colours, with reversed contrast, or when all contrast is scaled up.

    Sides are multiples of 8.
    """
    return self_similarity_distance(_cells(a), _cells(b))


def self_similarity(rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n k k"]:
    """Cosines between the descriptions of all pairs of cells, row by row. Raises ValueError for other sizes."""
    unit = functional.normalize(_cells(rgb), dim=2)
    return unit @ unit.transpose(1, 2)


def _cells(rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n k d"]:
    """The descriptions of all cells, row by row."""
    if rgb.shape[-1] % CELL_PX or rgb.shape[-2] % CELL_PX:
        raise ValueError(f"rgb: expected sides that are multiples of {CELL_PX} px, got {tuple(rgb.shape[-2:])}")
    luma = (rgb * torch.tensor(_LUMA, device=rgb.device)[:, None, None]).sum(1, keepdim=True)
    padded = functional.pad(luma, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    contrast = torch.sqrt(dx * dx + dy * dy)
    angle = torch.atan2(dy, dx) % torch.pi
    centres = (torch.arange(ORIENTATIONS, device=rgb.device) * torch.pi / ORIENTATIONS)[:, None, None]
    apart = (angle - centres + torch.pi / 2) % torch.pi - torch.pi / 2  # the shorter way around half a turn
    bins = (1 - apart.abs() * ORIENTATIONS / torch.pi).clamp_min(0) * contrast
    cells = torch.cat(
        [functional.avg_pool2d(bins, CELL_PX), torch.full_like(bins[:, :1, ::CELL_PX, ::CELL_PX], FAINT)], 1
    )
    return cells.flatten(2).transpose(1, 2)
