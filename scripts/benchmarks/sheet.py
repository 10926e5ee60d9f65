"""Contact sheet of single edits: source, output and truth side by side, the instruction above."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from csd3d.media.pictures.levels import to_levels

_PAPER, _INK, _RIGHT, _WRONG = (247, 247, 245), (38, 40, 44), (30, 120, 60), (180, 50, 40)
_GAP, _CAPTION = 4, 34


@dataclass(frozen=True)
class Triple:
    """One edit to look at."""

    caption: str
    verdict: str
    right: bool
    pictures: Float[Tensor, "3 3 S S"]
    """Source, output, truth."""


def triples_sheet(rows: Sequence[Sequence[Triple]]) -> Image.Image:
    """Draw rows of triples; all pictures have one size. Raises ValueError when there are none."""
    if not rows or not all(rows):
        raise ValueError("sheet: expected at least one picture in every row, got none")
    side = rows[0][0].pictures.shape[-1]
    wide, high = 3 * (side + _GAP) + 4 * _GAP, side + _CAPTION + 3 * _GAP
    sheet = Image.new("RGB", (max(map(len, rows)) * wide + 4 * _GAP, len(rows) * high + 4 * _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for r, row in enumerate(rows):
        for c, triple in enumerate(row):
            left, top = 4 * _GAP + c * wide, 2 * _GAP + r * high
            draw.text((left, top), triple.caption, _INK, font=font)
            draw.text((left, top + 15), triple.verdict, _RIGHT if triple.right else _WRONG, font=font)
            for i, picture in enumerate(to_levels(triple.pictures)):
                sheet.paste(Image.fromarray(picture), (left + i * (side + _GAP), top + _CAPTION))
    return sheet
