"""How a decoded frame is shown: turned or mirrored by its display matrix, in colours as its tags say.

The levels of red, green and blue stay what they are; a wide gamut or HDR is not converted but written with the same
tags again.
"""

import struct
from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from jaxtyping import UInt8, UInt16

from csd3d.media.pictures.levels import oriented

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
"""swscale flags under which RGB to YUV 4:2:0 and back errs by under a level on smooth pictures (default: 4.6)."""
FAST = Interpolation.BILINEAR
"""swscale flags of its fast path: nearest chroma samples and rounding down, about a level of 255 too dark."""
HD_PX = (1280, 576)
"""Untagged clips at least so wide, or higher than that, have the matrix of BT.709; smaller ones that of BT.601."""

FREED_TWICE = ("png", "apng")
"""Decoders whose pictures may have a colour profile with a name: asked for side data, PyAV 18.1 frees that twice, which
ends the process."""

_UNSPECIFIED, _BT2020 = 2, 9
_WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
_HDR = {16: "PQ", 18: "HLG"}
_ORIENTATIONS = {
    (False, False, False): 1, (False, False, True): 2, (False, True, True): 3, (False, True, False): 4,
    (True, False, False): 5, (True, False, True): 6, (True, True, True): 7, (True, True, False): 8,
}  # fmt: skip


@dataclass(frozen=True)
class ColourTags:
    """What the levels of a clip mean, by the numbers of H.273."""

    primaries: int = int(ColorPrimaries.BT709)
    transfer: int = int(ColorTrc.BT709)

    @property
    def matrix(self) -> int:
        """Of luma and chroma, as it is usual with these primaries."""
        return _BT2020 if self.primaries == _BT2020 else int(Colorspace.ITU709)

    @property
    def name(self) -> str | None:
        """For people; None for what an ordinary screen shows."""
        wide, hdr = _WIDE.get(self.primaries), _HDR.get(self.transfer)
        return f"HDR ({hdr})" if hdr else wide


def tags_of(frame: VideoFrame) -> ColourTags:
    """The tags of a frame; BT.709 where it has none."""
    plain = ColourTags()
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    return ColourTags(
        plain.primaries if primaries in (0, _UNSPECIFIED) else primaries,
        plain.transfer if transfer in (0, _UNSPECIFIED) else transfer,
    )


def side_data(frame: VideoFrame, kind: str, codec: str) -> bytes | None:
    """What a frame of a codec carries besides its picture, by FFmpeg's name for it; None where there is none."""
    if codec in FREED_TWICE:
        return None
    try:
        found = frame.side_data.get(kind)
    except ValueError:  # PyAV does not know all kinds that FFmpeg does
        return None
    return None if found is None else bytes(found)


def orientation_of(frame: VideoFrame, codec: str) -> int | None:
    """How the stored picture is made upright, as EXIF counts it, 1 to 8; None for an angle between."""
    matrix = side_data(frame, "DISPLAYMATRIX", codec)
    if matrix is None:
        return {0: 1, 90: 8, 180: 3, 270: 6}.get(round(frame.rotation) % 360)
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])  # x' = a x + c y, y' = b x + d y
    if not (a or d) and b and c:
        return _ORIENTATIONS[True, b < 0, c < 0]
    if not (b or c) and a and d:
        return _ORIENTATIONS[False, d < 0, a < 0]
    return None


def upright_levels(
    frame: VideoFrame, *, width_px: int, height_px: int, orientation: int, deep: bool, exact: bool, alpha: bool
) -> UInt8[np.ndarray, "H W c"] | UInt16[np.ndarray, "H W c"]:
    """A frame as RGB, or RGBA where it has transparency and `alpha` asks for it, of 8 bits or, `deep`, 16.

    Args:
        frame: as decoded; one of another size is scaled.
        width_px, height_px: of the upright picture.
        orientation: as `orientation_of` gives it.
        deep: 16 bits a channel.
        exact: convert colours with full chroma interpolation and rounding, which is several times slower.
        alpha: keep transparency.
    """
    form = "rgb48le" if deep else "rgb24"
    if alpha and any(c.is_alpha for c in frame.format.components):
        form = "rgba64le" if deep else "rgba"
    width, height = (height_px, width_px) if orientation >= 5 else (width_px, height_px)
    untagged = int(frame.colorspace) == _UNSPECIFIED
    hd = frame.width >= HD_PX[0] or frame.height > HD_PX[1]
    rgb = frame.reformat(
        width, height, format=form, interpolation=EXACT if exact else FAST, dst_color_range=ColorRange.JPEG,
        src_colorspace=int(Colorspace.ITU709) if untagged and hd else None,
    )  # fmt: skip
    return np.ascontiguousarray(oriented(rgb.to_ndarray(), orientation))
