"""Pictures as a network was trained to see them."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.media.geometry import resize

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PANORAMIC = 2.5
"""Pictures longer than so many times their height are looked at in squares: a network's crop would show little of
them, and squeezed they would be nothing that it knows."""


@dataclass(frozen=True)
class Scaling:
    """The shorter side becomes `side_px`, then levels are (rgb - mean) / std."""

    side_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: bool = True
    """Whether only the square in the middle is seen, as CLIP does."""
    multiple_px: int = 1
    """What the sides of a picture that is not cropped are multiples of."""

    def __call__(self, rgb: Float[Tensor, "n 3 _H _W"]) -> Float[Tensor, "n 3 _h _w"]:
        """Pictures in [0, 1] to the network's levels."""
        height, width = rgb.shape[-2:]
        scale, unit = self.side_px / min(height, width), self.multiple_px
        sides = [max(self.side_px, unit * round(side * scale / unit)) for side in (height, width)]
        small = resize(rgb, sides[0], sides[1]).clamp(0, 1)
        if self.crop:
            top, left = (sides[0] - self.side_px) // 2, (sides[1] - self.side_px) // 2
            small = small[..., top : top + self.side_px, left : left + self.side_px]
        mean, std = (torch.tensor(v, device=rgb.device).view(3, 1, 1) for v in (self.mean, self.std))
        return (small - mean) / std


def squares(rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "m 3 _s _s"] | None:
    """Panoramic pictures as squares that overlap by half, all those of one picture together; None for other shapes."""
    height, width = rgb.shape[-2:]
    side, long = min(height, width), max(height, width)
    if long < PANORAMIC * side:
        return None
    count = -(-2 * (long - side) // side) + 1
    starts = [round(k * (long - side) / (count - 1)) for k in range(count)]
    axis = -1 if width >= height else -2
    return torch.stack([rgb.narrow(axis, start, side) for start in starts], dim=1).flatten(0, 1)


def read_scaling(
    folder: Path, *, side_px: int, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Scaling:
    """Levels as the preprocessor_config.json of a model says, cropped; what it does not say is given here.

    Raises:
        ValueError: it is no JSON object, or its numbers are of another kind.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return Scaling(side_px, mean, std)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        red, green, blue = map(float, said.get("image_mean", mean))
        spread = tuple(map(float, said.get("image_std", std)))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected how pictures are scaled, got something else ({error})") from None
    if len(spread) != 3 or min(spread) <= 0:
        raise ValueError(f"{path}: expected an image_std of three numbers above 0, got {spread}")
    return Scaling(side_px, (red, green, blue), spread)
