"""Where views may change: masks from files, and a box in the scene."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csd3d.media.masks import read_mask

Box = tuple[float, float, float, float, float, float]
"""Least x, y, z and largest x, y, z."""
MASK_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_masks(folder: Path, names: list[str], height: int, width: int) -> Bool[Tensor, "n 1 H W"]:
    """Masks of all views, of `height` x `width` px: white from half on; a view without a file may change everywhere.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it has no mask for any view, or one of another size than the images, or one that cannot be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"mask-dir: expected a folder of masks, got {folder}")
    masks, found = [], 0
    for name in names:
        path = next((p for s in MASK_SUFFIXES if (p := folder / f"{name}{s}").is_file()), None)
        if path is None:
            masks.append(torch.ones(1, height, width, dtype=torch.bool))
            continue
        found += 1
        mask = read_mask(path)
        if tuple(mask.shape) != (height, width):
            raise ValueError(f"mask-dir: expected {width}x{height} px, got {mask.shape[1]}x{mask.shape[0]} in {path}")
        masks.append(mask[None] >= 0.5)
    if not found:
        raise ValueError(f"mask-dir: expected masks named as the images, such as {names[0]}.png, got none in {folder}")
    return torch.stack(masks)


@dataclass(frozen=True)
class Region:
    """Where a scene may change: within the masks of its views, within a box, or within both."""

    masks: Bool[Tensor, "n 1 H W"] | None
    box: Box | None

    def within(self, masks: Bool[Tensor, "n 1 H W"]) -> "Region":
        """The part of it that lies in further masks."""
        return replace(self, masks=masks if self.masks is None else self.masks & masks)

    def of_views(
        self,
        views: list[int],
        points: Float[Tensor, "m h w 3"] | None,
        height: int,
        width: int,
        window: tuple[slice, slice] = (slice(None), slice(None)),
    ) -> Bool[Tensor, "m 1 h w"]:
        """Of the pixels in a window of views of `height` x `width` px, which show `points`; none need be known without
        a box."""
        inside = torch.ones(len(views), 1, height, width, dtype=torch.bool)[..., window[0], window[1]]
        if self.masks is not None:
            whole = torch.nn.functional.interpolate(self.masks[views].float(), (height, width), mode="nearest")
            inside = inside & (whole[..., window[0], window[1]] > 0.5)
        if self.box is not None:
            assert points is not None
            inside = inside & in_box(points, self.box)[:, None]
        return inside

    def of_rays(self, indices: Int[Tensor, "r 3"], points: Float[Tensor, "r 3"]) -> Bool[Tensor, " r"]:
        """Of rays through the pixels `indices` (view, row, column) that end in `points`."""
        inside = torch.ones(len(indices), dtype=torch.bool)
        if self.masks is not None:
            view, y, x = indices.unbind(-1)
            inside &= self.masks[view, 0, y, x]
        if self.box is not None:
            inside &= in_box(points, self.box)
        return inside


def read_region(folder: Path | None, box: Box | None, names: list[str], height: int, width: int) -> Region | None:
    """What is asked for, None for everywhere; raises what `read_masks` raises."""
    if folder is None and box is None:
        return None
    return Region(None if folder is None else read_masks(folder, names, height, width), box)


def in_box(points: Float[Tensor, "*n 3"], box: Box) -> Bool[Tensor, "*n"]:
    """Whether points of the scene lie in a box."""
    low, high = points.new_tensor(box).view(2, 3)
    return ((points >= low) & (points <= high)).all(dim=-1)
