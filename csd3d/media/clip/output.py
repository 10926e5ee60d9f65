"""The output of an edit, whatever it is: a clip, a folder of PNG frames, or a small animation."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from csd3d.media.clip.formats import ANIMATIONS, Encoding, is_folder
from csd3d.media.clip.frames import ANIMATION_PX, LONGEST_SHOWN_S, write_animation, write_folder
from csd3d.media.clip.probe import ClipInfo
from csd3d.media.clip.sink import Carried, Writer, even_times, write_clip
from csd3d.media.clip.times import durations

LONGEST_PX = 8_192
"""Of the longer side of a player or an animation."""


def open_output(
    path: Path,
    info: ClipInfo,
    encoding: Encoding,
    *,
    tags: Mapping[str, str],
    notes: list[str],
    replaces: bool = False,
    before: Callable[[Path], None] | None = None,
) -> AbstractContextManager[Writer]:
    """A writer for the edited frames of the clip `info`, with all that goes with them as far as `path` can hold it.

    Args:
        path: see `csd3d.media.clip.formats.require_output`.
        info: the source.
        encoding: how.
        tags: title, comment, ... of the result.
        notes: receives a line for what could not be kept.
        replaces: a folder of frames may take the place of one that is there, which the same run wrote.
        before: called with a folder of frames right before it takes its name, as of `atomic_folder`.
    """
    pts, base = even_times(info)
    times = [(t - pts[0]) * base for t in pts]
    notes += _lost(path, info, encoding)
    if is_folder(path):
        return write_folder(path, times, depth=encoding.depth, replaces=replaces, before=before)
    if path.suffix.lower() in ANIMATIONS:
        height, width = square_size(info.display_aspect, min(info.width_px, info.height_px, ANIMATION_PX))
        notes.append(f"{path.suffix} holds neither sound nor all pixels: {width}x{height} px")
        end = times[-1] + durations(pts, base, info.fps)[-1] * base
        if max(b - a for a, b in pairwise((*times, end))) > LONGEST_SHOWN_S:
            notes.append(f"frames that stay for more than {LONGEST_SHOWN_S} s are shown for less")
        return write_animation(path, times, end, height_px=height, width_px=width)
    until = None if info.complete else (pts[-1] + round(1 / (info.fps * base))) * base
    carried = None if info.files or info.by_pillow else Carried(info.path, info.start, until)
    return write_clip(
        path, width_px=info.width_px, height_px=info.height_px, fps=info.fps, pts=pts, time_base=base,
        sample_aspect=info.sample_aspect, colours=info.colours, tags=tags if carried else {}, carried=carried,
        encoding=encoding, notes=notes,
    )  # fmt: skip


def _lost(path: Path, info: ClipInfo, encoding: Encoding) -> list[str]:
    """What of the pictures themselves, and in a folder of what goes with them, cannot be kept."""
    notes = []
    depth = 16 if is_folder(path) and encoding.depth > 8 else encoding.depth
    if info.depth > depth:
        notes.append(f"{info.depth} bits a channel become {depth}")
    if (is_folder(path) or path.suffix.lower() in ANIMATIONS) and info.colours.name:
        notes.append(f"pictures do not say that their colours are {info.colours.name}")
    if is_folder(path) and info.audio_streams:
        notes.append("a folder of frames holds no sound")
    if is_folder(path) and info.sample_aspect != 1:
        notes.append(f"a folder of frames does not say that its pixels are {info.sample_aspect} as wide as high")
    return notes


def square_size(display_aspect: Fraction, short_px: int) -> tuple[int, int]:
    """(height, width) of a clip with square pixels and even sides whose shorter one is about `short_px`, or less where
    the longer one would be beyond what players take."""
    short = min(Fraction(short_px), LONGEST_PX / max(display_aspect, 1 / display_aspect))
    height, width = (short, short * display_aspect) if display_aspect >= 1 else (short / display_aspect, short)
    return max(round(height / 2) * 2, 2), max(round(width / 2) * 2, 2)
