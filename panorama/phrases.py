"""Where phrases of a caption hold in a picture that is made: masks and boxes as a person writes them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from csd3d.attention.dense import Regions
from csd3d.attention.layout import Box
from csd3d.media.masks import read_mask
from panorama.windows import Windows

Where = Path | Box


def parse_regions(texts: Sequence[str]) -> list[tuple[Where, str]]:
    """Mask file or box, and phrase, of `mask.png=phrase` and `x0,y0,x1,y1=phrase`. Raises ValueError for something
    else."""
    found: list[tuple[Where, str]] = []
    for text in texts:
        head, equals, phrase = text.rpartition("=")
        head, phrase = head.strip(), phrase.strip()
        if not equals or not head or not phrase:
            raise ValueError(f'region: expected mask.png="a red ball" or x0,y0,x1,y1="a red ball", got {text!r}')
        is_box = not Path(head).suffix.isalpha() and head.count(",") == 3
        found.append((Box.of(head, "region") if is_box else Path(head), phrase))
    return found


def region_files(texts: Sequence[str]) -> list[Path]:
    """The mask files among them."""
    return [where for where, _ in parse_regions(texts) if isinstance(where, Path)]


def regions_of(texts: Sequence[str], windows: Windows, size_lat: tuple[int, int]) -> Regions | None:
    """The regions of a canvas of `size_lat` as its windows see them; None of no texts. Masks are stretched over it.

    Raises:
        FileNotFoundError, ValueError: a mask cannot be read.
    """
    if not (parsed := parse_regions(texts)):
        return None
    masks = torch.stack([_levels(where, size_lat) for where, _ in parsed])
    layers = int(windows.layer.max()) + 1
    return Regions(tuple(phrase for _, phrase in parsed), windows.gather(masks.expand(layers, -1, -1, -1)))


def _levels(where: Where, size_lat: tuple[int, int]) -> Float[Tensor, "H W"]:
    if isinstance(where, Box):
        return where.inside(size_lat).float()
    return interpolate(read_mask(where)[None, None], size_lat, mode="area")[0, 0]
