"""Picture files of 8 and of 16 bits a channel: what Pillow would clip or cut short, OpenCV reads."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageOps, UnidentifiedImageError

Levels = UInt8[np.ndarray, "H W 3"] | UInt16[np.ndarray, "H W 3"]
TIFF = (b"II*\0", b"MM\0*")
"""How TIFF files begin; Pillow does not know those of 16 bits a channel in colour."""
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Still:
    """A picture file, as it looks upright."""

    width_px: int
    height_px: int
    orientation: int
    """How the stored one is turned, 1 to 8 as in EXIF."""
    deep: bool
    """Whether it has 16 bits a channel."""
    clear: bool
    """Whether it has transparency."""


def read_levels(path: Path) -> Levels:
    """A picture, upright RGB, without its transparency.

    Raises:
        OSError: it cannot be read, or has too many pixels to be meant.
    """
    still = look_at(path)
    if not still.deep:
        with Image.open(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    return np.ascontiguousarray(oriented(_decoded(path)[:, :, :3], still.orientation))


def look_at(path: Path) -> Still:
    """What a picture is, from its header where Pillow knows it. Raises OSError as `read_levels` does."""
    try:
        with Image.open(path) as picture, path.open("rb") as file:
            orientation = picture.getexif().get(_ORIENTATION, 1)
            width, height = picture.size if orientation < 5 else picture.size[::-1]
            return Still(width, height, orientation, is_deep(file.read(26), picture), picture.has_transparency_data)
    except Image.DecompressionBombError as error:
        raise OSError(str(error)) from error
    except UnidentifiedImageError:
        with path.open("rb") as file:
            if file.read(4) not in TIFF:
                raise
        deep = _decoded(path)  # colours of 16 bits
        return Still(deep.shape[1], deep.shape[0], 1, deep=True, clear=deep.shape[2] == 4)


def _decoded(path: Path) -> np.ndarray:
    array = decode_deep(path.read_bytes())
    if array is None:
        raise OSError("its pixels cannot be decoded")
    return array


def is_deep(head: bytes, picture: Image.Image) -> bool:
    """Whether a file has 16 bits a channel, which Pillow tells for grey ones only; `head` are its first 26 bytes."""
    if picture.mode.startswith("I;16"):
        return True
    if picture.format == "PNG":
        return head[24] == 16
    return picture.format == "TIFF" and max(getattr(picture, "tag_v2", {}).get(258, (8,))) == 16


def decode_deep(data: bytes) -> UInt8[np.ndarray, "H W c"] | UInt16[np.ndarray, "H W c"] | None:
    """Pixels of a file as they are, RGB or RGBA; None for what cannot be decoded or has other than 8 or 16 bits."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype not in (np.uint8, np.uint16):
        return None
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, 2)
    return cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA if array.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def oriented(array: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H W c] turned as EXIF orientation 1 to 8 says; other numbers change nothing."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array
