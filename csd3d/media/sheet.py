"""Contact sheets: labelled rows of pictures, for comparison."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from csd3d.media.atomic import atomic_path
from csd3d.media.pictures.levels import to_levels

_PAPER = (247, 247, 245)
_INK = (38, 40, 44)
_FAINT = (120, 124, 130)
_GAP, _MARGIN, _CAPTION, _HEADER = 6, 14, 20, 22
_PNG_LEVEL = 4
"""Half the time of zlib's 6, for a sixth more bytes."""
_MOST = 4
"""How many times a picture is enlarged at most; more shows nothing more, and takes longer to write than a short run."""


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` different indices spread evenly over range(count), first and last included."""
    if count <= wanted:
        return list(range(count))
    if wanted == 1:
        return [count // 2]
    return [round(i * (count - 1) / (wanted - 1)) for i in range(wanted)]


def contact_sheet(
    rows: Mapping[str, Float[Tensor, "_n 3 _H _W"]], *, columns: Sequence[str] = (), cell_px: int = 224
) -> Image.Image:
    """Draw `rows` (label to pictures in [0, 1]) on one sheet.

    Every picture is fitted into a box of `cell_px` on its longer side, aspect kept, and enlarged four times at most;
    rows may differ in length and size. `columns` are captions over the columns, for instance the time of each frame.

    Raises:
        ValueError: no rows, or a row without pictures.
    """
    if not rows or any(len(pictures) == 0 for pictures in rows.values()):
        raise ValueError("contact sheet: expected at least one picture in every row, got none")
    fitted = {" ".join(label.split()): _fit(pictures, cell_px) for label, pictures in rows.items()}
    across = max(len(pictures) for pictures in fitted.values())
    cell_w = max(picture.width for pictures in fitted.values() for picture in pictures)
    heights = [pictures[0].height for pictures in fitted.values()]
    head = _HEADER if columns else 0
    label_font, small_font = ImageFont.load_default(14), ImageFont.load_default(12)
    longest = max(ceil(label_font.getlength(label)) for label in fitted)
    width = 2 * _MARGIN + max(across * cell_w + (across - 1) * _GAP, longest)
    height = 2 * _MARGIN + head + sum(heights) + len(heights) * (_CAPTION + _GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, caption in enumerate(columns[:across]):
        draw.text((_MARGIN + i * (cell_w + _GAP), _MARGIN), caption, _FAINT, font=small_font)
    top = _MARGIN + head
    for (label, pictures), row_height in zip(fitted.items(), heights, strict=True):
        draw.text((_MARGIN, top), label, _INK, font=label_font)
        top += _CAPTION
        for i, picture in enumerate(pictures):
            sheet.paste(picture, (_MARGIN + i * (cell_w + _GAP), top))
        top += row_height + _GAP
    return sheet


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture atomically; the suffix says the format."""
    with atomic_path(path) as part:
        picture.save(part, compress_level=_PNG_LEVEL)


def _fit(pictures: Float[Tensor, "n 3 _H _W"], cell_px: int) -> list[Image.Image]:
    height, width = pictures.shape[-2:]
    scale = min(cell_px / max(height, width), _MOST)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    small = interpolate(pictures.detach().float().cpu(), size, mode="bilinear", antialias=True)
    return [Image.fromarray(picture) for picture in to_levels(small)]
