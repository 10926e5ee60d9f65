"""Where views may change: masks from files, and a box in the scene."""

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

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
        try:
            picture = Image.open(path).convert("L")
        except OSError as error:
            raise ValueError(f"mask-dir: {path} cannot be read as a picture ({error})") from None
        if picture.size != (width, height):
            raise ValueError(f"mask-dir: expected {width}x{height} px, got {picture.width}x{picture.height} in {path}")
        levels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, height, width)
        masks.append(levels >= 128)
    if not found:
        raise ValueError(f"mask-dir: expected masks named as the images, such as {names[0]}.png, got none in {folder}")
    return torch.stack(masks)


def in_box(points: Float[Tensor, "*n 3"], box: tuple[float, float, float, float, float, float]) -> Bool[Tensor, "*n"]:
    """Whether points of the scene lie in a box: least x, y, z and largest x, y, z."""
    low, high = points.new_tensor(box).view(2, 3)
    return ((points >= low) & (points <= high)).all(dim=-1)
