"""What a clip is: size, rate, timestamps and what can really be decoded, found by decoding it once with PyAV.

Headers lie (a truncated file names frames it no longer holds), so frames are counted by decoding them. That costs a
small part of what editing them costs.
"""

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from csd3d.media.clip.animation import icc_of, is_animated_webp, is_animation, read_animation
from csd3d.media.clip.container import (
    Damage,
    decoded_frames,
    is_dolby_vision,
    open_container,
    open_video,
    video_streams,
)
from csd3d.media.clip.shown import ColourTags, orientation_of, side_data, tags_of
from csd3d.media.clip.times import FOLDER_FPS, TIMES, at_rate, read_times, sayable, timing_of
from csd3d.media.pictures.levels import read_header
from csd3d.media.pictures.profile import profile_from
from csd3d.media.place import require_utf8

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes taken from a folder of frames."""
ANIMATED = ("gif", "apng", "webp")
DOLBY_CODECS = ("hevc", "h264", "av1", "libdav1d")
DOLBY_VISION = (
    "the clip is Dolby Vision: its picture is edited without what it says of brightness and colour, which is left out"
)
NO_ALPHA = "transparency is left out"

_NOT_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration")
_SLACK_S = Fraction(1, 4)


@dataclass(frozen=True)
class ClipInfo:
    """Facts of a clip, upright: rotation metadata is already applied to sizes and aspect."""

    path: Path
    width_px: int
    height_px: int
    sample_aspect: Fraction
    """Width over height of one pixel as it is shown; 1 for square pixels."""
    fps: Fraction
    """Exact frame rate; the mean rate where it varies."""
    constant_rate: bool
    """Whether the timestamps follow `fps` to within a tick of the container's clock."""
    pts: tuple[int, ...]
    """Presentation time of every decodable frame, in `time_base`, counted from the start of the container."""
    time_base: Fraction
    """Seconds a tick."""
    orientation: int = 1
    """How the stored picture is turned and mirrored to be upright, as EXIF counts it: 1 (as it is) to 8."""
    stream: int = 0
    """Index of the video stream in the container."""
    video_streams: int = 1
    audio_streams: int = 0
    codec: str = "pictures"
    pixel_format: str = "rgb24"
    depth: int = 8
    """Bits a channel."""
    colours: ColourTags = field(default_factory=ColourTags)
    """What its levels mean."""
    start: Fraction = Fraction(0)
    """Seconds at which the container begins; already taken off `pts`."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Title, artist, comment, ... of the container."""
    complete: bool = True
    """Whether these are all decodable frames; False where only the first were asked for."""
    damaged: bool = False
    """Whether something in the file could not be decoded."""
    notes: tuple[str, ...] = ()
    """Warnings about how the clip was read."""
    files: tuple[Path, ...] = field(default=(), repr=False)
    """The pictures, for a folder of frames or one picture."""
    times: Path | None = None
    """The file of timestamps in that folder, if there is one."""
    by_pillow: bool = False
    """Whether it is an animation that FFmpeg does not decode."""

    @property
    def frames(self) -> int:
        """Number of decodable frames."""
        return len(self.pts)

    @property
    def content(self) -> tuple[Path, ...]:
        """The files whose bytes are the clip, of a folder of frames; none of a single file."""
        if self.files == (self.path,):
            return ()
        return self.files if self.times is None else (*self.files, self.times)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All that is read: the file, or the folder or pattern and its files."""
        return (self.path, *self.content)

    @property
    def display_aspect(self) -> Fraction:
        """Width over height of the picture as it is shown."""
        return Fraction(self.width_px, self.height_px) * self.sample_aspect

    def time_s(self, frame: int) -> float:
        """When `frame` is shown, in seconds."""
        return float(self.pts[frame] * self.time_base)


@contextmanager
def read_as(what: str) -> Iterator[None]:
    """Within the block, what is wrong with a clip is said of `what` it is read as."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if not str(error).startswith("clip:"):
            raise
        raise type(error)(what + str(error).removeprefix("clip")) from error


def probe(path: Path, *, max_frames: int | None = None, stream: int | None = None) -> ClipInfo:
    """Facts of a video file, a folder of frames, or a pattern such as frames/*.png.

    Args:
        path: the clip.
        max_frames: consider at most the first frames.
        stream: which of several video streams, counted from 0; None takes the one with the most pixels.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is not a readable video, has no such video stream, or not one frame can be decoded.
    """
    require_utf8(path.absolute(), "clip")
    if is_pattern(path):
        return _probe_pictures(path, [p for p in path.parent.glob(path.name) if _may_be_file(p)], max_frames)
    if not path.exists():
        raise FileNotFoundError(f"clip: expected a video file or a folder of frames, got {path}, which does not exist")
    if path.is_dir():
        return _probe_pictures(
            path, [p for p in path.iterdir() if p.suffix.lower() in PICTURES and _may_be_file(p)], max_frames
        )
    if not path.is_file():
        raise ValueError(f"clip: expected a video file or a folder of frames, got the device or pipe {path}")
    if is_animated_webp(path):
        return _probe_animation(path, max_frames)
    if path.suffix.lower() in PICTURES and not is_animation(path):
        try:
            read_header(path)
            return _probe_pictures(path, [path], max_frames)
        except OSError as error:  # it may be a video of that name
            if path.suffix.lower() in (".tif", ".tiff", ".webp"):
                raise ValueError(f"clip: expected a video, frames or one picture, got {path} ({error})") from None
    with open_video(path, number=stream) as (container, video):
        info = _probe_stream(path, container, video, max_frames)
    if info.damaged:
        with open_video(path, index=info.stream, careful=True) as (container, video):
            info = _probe_stream(path, container, video, max_frames)
    return info


def is_pattern(path: Path) -> bool:
    """Whether a path stands for several files, such as frames/*.png; a file may be called so too."""
    return any(sign in path.name for sign in "*?[") and not path.exists()


def is_there(path: Path) -> bool:
    """Whether there is something at a path, or some file of a pattern."""
    return path.exists() or (is_pattern(path) and any(path.parent.glob(path.name)))


def require_no_frame(output: Path, source: Path) -> None:
    """Raise ValueError where a picture or animation at `output` would be a frame of the folder or pattern `source`."""
    target, place = output.resolve(), source.resolve()
    if place.is_dir():
        taken = target.parent == place and target.suffix.lower() in PICTURES
    else:
        taken = is_pattern(place) and target.parent == place.parent and bool(target.suffix) and target.match(place.name)
    if taken:
        raise ValueError(f"output: expected another place than among the frames of {source}, got {output}")


def _may_be_file(path: Path) -> bool:
    """Whether a path is a file, or a link that leads nowhere, which is no frame to pass over."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _probe_stream(path: Path, container: InputContainer, stream: VideoStream, max_frames: int | None) -> ClipInfo:
    damage, raw, first, notes, interlaced, last = Damage(), list[int | None](), None, list[str](), False, None
    for frame in decoded_frames(container, stream, damage):
        first = first or frame
        if (frame.width, frame.height) != (first.width, first.height) and not any("size" in n for n in notes):
            notes.append(f"the picture size changes at frame {len(raw)}; all frames are scaled to the first one's")
        interlaced |= bool(frame.interlaced_frame)
        raw.append(frame.pts)
        last = frame.duration
        if len(raw) == max_frames:
            break
    if first is None:
        raise ValueError(f"clip: expected at least one decodable frame, got none in {path}")
    start = _start(container, stream)
    rates = [r for r in (stream.average_rate, stream.guessed_rate, stream.base_rate) if r]
    if len(raw) == max_frames:
        damage = Damage()
    elif stream.frames - damage.hidden > _held(container, raw) or _ends_early(path):
        damage.truncated = True
    is_animated = stream.codec_context.name in ANIMATED
    last = None if damage else last  # frames that are missing would count to the mean rate
    timing = timing_of(raw, stream.time_base, rates, start, notes, last=last, uneven_end=is_animated)
    videos = video_streams(container)
    if len(videos) > 1:
        sizes = ", ".join(f"{k}: {s.width}x{s.height}" for k, s in enumerate(videos))
        notes.append(f"the file has {len(videos)} video streams ({sizes}); {videos.index(stream)} is taken")
    if damage:
        promised = f" of {stream.frames} promised" if stream.frames > len(raw) else ""
        notes.append(f"the file is damaged: {len(raw)} frames{promised} can be decoded, the rest is left out")
    codec = stream.codec_context.name
    orientation = orientation_of(first, codec)
    if orientation is None:
        notes.append("the angle at which it is to be shown is not applied")
    notes += _looks(stream, first, interlaced=interlaced)
    if codec == "apng":
        notes += _profile_notes({icc_of(path)} - {b""})
    if codec in DOLBY_CODECS and (is_dolby_vision(path) or side_data(first, "DOVI_METADATA", codec)):
        notes.append(DOLBY_VISION)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width, height = first.width, first.height
    if orientation is not None and orientation >= 5:
        width, height, aspect = height, width, 1 / aspect
    return ClipInfo(
        path, width, height, aspect, timing.fps, timing.constant, timing.pts, timing.base,
        orientation=orientation or 1, stream=stream.index, video_streams=len(videos),
        audio_streams=len(container.streams.audio), codec=stream.codec_context.name, pixel_format=first.format.name,
        depth=max((c.bits for c in first.format.components), default=8), colours=tags_of(first), start=start,
        tags=_tags(container.metadata), complete=len(raw) != max_frames, damaged=bool(damage), notes=tuple(notes),
    )  # fmt: skip


def _held(container: InputContainer, raw: Sequence[int | None]) -> int:
    """How many frames there are as the container counts them: an AVI counts those too that only repeat the last."""
    if "avi" in container.format.name and raw[0] is not None and raw[-1] is not None:
        return max(len(raw), raw[-1] - raw[0] + 1)
    return len(raw)


def _looks(stream: VideoStream, first: VideoFrame, *, interlaced: bool) -> list[str]:
    """What an edit does not see, or a written clip does not hold, of how a stream is shown."""
    notes = []
    if name := tags_of(first).name:
        notes.append(f"{name} is read as if it were {'SDR' if 'HDR' in name else 'sRGB'}")
    coded = {key.lower(): text for key, text in stream.metadata.items()}.get("alpha_mode")  # beside the pictures
    has_alpha = any(c.is_alpha for c in first.format.components) or coded == "1"
    codec = stream.codec_context.name
    if has_alpha and codec != "gif":
        notes.append(NO_ALPHA)  # GIF is decoded with transparency, whether it has any or not
    if interlaced:
        notes.append("the clip is interlaced: both fields of a frame are edited as one picture, combing stays")
    if side_data(first, "SPHERICAL", codec):
        notes.append("the clip is spherical (360 degrees): it is edited flat, and players are no longer told")
    if side_data(first, "STEREO3D", codec):
        notes.append("the clip is stereoscopic: it is edited as one picture, and players are no longer told")
    return notes


def _tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """Tags of a container; names in lower case, but for Apple's, which are as they are."""
    named = ((key if key.lower().startswith("com.") else key.lower(), text) for key, text in metadata.items())
    return {key: text for key, text in named if key not in _NOT_TAGS}


def _ends_early(path: Path) -> bool:
    """Whether a Matroska file, which counts no frames, holds less than the duration that its header states."""
    with open_container(path) as container:
        if "matroska" not in container.format.name or container.duration is None:
            return False
        try:
            ends = [(p.pts + (p.duration or 0)) * p.time_base for p in container.demux() if p.pts is not None]
        except FFmpegError:
            return True
        stated = Fraction(container.duration + (container.start_time or 0), av.time_base)
        return max(ends, default=Fraction(0)) < stated - _SLACK_S


def _start(container: InputContainer, stream: VideoStream) -> Fraction:
    """Seconds at which picture and sound begin: what is taken off all timestamps, never negative."""
    kept = [stream, *container.streams.audio]
    starts = [s.start_time * s.time_base for s in kept if s.start_time is not None and s.time_base is not None]
    return max(min(starts, default=Fraction(0)), Fraction(0))


def _probe_animation(path: Path, max_frames: int | None) -> ClipInfo:
    found = read_animation(path, max_frames)
    *shown, last = found.durations_ms
    notes = [NO_ALPHA] if found.has_alpha else []
    notes += _profile_notes({found.icc} - {b""})
    raw = list[int | None](accumulate(shown, initial=0))
    usual = statistics.mode(found.durations_ms)
    rates = [Fraction(1000, usual)] if usual else []
    timing = timing_of(raw, Fraction(1, 1000), rates, Fraction(0), notes, last=last, uneven_end=True)
    return ClipInfo(
        path, found.width_px, found.height_px, Fraction(1), timing.fps, timing.constant, timing.pts, timing.base,
        codec="webp", complete=max_frames is None or len(raw) < max_frames, notes=tuple(notes), by_pillow=True,
    )  # fmt: skip


def _probe_pictures(path: Path, found: Sequence[Path], max_frames: int | None) -> ClipInfo:
    files = sorted((p for p in found if not p.name.startswith(".")), key=natural)
    if not files:
        where = f"the folder {path}" if path.is_dir() else f"{path}"
        raise ValueError(f"clip: expected pictures ({', '.join(PICTURES)}) in {where}, got none")
    files = files[:max_frames]
    for file in files:
        require_utf8(file, "clip")
    sizes, notes, deep, profiles = {}, list[str](), False, set[bytes]()
    for file in files:
        try:
            header = read_header(file)
        except OSError as error:
            raise ValueError(f"clip: expected a picture, got {file}, which cannot be read as one ({error})") from error
        sizes.setdefault((header.width_px, header.height_px), file)
        deep |= header.bits == 16
        notes += [NO_ALPHA] if header.has_alpha and not notes else []
        profiles |= {header.icc} - {b""}
    if len(sizes) > 1:
        (a, first), (b, second) = list(sizes.items())[:2]
        raise ValueError(
            f"clip: expected frames of one size, got {a[0]}x{a[1]} in {first.name} and {b[0]}x{b[1]} in {second.name}"
        )
    notes += _profile_notes(profiles)
    ((width, height), _), *_ = sizes.items()
    times = path / TIMES if path.is_dir() and (path / TIMES).is_file() else None
    timing = at_rate(len(files), FOLDER_FPS) if times is None else read_times(times, len(files))
    notes += [] if times else _gaps(files)
    return ClipInfo(
        path, width, height, Fraction(1), timing.fps, timing.constant, timing.pts, timing.base,
        depth=16 if deep else 8, notes=tuple(notes), files=tuple(files), times=times,
    )  # fmt: skip


def _gaps(files: Sequence[Path]) -> list[str]:
    """A line where frames that are numbered do not follow each other in even steps."""
    found = [re.fullmatch(r"(.*?)(\d+)(\D*)", file.stem) for file in files]
    numbers = [int(match[2]) for match in found if match and match[2].isdecimal()]
    if len(numbers) < len(files) or len({(match[1], match[3]) for match in found if match}) > 1:
        return []
    steps = [b - a for a, b in pairwise(numbers)]
    usual = min((step for step in steps if step), default=0)
    at = next((k for k, step in enumerate(steps) if step != usual), None)
    if at is None:
        return []
    what = "have one number" if not steps[at] else "lack some between them"
    return [f"frames are taken as even in time, though {files[at].name} and {files[at + 1].name} {what}"]


def _profile_notes(profiles: set[bytes]) -> list[str]:
    """What becomes of colour profiles."""
    known = [profile_from(data) for data in profiles]
    notes = ["the colours of frames are converted to sRGB"] if any(p and not p.is_srgb for p in known) else []
    return [*notes, "a colour profile that is no simple one is left out"] if None in known else notes


def with_fps(info: ClipInfo, fps: Fraction) -> ClipInfo:
    """The same frames played at another constant rate (for folders, which know none)."""
    fps = sayable(fps)
    timing = at_rate(info.frames, fps)
    return replace(info, fps=fps, constant_rate=True, pts=timing.pts, time_base=timing.base)


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which frame2 comes before frame10; names that differ in case or zeros alone have an order too."""
    parts = re.split(r"(\d+)", path.name)
    return [*((1, int(p), "") if p.isdecimal() else (0, 0, p.lower()) for p in parts), (0, 0, path.name)]
