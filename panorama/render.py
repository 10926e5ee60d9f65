"""From blocks of a result to its pixels: masks, levels, what has to stay."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from csd3d.media.pictures.read import Picture
from panorama.regions import Plan
from panorama.surface import Block


def composite(
    picture: Picture,
    plan: Plan,
    blocks: Iterable[Block],
    tracked: Callable[[Iterable[Block]], Iterator[Block]] = iter,
    between: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """The result [H W 3] in the picture's own kind of levels; where the plan's strength is 0, the source's very levels.

    `tracked` watches the blocks go by; `between` is called after each, and may raise to stop.
    """
    out = picture.pixels.copy()
    for block in tracked(blocks):
        strength = _strength(picture, plan, block)
        mixed = torch.lerp(block.source, block.edited, strength)
        levels = (mixed.clamp(0, 1) * picture.levels).round().permute(1, 2, 0).numpy().astype(out.dtype)
        at = np.ix_(block.rows.numpy(), block.columns.numpy())
        out[at] = np.where((strength > 0).numpy()[:, :, None], levels, out[at])
        between()
    return out


def _strength(picture: Picture, plan: Plan, block: Block) -> torch.Tensor:
    """[h w] how much of the edit is shown."""
    y = (block.rows.double() + 0.5) / picture.height_px
    x = (block.columns.double() + 0.5) / picture.width_px
    at_y, at_x = torch.meshgrid(y, x, indexing="ij")
    return plan.strength(at_x, at_y).float()
