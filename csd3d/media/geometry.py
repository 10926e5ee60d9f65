"""Between the pixels of a picture and the size at which a prior works. Aspect is kept; nothing is squashed.

stored picture (H, W) --scale--> content (h, w), square pixels, shorter side = size --pad--> multiples of the codec's
factor, edge pixels repeated --prior--> crop --scale--> (H, W)
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from csd3d.media.pictures.levels import from_levels, read_levels, to_8_bits


@dataclass(frozen=True)
class WorkingSize:
    """The content in px, and the padding around it that makes both sides multiples of the codec's factor."""

    height_px: int
    width_px: int
    top_px: int
    bottom_px: int
    left_px: int
    right_px: int

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) in px as the codec sees it."""
        return self.height_px + self.top_px + self.bottom_px, self.width_px + self.left_px + self.right_px


MOST_ENLARGED = 4
"""A picture smaller than the working size is enlarged to it, but its longer side to no more than this many sizes."""
STRIP = 8
"""From so many times as long as wide a picture is a strip, a shape that hardly any prior was trained on."""


def working_size(
    display_aspect: Fraction, short_px: int, multiple: int, *, source_px: int | None = None
) -> WorkingSize:
    """The size for pictures of `display_aspect` (width over height) whose shorter side becomes `short_px`.

    `source_px` is their own shorter side: a small strip is enlarged no more than `enlargement` says, and padded up to
    `short_px`. None: as large as that.

    Raises:
        ValueError: `short_px` is smaller than `multiple`.
    """
    if short_px < multiple:
        raise ValueError(f"size: expected at least {multiple} px, the codec's unit, got {short_px}")
    short = Fraction(short_px)
    if source_px is not None:
        long = source_px * max(display_aspect, 1 / display_aspect)
        short = source_px * enlargement(source_px, long, short_px)
    height, width = (short, short * display_aspect) if display_aspect >= 1 else (short / display_aspect, short)
    height, width = max(round(height), 1), max(round(width), 1)
    extra_h, extra_w = (max(side, short_px) + -max(side, short_px) % multiple - side for side in (height, width))
    return WorkingSize(height, width, extra_h // 2, extra_h - extra_h // 2, extra_w // 2, extra_w - extra_w // 2)


def enlargement(short: int, long: int | Fraction, size_px: int) -> Fraction:
    """Factor by which a picture with these sides is scaled so that the shorter one becomes `size_px`: as it takes, but
    above 1 only until the longer one has `MOST_ENLARGED` times as many."""
    scale = Fraction(size_px) / short
    return scale if scale <= 1 else max(Fraction(1), min(scale, MOST_ENLARGED * size_px / Fraction(long)))


def strip_note(height_px: int, width_px: int, size_px: int, *, windows: bool = False) -> str | None:
    """What a person should know of a picture that is a strip, or next to nothing; None of others. `windows`: it is seen
    through windows, to which a strip is no strip."""
    short, long = sorted((height_px, width_px))
    if STRIP * short < size_px:
        return f"{width_px}x{height_px} px are next to nothing for a prior that works at {size_px} px: expect odd edits"
    if long >= STRIP * short and not windows:
        return (
            f"{width_px}x{height_px} px are {long / short:.0f} times as long as wide, a shape that priors were not "
            "trained on: expect odd edits"
        )
    return None


def to_working(rgb: Float[Tensor, "n 3 H W"], size: WorkingSize) -> Float[Tensor, "n 3 _H _W"]:
    """Scale pictures to the content size and pad them; values stay in [0, 1]."""
    content = resize(rgb, size.height_px, size.width_px).clamp(0, 1)
    return pad(content, (size.left_px, size.right_px, size.top_px, size.bottom_px), mode="replicate")


def from_working(
    small: Float[Tensor, "n c _H _W"], size: WorkingSize, height_px: int, width_px: int
) -> Float[Tensor, "n c H W"]:
    """Crop the padding away and scale the content back to its own pixels; not clamped, so differences pass."""
    bottom, right = size.top_px + size.height_px, size.left_px + size.width_px
    return resize(small[:, :, size.top_px : bottom, size.left_px : right], height_px, width_px)


def resize(rgb: Float[Tensor, "n c _h _w"], height_px: int, width_px: int) -> Float[Tensor, "n c _H _W"]:
    """Bicubic, free of aliasing when smaller; may overshoot [0, 1] a little. The same size comes back untouched."""
    if tuple(rgb.shape[-2:]) == (height_px, width_px):
        return rgb
    return interpolate(rgb, (height_px, width_px), mode="bicubic", antialias=True)


def pixel_centres(height_px: int, width_px: int) -> Float[Tensor, "h w 2"]:
    """Where the centre of each pixel is, x and y in pixels: (0.5, 0.5) for the first."""
    y, x = torch.meshgrid(torch.arange(height_px) + 0.5, torch.arange(width_px) + 0.5, indexing="ij")
    return torch.stack([x, y], dim=-1)


def read_square(path: Path, size_px: int) -> Float[Tensor, "3 S S"]:
    """`middle_square` of a picture file, upright. Raises ValueError when it cannot be read."""
    try:
        return middle_square(Image.fromarray(to_8_bits(read_levels(path))), size_px)
    except OSError as error:
        raise ValueError(f"pictures: {path} cannot be read ({error})") from None


def middle_square(photo: Image.Image, size_px: int) -> Float[Tensor, "3 S S"]:
    """The middle of a picture, its short side scaled to `size_px`, in [0, 1]."""
    side = min(photo.size)
    x, y = (photo.width - side) // 2, (photo.height - side) // 2
    piece = photo.crop((x, y, x + side, y + side)).resize((size_px, size_px), Image.Resampling.LANCZOS)
    return from_levels(np.array(piece))
