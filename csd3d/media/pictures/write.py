"""Writing a picture with its metadata: EXIF, XMP (photo sphere fields too), ICC profile, transparency, 16 bits.

Pillow writes JPEG, WebP and PNG of 8 bits a channel. It has no colour at 16, and in TIFF no EXIF beside compression, so
those are put together here: PNG from OpenCV's and the missing chunks, TIFF from Pillow's directory and deflated pixels.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from csd3d.media.atomic import atomic_path
from csd3d.media.pictures.levels import to_8_bits
from csd3d.media.pictures.tags import Tags

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}
"""Names that can be written, and what they become."""
_XMP_SIGNATURE = b"http://ns.adobe.com/xap/1.0/\x00"
_IPTC_RESOURCE, _MAKER_NOTE = 0x0404, 0x927C
_INCH_M = 0.0254
_SEGMENT_BYTES = 65_533  # the most that a JPEG segment holds
_SIDE_PX = {"JPEG": 65_500, "WEBP": 16_383}  # what the formats can express


def format_of(path: Path) -> str:
    """PNG, JPEG, TIFF or WEBP by the name. Raises ValueError for any other."""
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"output: expected a name ending in {', '.join(SUFFIXES)}, got {path}")
    return kind


def require_writable(path: Path, height_px: int, width_px: int) -> None:
    """Raises ValueError, before any work is done, for a name or a size that cannot be written."""
    most = _SIDE_PX.get(format_of(path))
    if most is not None and max(height_px, width_px) > most:
        raise ValueError(
            f"output: expected sides of at most {most} px in a {path.suffix} file, got {width_px}x{height_px}; "
            "take .png or .tif"
        )
    if path.is_dir():
        raise ValueError(f"output: expected a file name, got the folder {path}")


def write_picture(
    path: Path, pixels: np.ndarray, *, alpha: np.ndarray | None = None, tags: Tags | None = None, quality: int = 95
) -> list[str]:
    """Write [H W 3] uint8 or uint16 pixels, and [H W] transparency, atomically; the name says the format.

    Returns what could not be kept, one sentence each. `quality` is for JPEG and WebP, 1 to 100; a WebP of 100 is
    lossless.
    """
    kind, tags, lost = format_of(path), tags or Tags(), []
    if alpha is not None and kind == "JPEG":
        lost.append("JPEG has no transparency: it is dropped (PNG, TIFF and WebP keep it)")
        alpha = None
    if pixels.dtype == np.uint16 and kind in ("JPEG", "WEBP"):
        lost.append(f"{kind} has 8 bits a channel: 16 become 8 (PNG and TIFF keep them)")
        pixels, alpha = to_8_bits(pixels), None if alpha is None else to_8_bits(alpha)
    if kind == "JPEG" and len(tags.xmp) + len(_XMP_SIGNATURE) + 2 > _SEGMENT_BYTES:
        lost.append("the XMP packet is too large for a JPEG and is dropped")
        tags = replace(tags, xmp=b"")
    if kind == "JPEG":
        tags = replace(tags, exif=_short_exif(tags.exif, lost))
    lost += _not_held(kind, tags)
    array = pixels if alpha is None else np.dstack([pixels, alpha])
    with atomic_path(path) as part:
        if kind == "TIFF":
            _write_tiff(part, array, tags)
        elif array.dtype == np.uint8:
            Image.fromarray(array).save(part, kind, **_options(kind, tags, quality))
        else:
            part.write_bytes(_deep_png(array, tags))
    return lost


def _short_exif(exif: bytes, lost: list[str]) -> bytes:
    """EXIF that fits into a JPEG; `lost` receives a line for what does not."""
    if len(exif) <= _SEGMENT_BYTES:
        return exif
    rest = Image.Exif()
    rest.load(exif)
    rest.get_ifd(0x8769).pop(_MAKER_NOTE, None)
    exif = rest.tobytes()
    fits = len(exif) <= _SEGMENT_BYTES
    what = "the camera's own notes in EXIF are" if fits else "EXIF is"
    lost.append(f"{what} too large for a JPEG and dropped")
    return exif if fits else b""


def _not_held(kind: str, tags: Tags) -> list[str]:
    """What a format has no place for."""
    held = {
        "IPTC": (tags.iptc, ("JPEG", "TIFF")),
        "the comment": (tags.comment, ("JPEG", "PNG")),
        f"text ({', '.join(key for key, _ in tags.text)})": (tags.text, ("PNG",)),
        "the resolution (dpi)": (tags.dpi and not tags.exif, ("JPEG", "PNG", "TIFF")),
    }
    return [f"{kind} does not hold {what}" for what, (value, kinds) in held.items() if value and kind not in kinds]


def _options(kind: str, tags: Tags, quality: int) -> dict[str, Any]:
    """Arguments of Pillow's `save`."""
    options: dict[str, Any] = {}
    if tags.icc:
        options["icc_profile"] = tags.icc
    if tags.exif:
        options["exif"] = tags.exif
    if kind == "JPEG":
        options |= {"quality": quality, "subsampling": 0, "comment": tags.comment}
        if tags.dpi:
            options["dpi"] = tuple(map(round, tags.dpi))
        if tags.xmp:
            options["extra"] = _segment(0xE1, _XMP_SIGNATURE + tags.xmp)
        if tags.iptc:
            options["extra"] = options.get("extra", b"") + _segment(0xED, _photoshop(tags.iptc))
    elif kind == "WEBP":
        options |= {"quality": quality, "lossless": quality == 100, "exact": True, "method": 4}
        if tags.xmp:
            options["xmp"] = tags.xmp
    else:
        options["pnginfo"] = PngInfo()
        if tags.dpi:
            options["dpi"] = tags.dpi
        for key, text in _texts(tags):
            options["pnginfo"].add_itxt(key, text)
    return options


def _texts(tags: Tags) -> list[tuple[str, str]]:
    """All that a PNG holds as text: the XMP packet, a JPEG's comment, and its own, by keyword."""
    packet = [("XML:com.adobe.xmp", tags.xmp.decode("utf-8", "replace"))] if tags.xmp else []
    comment = [("Comment", tags.comment.decode("utf-8", "replace"))] if tags.comment else []
    return [*packet, *comment, *tags.text]


def _segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def _photoshop(iptc: bytes) -> bytes:
    """An IPTC record as Photoshop's resource in a JPEG."""
    padding = b"\0" * (len(iptc) % 2)
    return b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + iptc + padding


def _deep_png(array: np.ndarray, tags: Tags) -> bytes:
    order = cv2.COLOR_RGBA2BGRA if array.shape[2] == 4 else cv2.COLOR_RGB2BGR
    done, coded = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(array), order))
    if not done:
        raise ValueError(f"output: expected a picture that fits into PNG, got {array.shape}")
    data = coded.tobytes()
    header = 8 + 25  # signature, then IHDR: length, name, 13 bytes, checksum
    chunks = []
    if tags.icc:
        chunks.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(tags.icc)))
    if tags.exif:
        chunks.append(_chunk(b"eXIf", tags.exif.removeprefix(b"Exif\0\0")))
    if tags.dpi:
        chunks.append(_chunk(b"pHYs", struct.pack(">IIB", *(round(side / _INCH_M) for side in tags.dpi), 1)))
    for key, text in _texts(tags):
        chunks.append(_chunk(b"iTXt", key.encode("latin-1", "replace") + b"\0\0\0\0\0" + text.encode("utf-8")))
    return data[:header] + b"".join(chunks) + data[header:]


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _write_tiff(part: Path, array: np.ndarray, tags: Tags) -> None:
    """One deflated strip behind one directory."""
    height, width, channels = array.shape
    bits = 8 * array.itemsize
    packed = zlib.compress(np.ascontiguousarray(array, dtype=f"<u{array.itemsize}").tobytes(), 6)
    fields: Sequence[tuple[int, int, Any]] = (
        (256, 4, width), (257, 4, height), (258, 3, (bits,) * channels), (259, 3, 8), (262, 3, 2), (277, 3, channels),
        (278, 4, height), (279, 4, len(packed)), (284, 3, 1), (339, 3, (1,) * channels),
    )  # fmt: skip
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    if tags.exif:
        exif = Image.Exif()
        exif.load(tags.exif)
        for tag, value in exif.items():
            if tag not in (0x8769, 0x8825):
                directory[tag] = value
        for tag in (0x8769, 0x8825):
            if inner := exif.get_ifd(tag):
                directory[tag] = dict(inner)
    for tag, kind, value in fields:
        directory.tagtype[tag] = kind
        directory[tag] = value
    if channels == 4:
        directory.tagtype[338] = 3
        directory[338] = 2
    for tag, kind, value in ((700, 1, tags.xmp), (34675, 7, tags.icc), (33723, 7, tags.iptc)):
        if value:
            directory.tagtype[tag] = kind
            directory[tag] = value
    if tags.dpi:
        for tag, side in zip((282, 283), tags.dpi, strict=True):
            directory.tagtype[tag] = 5
            directory[tag] = TiffImagePlugin.IFDRational(round(side * 1000), 1000)
        directory.tagtype[296] = 3
        directory[296] = 2  # inches
    directory.tagtype[273] = 4
    directory[273] = 0  # counted from the end of the directory, see Pillow's tobytes
    with part.open("wb") as stream:
        directory.save(stream)
        stream.write(packed)
