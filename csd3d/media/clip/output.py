"""The output of an edit, whatever it is: a clip, a folder of PNG frames, or a small animation."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path

from csd3d.media.clip.formats import ANIMATIONS, Encoding, is_folder
from csd3d.media.clip.frames import ANIMATION_PX, write_animation, write_folder
from csd3d.media.clip.probe import ClipInfo
from csd3d.media.clip.sink import Carried, Writer, durations, even_times, write_clip


def open_output(
    path: Path, info: ClipInfo, encoding: Encoding, *, tags: Mapping[str, str], notes: list[str]
) -> AbstractContextManager[Writer]:
    """A writer for the edited frames of the clip `info`, with all that goes with them as far as `path` can hold it.

    Args:
        path: see `csd3d.media.clip.formats.require_output`.
        info: the source.
        encoding: how.
        tags: title, comment, ... of the result.
        notes: receives a line for what could not be kept.
    """
    pts, base = even_times(info)
    times = [(t - pts[0]) * base for t in pts]
    if is_folder(path):
        return write_folder(path, times, depth=encoding.depth)
    if path.suffix.lower() in ANIMATIONS:
        height, width = square_size(info.display_aspect, min(info.width_px, info.height_px, ANIMATION_PX))
        notes.append(f"{path.suffix} holds neither sound nor all pixels: {width}x{height} px")
        end = times[-1] + durations(pts, base, info.fps)[-1] * base
        return write_animation(path, times, end, height_px=height, width_px=width)
    until = None if info.whole else (pts[-1] + round(1 / (info.fps * base))) * base
    carried = Carried(info.path, info.start, until) if info.path.is_file() else None
    return write_clip(
        path, width_px=info.width_px, height_px=info.height_px, fps=info.fps, pts=pts, time_base=base,
        sample_aspect=info.sample_aspect, tags=tags if carried else {}, carried=carried, encoding=encoding,
        notes=notes,
    )  # fmt: skip


def square_size(display_aspect: Fraction, short_px: int) -> tuple[int, int]:
    """(height, width) of a clip with square pixels and even sides whose shorter one is about `short_px`."""
    if display_aspect >= 1:
        height, width = Fraction(short_px), short_px * display_aspect
    else:
        height, width = short_px / display_aspect, Fraction(short_px)
    return max(round(height / 2) * 2, 2), max(round(width / 2) * 2, 2)
