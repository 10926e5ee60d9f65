"""A picture or a clip through a trained network, from file to file."""

from functools import partial
from pathlib import Path

from csd3d.media.clip.animation import is_animation
from csd3d.media.clip.formats import Encoding
from csd3d.media.clip.output import open_output
from csd3d.media.clip.probe import require_no_frame
from csd3d.media.clip.source import chunk_frames, open_clip
from csd3d.media.overlap import behind
from csd3d.media.pictures.find import SUFFIXES
from csd3d.media.pictures.levels import from_levels, to_levels
from csd3d.media.pictures.read import open_picture
from csd3d.media.pictures.write import require_writable, write_picture
from csd3d.runs.estimate import LEAST, measure_frames
from csd3d.runs.progress import RunProgress
from csd3d.translate.apply import Trained

_CHUNK = 16


def translate_file(
    trained: Trained, source: Path, task: str, output: Path, *, progress: RunProgress | None = None
) -> list[str]:
    """Translate a picture, a video file or a folder of frames. Returns what could not be kept, one line each.

    Raises:
        ValueError, FileNotFoundError: `source` cannot be read, or `output` not be written.
    """
    if source.is_file() and source.suffix.lower() in SUFFIXES and not is_animation(source):
        return _translate_picture(trained, source, task, output)
    return _translate_clip(trained, source, task, output, progress or RunProgress())


def _translate_picture(trained: Trained, source: Path, task: str, output: Path) -> list[str]:
    """Depth, transparency and tags stay."""
    picture = open_picture(source)
    require_writable(output, picture.height_px, picture.width_px)
    rgb = from_levels(picture.pixels)[None]
    levels = to_levels(trained(rgb, task)[0], 16 if picture.levels > 255 else 8)
    return [*picture.notes, *write_picture(output, levels, alpha=picture.alpha, tags=picture.tags)]


def _translate_clip(trained: Trained, source: Path, task: str, output: Path, progress: RunProgress) -> list[str]:
    """Timing and sound stay."""
    notes: list[str] = []
    with open_clip(source) as clip, progress:
        if clip.info.frames >= LEAST:
            estimate = measure_frames(clip.info.frames, lambda: trained(clip.read(0, 1), task))
            estimate.announce(progress.say, shorter="")
        require_no_frame(output, source)
        size = chunk_frames(clip, _CHUNK)
        chunks = progress.track("translate", clip.chunks(size, exact=True), total=clip.info.frames, unit=size)
        opened = open_output(output, clip.info, Encoding(), tags=clip.info.tags, notes=notes)
        with opened as writer, behind() as written:
            for _, rgb in chunks:
                written(partial(writer.write, trained(rgb, task)))
        return [*clip.notes, *notes]
