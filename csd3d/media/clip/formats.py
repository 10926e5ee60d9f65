"""What can be written: containers by their suffix, codecs with the pixel formats that keep size, depth and colours.

    h264    the default; plays everywhere            hevc    smaller, for 10 bits on most devices
    vp9     .webm                                    av1     smallest, slow
    ffv1    lossless RGB, .mkv: every bit of a frame comes back

4:2:0 needs even sides, so a clip with an odd side is stored at 4:4:4 instead of growing by a pixel.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from csd3d.media.atomic import require_new_folder

Codec = Literal["h264", "hevc", "vp9", "av1", "ffv1"]
Depth = Literal[8, 10]

CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
"""Suffixes of clips that can be written."""
CLIPS = (*CONTAINERS, ".avi", ".gif")
"""Suffixes by which a file in a folder is taken for a clip."""
ANIMATIONS = (".gif", ".webp")
"""Suffixes of small animated pictures."""
_NO_AVX512 = "MMX2,SSE2Fast,SSSE3,SSE4.2,LZCNT,AVX,FMA3,BMI2,AVX2"
"""x264's AVX-512 routines were seen to give different bytes from run to run; these agree with its plain C."""
_APPLE = (".mp4", ".m4v", ".mov", ".mkv")


@dataclass(frozen=True)
class _Kind:
    encoder: str
    containers: tuple[str, ...]
    formats: dict[tuple[int, bool], str]
    """Pixel format by depth and whether a side is odd."""
    least_px: int
    """Of a side."""
    most_px: tuple[int, int]
    """Width and height."""


_YUV = {
    (8, False): "yuv420p",
    (8, True): "yuv444p",
    (10, False): "yuv420p10le",
    (10, True): "yuv444p10le",
}
_ANY = (65_535, 65_535)
_KINDS = {
    "h264": _Kind("libx264", _APPLE, _YUV, 1, (16_384, 16_384)),
    "hevc": _Kind("libx265", _APPLE, _YUV, 16, _ANY),
    "vp9": _Kind("libvpx-vp9", (".webm", ".mkv", ".mp4"), {k: v for k, v in _YUV.items() if k[0] == 8}, 1, _ANY),
    "av1": _Kind(
        "libsvtav1", (".mp4", ".mkv", ".webm"), {(8, False): "yuv420p", (10, False): "yuv420p10le"}, 4, (16_384, 8_704)
    ),
    "ffv1": _Kind(
        "ffv1",
        (".mkv",),
        {(8, False): "bgr0", (8, True): "bgr0", (10, False): "gbrp10le", (10, True): "gbrp10le"},
        1,
        _ANY,
    ),
}


@dataclass(frozen=True)
class Encoding:
    """How frames become bytes."""

    codec: Codec | None = None
    """None: what the container usually holds, H.264 or, in .webm, VP9."""
    crf: int = 18
    """Quality, 0 (best; lossless for 8-bit H.264) to 51. FFV1 is always lossless."""
    depth: Depth = 8
    """Bits a channel."""


@dataclass(frozen=True)
class Stream:
    """Settings of an encoder."""

    encoder: str
    pixel_format: str
    options: dict[str, str]
    tag: str | None = None
    """Codec tag of four letters that players of Apple's containers expect; None: the usual one."""

    @property
    def is_rgb(self) -> bool:
        """Whether no luma and chroma are made of the colours."""
        return self.pixel_format.startswith(("bgr", "gbr"))


def is_folder(path: Path) -> bool:
    """Whether an output is a folder of PNG frames: a name without ending."""
    return path.suffix == ""


def require_output(path: Path, encoding: Encoding, *, replaces: bool = False) -> None:
    """Raises `ValueError` unless `path` is something that can be written as `encoding` says.

    A folder of frames must be new or empty, unless it `replaces` the one that is there.
    """
    suffix = path.suffix.lower()
    if path.name.lower() in (*CONTAINERS, *ANIMATIONS):
        raise ValueError(f"output: expected a name before its ending, got {path}")
    if is_folder(path) or suffix in ANIMATIONS:
        if encoding.codec is not None:
            kind = "a folder of PNG frames" if is_folder(path) else suffix
            raise ValueError(f"codec: expected none for {kind}, got {encoding.codec}")
        if suffix in ANIMATIONS and encoding.depth != 8:
            raise ValueError(f"depth: expected 8 for {suffix}, got {encoding.depth}")
        if is_folder(path) and not (replaces and path.is_dir()):
            require_new_folder(path)
        return
    if suffix not in CONTAINERS:
        known = ", ".join((*CONTAINERS, *ANIMATIONS))
        raise ValueError(f"output: expected a name ending in {known}, or without ending for PNG frames, got {path}")
    if path.is_dir():
        raise ValueError(f"output: expected a file name, got the folder {path}")
    codec = codec_of(path, encoding)
    if suffix not in _KINDS[codec].containers:
        raise ValueError(f"codec: expected {', '.join(_KINDS[codec].containers)} for {codec}, got {path}")
    if not any(depth == encoding.depth for depth, _ in _KINDS[codec].formats):
        raise ValueError(f"depth: expected 8 for {codec}, got {encoding.depth}; h264, hevc, av1 and ffv1 have 10")


def codec_of(path: Path, encoding: Encoding) -> Codec:
    """The codec of a clip at `path`."""
    return encoding.codec or ("vp9" if path.suffix.lower() == ".webm" else "h264")


def stream_of(path: Path, encoding: Encoding, *, width_px: int, height_px: int) -> Stream:
    """Settings of the encoder for a clip at `path`.

    Raises:
        ValueError: the codec cannot hold such a clip.
    """
    codec = codec_of(path, encoding)
    kind, odd = _KINDS[codec], bool(width_px % 2 or height_px % 2)
    least, (widest, highest) = kind.least_px, kind.most_px
    if min(width_px, height_px) < least or width_px > widest or height_px > highest:
        raise ValueError(
            f"codec: expected {least}x{least} to {widest}x{highest} px for {codec}, got {width_px}x{height_px}; "
            "vp9 and ffv1 take all sizes"
        )
    pixel_format = kind.formats.get((encoding.depth, odd))
    if pixel_format is None:
        raise ValueError(f"codec: expected even sides for {codec}, got {width_px}x{height_px}; h264 takes any")
    apple = codec == "hevc" and path.suffix.lower() != ".mkv"
    return Stream(kind.encoder, pixel_format, _options(codec, encoding.crf), "hvc1" if apple else None)


def _options(codec: Codec, crf: int) -> dict[str, str]:
    """One thread each: the number of threads decides how encoders cut their work, and with it the bytes."""
    if codec == "h264":
        return {"crf": str(crf), "preset": "medium", "threads": "1", "x264-params": f"asm={_NO_AVX512}"}
    if codec == "hevc":
        return {"crf": str(crf), "preset": "medium", "x265-params": "pools=none:frame-threads=1:log-level=none"}
    if codec == "vp9":
        return {"crf": str(crf), "b": "0", "threads": "1", "row-mt": "0", "deadline": "good", "cpu-used": "4"}
    if codec == "av1":
        return {"crf": str(crf), "preset": "8", "svtav1-params": "lp=1"}
    return {"level": "3", "slicecrc": "1"}


CODECS: tuple[Codec, ...] = get_args(Codec)
