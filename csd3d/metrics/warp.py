"""Do two frames agree where they show the same thing?

flow(p) = q - p, in pixels (x, y): what is at p in the first frame is at q in the second. A pixel's centre lies at +0.5,
so the top left one is at (0.5, 0.5).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample


def backward_warp(
    second: Float[Tensor, "n c H W"], flow: Float[Tensor, "n 2 H W"]
) -> tuple[Float[Tensor, "n c H W"], Bool[Tensor, "n H W"]]:
    """The second frame as seen from the first: second(p + flow(p)), bilinear.

    Returns it with a mask of the pixels whose p + flow(p) lies within the frame; elsewhere, and where the flow is not a
    finite number, the values mean nothing (they are those of the nearest edge).
    """
    height, width = second.shape[-2:]
    known = flow.isfinite().all(1)
    flow = torch.where(known[:, None], flow, torch.zeros_like(flow))
    y, x = torch.meshgrid(
        torch.arange(height, dtype=flow.dtype, device=flow.device) + 0.5,
        torch.arange(width, dtype=flow.dtype, device=flow.device) + 0.5,
        indexing="ij",
    )
    x, y = x + flow[:, 0], y + flow[:, 1]
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1).to(second.dtype)
    warped = grid_sample(second, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped, inside & known


def warp_error(
    first: Float[Tensor, "n 3 H W"],
    second: Float[Tensor, "n 3 H W"],
    flow: Float[Tensor, "n 2 H W"],
    visible: Bool[Tensor, "n H W"],
) -> Float[Tensor, " n"]:
    """Mean of |first - warped second| over the channels of the pixels that both frames see, for each of n pairs.

    In [0, 1] units, lower is better; NaN for a pair with no such pixel. `flow` leads from the first frame to the second
    and `visible` marks the pixels of the first that the second sees too. The clip's true edited version has an error as
    well (resampling, edges, highlights that move), so this is read beside the truth's own; a blurred or empty clip has
    a small one, so it is read beside accuracy.
    """
    warped, inside = backward_warp(second, flow)
    return masked_mean((first - warped).abs().mean(1), visible & inside)


def masked_mean(values: Float[Tensor, "n H W"], mask: Bool[Tensor, "n H W"]) -> Float[Tensor, " n"]:
    """Mean of the marked values of each row; NaN where none is marked."""
    total = torch.where(mask, values, torch.zeros_like(values)).sum(dim=(1, 2))
    count = mask.sum(dim=(1, 2))
    return torch.where(count > 0, total / count, torch.full_like(total, torch.nan))
