"""Clips as pictures: a folder of PNG frames with their times, and small animated GIF or WebP files to show around."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from csd3d.media.atomic import atomic_folder, atomic_path
from csd3d.media.clip.formats import Depth
from csd3d.media.clip.sink import frame_levels
from csd3d.media.clip.times import TIMES
from csd3d.media.geometry import resize

ANIMATION_PX = 320
"""Shorter side of an animation, at most: they are for showing around."""


LONGEST_SHOWN_S = 655
"""How long an animation can show a frame: a GIF counts so many hundredths of a second."""


class FrameFolder:
    """Takes frames in order and writes each to a PNG file of its own."""

    def __init__(self, folder: Path, digits: int, depth: Depth) -> None:
        self._folder, self._digits, self._depth = folder, digits, depth
        self.frames = 0

    def write(self, rgb: Float[Tensor, "n 3 H W"]) -> None:
        """Append frames, values in [0, 1] (others are clamped)."""
        for picture in frame_levels(rgb, 16 if self._depth > 8 else 8):
            path = self._folder / f"frame_{self.frames:0{self._digits}d}.png"
            made, data = cv2.imencode(".png", picture[..., ::-1])
            assert made
            path.write_bytes(data.tobytes())
            self.frames += 1


@contextmanager
def write_folder(
    folder: Path,
    times_s: Sequence[Fraction],
    *,
    depth: Depth = 8,
    replaces: bool = False,
    before: Callable[[Path], None] | None = None,
) -> Iterator[FrameFolder]:
    """Write PNG frames and their times to a folder that appears whole or, if the block raises, not at all; `replaces`
    and `before` as of `atomic_folder`.

    Raises:
        ValueError: the folder exists and holds something, unless it `replaces` that; or fewer frames were written than
            there are times.
    """
    with atomic_folder(folder, replaces=replaces, before=before) as part:
        writer = FrameFolder(part, max(len(str(len(times_s) - 1)), 4), depth)
        yield writer
        if writer.frames != len(times_s):
            raise ValueError(f"frames: expected {len(times_s)}, got {writer.frames}")
        lines = ["# timestamp format v2", *(f"{float(1000 * time):.6f}" for time in times_s)]
        (part / TIMES).write_text("\n".join(lines) + "\n")


class Animation:
    """Takes frames in order and keeps them, small."""

    def __init__(self, height_px: int, width_px: int) -> None:
        self._size, self.pictures = (height_px, width_px), list[Image.Image]()

    def write(self, rgb: Float[Tensor, "n 3 H W"]) -> None:
        """Append frames, values in [0, 1] (others are clamped)."""
        small = resize(rgb, *self._size)
        self.pictures += [Image.fromarray(picture) for picture in frame_levels(small, 8)]


@contextmanager
def write_animation(
    path: Path, times_s: Sequence[Fraction], end_s: Fraction, *, height_px: int, width_px: int
) -> Iterator[Animation]:
    """Write a .gif or .webp that plays for ever, at the given size; it appears if the block succeeds.

    `times_s` says when each frame is shown, `end_s` when the last one goes.
    A GIF counts time in hundredths of a second: every frame begins at the nearest, so the whole stays in time. The
    small frames are held in memory until the end.

    Raises:
        ValueError: fewer frames were written than there are times.
    """
    with atomic_path(path) as part:
        writer = Animation(height_px, width_px)
        yield writer
        if len(writer.pictures) != len(times_s):
            raise ValueError(f"frames: expected {len(times_s)}, got {len(writer.pictures)}")
        unit = 10 if path.suffix.lower() == ".gif" else 1
        ticks = [round(1000 * time / unit) for time in (*times_s, end_s)]
        durations = [min(max(b - a, 1) * unit, LONGEST_SHOWN_S * 1000) for a, b in pairwise(ticks)]
        first, *rest = writer.pictures
        first.save(part, save_all=True, append_images=rest, duration=durations, loop=0)
