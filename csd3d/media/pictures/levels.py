"""Pixels of picture files, 8 and 16 bits a channel: what Pillow would clip or cut short, OpenCV decodes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt16
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Levels = UInt8[np.ndarray, "H W 3"] | UInt16[np.ndarray, "H W 3"]
Opacity = UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]
Bits = Literal[8, 16]
TIFF = (b"II*\0", b"MM\0*")
"""How TIFF files begin; Pillow does not know those of 16 bits a channel in colour."""
MOST_PX = 1_000_000_000
"""Pixels beyond which a file is taken for a mistake."""
HEAD_BYTES = 26
"""Of a file, as many as `is_deep` needs."""
_ORIENTATION = 0x0112
REC709 = (0.2126, 0.7152, 0.0722)
"""What red, green and blue add to luma, as in the clips that are written."""


@dataclass(frozen=True)
class Header:
    """Facts of a picture file; sizes are those of the upright picture."""

    width_px: int
    height_px: int
    bits: Bits
    """Bits a channel."""
    has_alpha: bool
    """Whether it has transparency."""


def read_header(path: Path) -> Header:
    """What a picture is, from its header where Pillow knows it. Raises OSError as `read_levels` does."""
    try:
        with any_size(), path.open("rb") as file, Image.open(file) as picture:
            turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            width, height = picture.size[::-1] if turned else picture.size
            file.seek(0)
            bits = 16 if is_deep(file.read(HEAD_BYTES), picture) else 8
            return Header(width, height, bits, picture.has_transparency_data)
    except UnidentifiedImageError:
        levels, alpha = read_with_alpha(path)
        return Header(levels.shape[1], levels.shape[0], 16 if levels.itemsize == 2 else 8, alpha is not None)


def read_levels(path: Path) -> Levels:
    """A picture, upright RGB, without its transparency.

    Raises:
        OSError: it cannot be read, has 32 bits a channel, or more than `MOST_PX` pixels.
    """
    return read_with_alpha(path)[0]


def read_with_alpha(path: Path) -> tuple[Levels, Opacity | None]:
    """A picture, upright RGB, and how opaque it is; None where the file has no transparency.

    Raises:
        OSError: as `read_levels`.
    """
    data = path.read_bytes()
    try:
        with any_size(), Image.open(BytesIO(data)) as picture:
            if picture.width * picture.height > MOST_PX:
                raise OSError(f"expected at most {MOST_PX} pixels, got {picture.width}x{picture.height}")
            if not is_deep(data[:HEAD_BYTES], picture):
                if picture.mode in ("F", "I"):
                    raise OSError("expected 8 or 16 bits a channel, got 32")
                upright = ImageOps.exif_transpose(picture)
                alpha = np.array(upright.convert("RGBA"))[:, :, 3] if upright.has_transparency_data else None
                return np.array(upright.convert("RGB")), alpha
            orientation = picture.getexif().get(_ORIENTATION, 1)
    except UnidentifiedImageError:
        if data[:4] not in TIFF:
            raise OSError("no kind of picture that is known") from None
        orientation = 1
    array = decode_deep(data)
    if array is None:
        raise OSError("its pixels cannot be decoded, or have other than 8 or 16 bits a channel")
    return split_alpha(oriented(array, orientation))


def split_alpha(array: np.ndarray) -> tuple[Levels, Opacity | None]:
    """[H W 3] or [H W 4] pixels as colours and opacity."""
    alpha = None if array.shape[2] == 3 else np.ascontiguousarray(array[:, :, 3])
    return np.ascontiguousarray(array[:, :, :3]), alpha


def to_levels(rgb: Float[Tensor, "*n c H W"], bits: Bits = 8) -> np.ndarray:
    """Pictures in [0, 1] (other values are clamped) as [*n H W c] uint8 or, of 16 bits, uint16, on the CPU."""
    top, kind = (65535, torch.int32) if bits == 16 else (255, torch.uint8)
    levels = (rgb.detach().clamp(0, 1) * top).round().to(kind).movedim(-3, -1).contiguous().cpu().numpy()
    return levels.astype(np.uint16) if bits == 16 else levels


def to_8_bits(levels: np.ndarray) -> np.ndarray:
    """Pixels of 8 or 16 bits a channel as those of 8, rounded."""
    return levels if levels.dtype == np.uint8 else ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def from_levels(levels: np.ndarray) -> Float[Tensor, "*n c H W"]:
    """Pictures [*n H W c] of 8 or 16 bits a channel in [0, 1]."""
    rgb = torch.from_numpy(levels.astype(np.float32)).movedim(-1, -3).contiguous()
    return rgb.div_(float(np.iinfo(levels.dtype).max))


def luma(rgb: Float[Tensor, "*n 3 H W"]) -> Float[Tensor, "*n H W"]:
    """Luma (Rec. 709) of pictures in [0, 1]."""
    return (rgb * rgb.new_tensor(REC709).view(3, 1, 1)).sum(-3)


def is_deep(head: bytes, picture: Image.Image) -> bool:
    """Whether a file has 16 bits a channel, which Pillow reports for grey ones only; `head` are its first 26 bytes."""
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


@contextmanager
def any_size() -> Iterator[None]:
    """Large panoramas are no attack; `MOST_PX` is the limit here, not Pillow's."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
