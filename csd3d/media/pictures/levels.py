"""Pixels of picture files, 8 and 16 bits a channel: what Pillow would clip or cut short, OpenCV decodes."""

import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt16
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from csd3d.media.pictures.tags import orientation_of, profile_of

Levels = UInt8[np.ndarray, "H W 3"] | UInt16[np.ndarray, "H W 3"]
Opacity = UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]
Bits = Literal[8, 16]
TIFF = (b"II*\0", b"MM\0*")
"""How TIFF files begin; Pillow does not know those of 16 bits a channel in colour."""
MOST_PX = 1_000_000_000
"""Pixels beyond which a file is taken for a mistake."""
HEAD_BYTES = 26
"""Of a file, as many as `is_deep` needs."""
DAMAGED = (OSError, SyntaxError, EOFError, struct.error)
"""What Pillow raises over a file that is damaged or cut short."""
_TEXT_BYTES = 1 << 26
"""Unpacked text or colour profile of a PNG, at most: Pillow refuses a picture for more than a megabyte."""
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _PLANES, _EXTRA = 256, 257, 258, 262, 284, 338
"""Fields of a TIFF."""
DEEP = "8 or 16 bits a channel, all channels of a pixel together and not in planes"
"""What `decode_deep` takes."""
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
    icc: bytes = b""
    """Its RGB colour profile; empty if there is none."""


def read_header(path: Path) -> Header:
    """What a picture is, from its header where Pillow knows it. Raises OSError as `read_levels` does."""
    try:
        with path.open("rb") as file, opened(file) as picture:
            _require_plain(picture)
            tags = tiff_tags(picture)  # Pillow's size of a turned TIFF is the stored one in some versions only
            stored = (tags[_WIDTH], tags[_HEIGHT]) if tags else picture.size
            width, height = stored if orientation_of(picture) < 5 else stored[::-1]
            file.seek(0)
            bits = 16 if is_deep(file.read(HEAD_BYTES), picture) else 8
            return Header(width, height, bits, picture.has_transparency_data, profile_of(picture))
    except UnidentifiedImageError:
        levels, alpha = read_with_alpha(path)
        return Header(levels.shape[1], levels.shape[0], 16 if levels.itemsize == 2 else 8, alpha is not None)
    except DAMAGED as error:
        raise in_one_line(error) from None


def read_levels(path: Path) -> Levels:
    """A picture, upright RGB, without its transparency.

    Raises:
        OSError: it cannot be read, is one of several in a file, has 32 bits a channel, or more than `MOST_PX` pixels.
    """
    return read_with_alpha(path)[0]


def read_with_alpha(path: Path) -> tuple[Levels, Opacity | None]:
    """A picture, upright RGB, and how opaque it is; None where the file has no transparency.

    Raises:
        OSError: as `read_levels`.
    """
    data = path.read_bytes()
    try:
        with opened(BytesIO(data)) as picture:
            _require_plain(picture)
            tags = tiff_tags(picture)
            orientation = 1 if tags else orientation_of(picture)  # Pillow and OpenCV turn a TIFF themselves
            if not is_deep(data[:HEAD_BYTES], picture):
                has_alpha = picture.has_transparency_data
                array = np.asarray(
                    from_cmyk(picture) if picture.mode == "CMYK" else picture.convert("RGBA" if has_alpha else "RGB")
                )
                return split_alpha(oriented(array, orientation))
    except UnidentifiedImageError:
        if data[:4] not in TIFF:
            raise OSError("no kind of picture that is known") from None
        orientation, tags = 1, {}
    except DAMAGED as error:
        raise in_one_line(error) from None
    array = decode_deep(data, tags)
    if array is None:
        raise OSError(f"expected {DEEP}, got something else")
    return split_alpha(oriented(array, orientation))


def _require_plain(picture: Image.Image) -> None:
    """Raise OSError for what would be read as another picture than it is."""
    if picture.width * picture.height > MOST_PX:
        raise OSError(f"expected at most {MOST_PX} pixels, got {picture.width}x{picture.height}")
    if picture.mode in ("F", "I"):
        raise OSError("expected 8 or 16 bits a channel, got 32")
    count = getattr(picture, "n_frames", 1)
    if count > 1 and picture.format != "MPO":
        raise OSError(f"expected one picture, got {count} in one file")
    if tiff_tags(picture).get(_PLANES, 1) != 1 and is_deep(b"", picture):
        raise OSError(f"expected {DEEP}, got something else")


def in_one_line(error: Exception) -> OSError:
    """What Pillow raised, as what `read_levels` does."""
    return OSError((str(error).splitlines() or [type(error).__name__])[0])


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


def tiff_tags(picture: Image.Image) -> Mapping[int, Any]:
    """The fields of a TIFF by number; empty for other kinds."""
    return getattr(picture, "tag_v2", {}) if picture.format == "TIFF" else {}


def is_deep(head: bytes, picture: Image.Image) -> bool:
    """Whether a file has 16 bits a channel, which Pillow reports for grey ones only; `head` are its first 26 bytes.

    Not so CMYK, which only Pillow decodes, to 8.
    """
    if picture.mode.startswith("I;16"):
        return True
    if picture.format == "PNG":
        return head[24] == 16
    return picture.mode != "CMYK" and max(tiff_tags(picture).get(_BITS, (8,))) == 16


def decode_deep(
    data: bytes, tags: Mapping[int, Any]
) -> UInt8[np.ndarray, "H W c"] | UInt16[np.ndarray, "H W c"] | None:
    """Pixels of a file as they are, RGB or RGBA; None for what cannot be decoded or has other than 8 or 16 bits.

    `tags` are the fields of a TIFF, of which OpenCV turns the picture upright, and heeds little else.
    """
    if tags.get(_PLANES, 1) != 1:  # a plane for each channel
        return None
    said = cv2.setLogLevel(0)  # what it cannot decode is refused in our words, not in several lines of its own
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # more pixels in a row than it takes
        return None
    finally:
        cv2.setLogLevel(said)
    if array is None or array.dtype not in (np.uint8, np.uint16):
        return None
    top = 255 if array.dtype == np.uint8 else 65535
    if array.ndim == 2:
        grey = top - array if tags.get(_PHOTOMETRIC) == 0 else array  # white is 0
        return np.repeat(grey[:, :, None], 3, 2)
    if array.shape[2] == 3:
        return cv2.cvtColor(array, cv2.COLOR_BGR2RGB)
    rgba, extra = cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA), (*tags.get(_EXTRA, ()), 2)[0]
    if extra == 1:  # colours are multiplied by the transparency
        alpha = np.maximum(rgba[:, :, 3:].astype(np.float64), 1)
        rgba[:, :, :3] = np.minimum(np.round(rgba[:, :, :3] * (top / alpha)), top)
    return rgba[:, :, :3] if extra == 0 else rgba  # a channel that is no transparency


@contextmanager
def opened(file: Path | BytesIO | BufferedReader) -> Iterator[Image.Image]:
    """A picture of any size as Pillow opens it.

    Raises:
        UnidentifiedImageError: of no kind that it knows.
        OSError: damaged, or with text beyond measure.
    """
    with any_size():
        try:
            picture = Image.open(file)
        except ValueError as error:
            raise in_one_line(error) from None
        with picture:
            yield picture


def from_cmyk(picture: Image.Image) -> Image.Image:
    """CMYK as RGB, through the picture's own profile where it has a usable one."""
    if profile := picture.info.get("icc_profile"):
        try:
            done = ImageCms.profileToProfile(
                picture, ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if done is not None:
                return done
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile says nothing: go on as if there were none
    return picture.convert("RGB")


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
    """Large panoramas are no attack, nor is what editors tell of their work; limits are ours, not Pillow's."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    text, PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_CHUNK, _TEXT_BYTES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = before, text
