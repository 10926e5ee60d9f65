"""Reading a picture (PNG, JPEG, TIFF or WebP, 8 or 16 bits a channel) with its metadata.

The EXIF orientation is applied. Grey, palette and CMYK pictures become RGB. Transparency is a plane of its own.
Metadata are described in `csd3d.media.pictures.tags`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from csd3d.media.pictures.levels import (
    DAMAGED,
    DEEP,
    HEAD_BYTES,
    MOST_PX,
    TIFF,
    decode_deep,
    from_cmyk,
    in_one_line,
    is_deep,
    opened,
    oriented,
    split_alpha,
    tiff_tags,
)
from csd3d.media.pictures.tags import Tags, orientation_of, tags_of
from csd3d.media.place import require_utf8

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "MPO")
"""Kinds of files that are read, by Pillow's names (MPO: a JPEG with more pictures behind the first)."""
_TO_RGB = "a {} picture becomes RGB, as edits have colours"
_SUFFIXES = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "TIFF": (".tif", ".tiff"), "WEBP": (".webp",)}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture in memory, upright."""

    path: Path
    pixels: np.ndarray
    """[H W 3] uint8 or uint16, RGB."""
    alpha: np.ndarray | None = None
    """[H W] of the same kind; None where everything is opaque."""
    kind: str = "PNG"
    """What the file is: PNG, JPEG, TIFF or WEBP, whatever its name."""
    tags: Tags = field(default_factory=Tags)
    notes: tuple[str, ...] = ()
    """Warnings about how it was read."""

    @property
    def height_px(self) -> int:
        """Rows."""
        return self.pixels.shape[0]

    @property
    def width_px(self) -> int:
        """Columns."""
        return self.pixels.shape[1]

    @property
    def levels(self) -> int:
        """The largest value of a channel: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    def rgb(self, rows: Int[Tensor, " h"], columns: Int[Tensor, " w"]) -> Float[Tensor, "3 h w"]:
        """Some rows and columns in [0, 1]; any whole numbers, taken modulo the size (a circle goes on)."""
        block = _take(_take(self.pixels, rows.numpy() % self.height_px, 0), columns.numpy() % self.width_px, 1)
        return torch.from_numpy(block.astype(np.float32)).permute(2, 0, 1) / self.levels


def _take(x: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """`x` at `index`, without a copy where that is a stretch."""
    if len(index) and (np.diff(index) == 1).all():
        return x[(slice(None),) * axis + (slice(int(index[0]), int(index[-1]) + 1),)]
    return np.take(x, index, axis)


def open_picture(path: Path) -> Picture:
    """Read a picture.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture of a kind that is read, is damaged or cut short, or too large.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a device or pipe" if path.exists() else "which does not exist"
        raise FileNotFoundError(f"picture: expected a file, got {path}, {what}")
    require_utf8(path.absolute(), "picture")
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path}: expected a picture, got an empty file")
    try:
        with opened(BytesIO(data)) as image:
            return _read(path, data, image)
    except UnidentifiedImageError:
        if data[:4] in TIFF:
            return _finish(path, _deep(path, data, {}), "TIFF", _plain_tags(data), [], 1)
        raise ValueError(f"{path}: expected a picture (PNG, JPEG, TIFF or WebP), got something else") from None
    except DAMAGED as error:
        raise ValueError(f"{path}: the file is damaged or cut short ({in_one_line(error)})") from None


def _read(path: Path, data: bytes, image: Image.Image) -> Picture:
    kind = image.format or "unknown"
    if kind not in FORMATS:
        raise ValueError(f"{path}: expected PNG, JPEG, TIFF or WebP, got {kind}")
    count = getattr(image, "n_frames", 1)
    if count > 1 and kind != "MPO":
        raise ValueError(f"{path}: expected one picture, got {count} in one file")
    if image.width * image.height > MOST_PX:
        raise ValueError(f"{path}: expected at most {MOST_PX} pixels, got {image.width}x{image.height}")
    notes: list[str] = []
    kind = "JPEG" if kind == "MPO" else kind
    if path.suffix.lower() not in _SUFFIXES[kind]:
        notes.append(f"{path.name} is a {kind} file, whatever its name says")
    if image.mode in ("F", "I"):
        raise ValueError(f"{path}: expected 8 or 16 bits a channel, got 32")
    image.load()  # raises for a file that is cut short, where OpenCV does not
    array = _deep(path, data, tiff_tags(image)) if is_deep(data[:HEAD_BYTES], image) else _to_rgb(image, notes)
    if image.mode.startswith("I;16"):
        notes.append(_TO_RGB.format("grey"))
    orientation = orientation_of(image, notes)
    height, width = array.shape[:2] if orientation < 5 else array.shape[1::-1]
    tags = tags_of(image, (width, height), notes)
    return _finish(path, array, kind, tags, notes, orientation)


def _finish(path: Path, array: np.ndarray, kind: str, tags: Tags, notes: list[str], orientation: int) -> Picture:
    pixels, alpha = split_alpha(oriented(array, orientation))
    return Picture(path, pixels, alpha, kind, tags, tuple(notes))


def _to_rgb(image: Image.Image, notes: list[str]) -> np.ndarray:
    """[H W 3] or, with transparency, [H W 4]; 8 bits."""
    if image.mode == "CMYK":
        notes.append("CMYK becomes RGB, of 8 bits a channel")
        return np.asarray(from_cmyk(image))
    words = {"1": "black and white", "L": "grey", "LA": "grey", "P": "palette", "PA": "palette"}
    if image.mode in words:
        notes.append(_TO_RGB.format(words[image.mode]))
    clear = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if clear else "RGB"))


def _deep(path: Path, data: bytes, tags: Mapping[int, Any]) -> np.ndarray:
    array = decode_deep(data, tags)
    if array is None:
        raise ValueError(f"{path}: expected {DEEP}, got something else")
    return array


def _plain_tags(data: bytes) -> Tags:
    """XMP and profile of a TIFF that Pillow does not open."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    stream = BytesIO(data)
    ifd = ImageFileDirectory_v2(data[:8])
    stream.seek(ifd.next)
    ifd.load(stream)
    xmp, icc = ifd.get(700, b""), ifd.get(34675, b"")
    return Tags(b"", bytes(xmp), bytes(icc))
