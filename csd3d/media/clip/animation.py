"""Animated WebP, which FFmpeg does not decode: frames and times by Pillow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from csd3d.media.pictures.levels import DAMAGED, any_size, opened
from csd3d.media.pictures.profile import profile_from
from csd3d.media.pictures.tags import profile_of

_HEAD_BYTES = 12


@dataclass(frozen=True)
class Animation:
    """Facts of an animation."""

    width_px: int
    height_px: int
    durations_ms: tuple[int, ...]
    """For how long each frame is shown; 0 where the file does not say."""
    has_alpha: bool
    icc: bytes
    """Its RGB colour profile; empty if there is none."""


def is_animated_webp(path: Path) -> bool:
    """Whether a file, whatever its name, is a WebP of several frames."""
    return _head(path)[8:] == b"WEBP" and is_animation(path)


def is_animation(path: Path) -> bool:
    """Whether a file, whatever its name, is a PNG or WebP of several frames: a clip, and no picture."""
    head = _head(path)
    if not (head.startswith(b"\x89PNG") or (head.startswith(b"RIFF") and head.endswith(b"WEBP"))):
        return False
    try:
        with opened(path) as picture:
            return getattr(picture, "n_frames", 1) > 1
    except DAMAGED:
        return False


def _head(path: Path) -> bytes:
    """How a file begins; empty for what is none, or cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""


def read_animation(path: Path, max_frames: int | None) -> Animation:
    """Facts of an animation, or of its first frames. Raises `ValueError` if it is damaged."""
    durations = list[int]()
    try:
        with opened(path) as picture:
            count = getattr(picture, "n_frames", 1)
            for i in range(count if max_frames is None else min(count, max_frames)):
                picture.seek(i)
                picture.load()
                durations.append(int(picture.info.get("duration", 0)))
            width, height = picture.size
            return Animation(width, height, tuple(durations), picture.has_transparency_data, profile_of(picture))
    except DAMAGED as error:
        raise damaged(path, error) from None


def icc_of(path: Path) -> bytes:
    """The RGB colour profile of an animation; empty if there is none."""
    try:
        with opened(path) as picture:
            return profile_of(picture)
    except DAMAGED:
        return b""


class AnimationReader:
    """Frames through Pillow; going back starts over from the first frame."""

    def __init__(self, path: Path, *, alpha: bool = False) -> None:
        """Open the file; with `alpha`, what has transparency is RGBA, and colours stay those of its profile."""
        with any_size():
            self._path, self._picture = path, Image.open(path)
        self._mode = "RGBA" if alpha and self._picture.has_transparency_data else "RGB"
        self._profile = None if alpha else profile_from(profile_of(self._picture))

    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "n H W c"]:
        """Frames start to stop - 1, upright. Raises `ValueError` if one cannot be decoded."""
        frames = []
        try:
            for i in range(start, stop):
                self._picture.seek(i)
                frames.append(np.asarray(self._picture.convert(self._mode)))
        except DAMAGED as error:
            raise damaged(self._path, error) from None
        return np.stack([f if self._profile is None else self._profile.to_srgb(f) for f in frames])

    def close(self) -> None:
        """Close the file."""
        self._picture.close()


def damaged(path: Path, error: Exception) -> ValueError:
    """What is said of an animation that cannot be decoded."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"clip: expected a whole animation, got {path} ({reason})")
