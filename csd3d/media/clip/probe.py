"""What a clip is: size, rate, timestamps and what can really be decoded, found by decoding it once with PyAV.

Headers lie (a truncated file names frames it no longer holds), so frames are counted by decoding them. That costs a
small part of what editing them costs.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import EOFError as EndOfStream
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from csd3d.media.pictures.levels import read_header

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes taken from a folder of frames."""
FOLDER_FPS = Fraction(25)
"""Default frame rate of a folder of frames."""

TIMES = "timestamps.txt"
"""In a folder of frames: milliseconds at which they are shown, one a line, as mkvmerge reads them."""
NO_ALPHA = "transparency is left out"

_NOT_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder", "creation_time", "duration")
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
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
    rotation: int = 0
    """Degrees counter-clockwise by which the stored picture is turned to be upright: 0, 90, 180, 270."""
    stream: int = 0
    """Index of the video stream in the container."""
    video_streams: int = 1
    audio_streams: int = 0
    codec: str = "pictures"
    pixel_format: str = "rgb24"
    depth: int = 8
    """Bits a channel."""
    start: Fraction = Fraction(0)
    """Seconds at which the container begins; already taken off `pts`."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Title, artist, comment, ... of the container."""
    whole: bool = True
    """Whether these are all decodable frames; False where only the first were asked for."""
    damaged: bool = False
    """Whether something in the file could not be decoded."""
    notes: tuple[str, ...] = ()
    """Warnings about how the clip was read."""
    files: tuple[Path, ...] = field(default=(), repr=False)
    """The pictures, for a folder of frames."""
    times: Path | None = None
    """The file of timestamps in that folder, if there is one."""

    @property
    def frames(self) -> int:
        """Number of decodable frames."""
        return len(self.pts)

    @property
    def content(self) -> tuple[Path, ...]:
        """The files whose bytes are the clip, of a folder of frames; none of a single file."""
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
    if any(sign in path.name for sign in "*?[") and not path.exists():
        return _probe_pictures(path, [p for p in path.parent.glob(path.name) if p.is_file()], max_frames)
    if not path.exists():
        raise FileNotFoundError(f"clip: expected a video file or a folder of frames, got {path}, which does not exist")
    if path.is_dir():
        return _probe_pictures(path, [p for p in path.iterdir() if p.suffix.lower() in PICTURES], max_frames)
    with open_video(path, number=stream) as (container, video):
        info = _probe_stream(path, container, video, max_frames)
    if info.damaged:
        with open_video(path, index=info.stream, careful=True) as (container, video):
            info = _probe_stream(path, container, video, max_frames)
    return info


@contextmanager
def open_video(
    path: Path, *, index: int | None = None, number: int | None = None, careful: bool = False
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video stream of a file with PyAV; a cover picture is not a video stream.

    Args:
        path: the file.
        index: which stream of the container; None goes by `number`.
        number: which of its video streams, from 0; None takes the one with the most pixels.
        careful: keep every frame of a damaged file, which is slower.

    Raises:
        ValueError: the file is empty, no video, audio only, or has no such stream.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"clip: expected a video, got the empty file {path}")
    try:
        container = av.open(str(path.resolve()))  # in full, so that a colon is no protocol's
    except (FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"clip: expected a readable video, got {path} ({reason})") from error
    with container:
        videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not videos:
            kinds = sorted({s.type for s in container.streams}) or ["nothing"]
            raise ValueError(f"clip: expected a video stream, got only {', '.join(kinds)} in {path}")
        if number is not None and not 0 <= number < len(videos):
            raise ValueError(f"stream: expected 0 to {len(videos) - 1}, got {number} for {path}")
        if number is not None:
            stream = videos[number]
        elif index is not None:
            stream = next(s for s in videos if s.index == index)
        else:
            stream = max(videos, key=lambda s: s.width * s.height)
        # threads over frames lose whole frames around an error; threads over slices do not
        stream.thread_type = "SLICE" if careful else "AUTO"
        yield container, stream


class Damage:
    """What `decoded_frames` left out: broken packets, a missing end, and what an edit list hides (no damage)."""

    packets = 0
    truncated = False
    hidden = 0

    def __bool__(self) -> bool:
        return self.packets > 0 or self.truncated


def decoded_frames(container: InputContainer, stream: VideoStream, damage: Damage) -> Iterator[VideoFrame]:
    """All frames that can be decoded, in presentation order; broken packets are skipped and counted in `damage`."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except FFmpegError:  # the container ends in the middle of something: drain what the decoder still holds
            damage.truncated = True
            packet = None
        if packet is not None:
            damage.truncated |= packet.is_corrupt
            damage.hidden += packet.is_discard
        try:
            yield from stream.decode(packet)
        except EndOfStream:
            return
        except FFmpegError:
            damage.packets += 1
        if packet is None:
            return


def _probe_stream(path: Path, container: InputContainer, stream: VideoStream, max_frames: int | None) -> ClipInfo:
    damage, raw, first, notes = Damage(), [], None, []
    for frame in decoded_frames(container, stream, damage):
        first = first or frame
        if (frame.width, frame.height) != (first.width, first.height) and not any("size" in n for n in notes):
            notes.append(f"the picture size changes at frame {len(raw)}; all frames are scaled to the first one's")
        raw.append(frame.pts)
        if len(raw) == max_frames:
            break
    if first is None:
        raise ValueError(f"clip: expected at least one decodable frame, got none in {path}")
    start = _start(container, stream)
    pts, base, fps, constant = _timing(raw, stream, start, notes)
    if len(raw) == max_frames:
        damage = Damage()
    elif stream.frames - damage.hidden > len(raw) or _ends_early(path):
        damage.truncated = True
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if len(videos) > 1:
        sizes = ", ".join(f"{k}: {s.width}x{s.height}" for k, s in enumerate(videos))
        notes.append(f"the file has {len(videos)} video streams ({sizes}); {videos.index(stream)} is taken")
    if damage:
        promised = f" of {stream.frames} promised" if stream.frames > len(raw) else ""
        notes.append(f"the file is damaged: {len(raw)} frames{promised} can be decoded, the rest is left out")
    if int(first.color_trc) in _HDR_TRANSFERS:
        notes.append(f"HDR ({_HDR_TRANSFERS[int(first.color_trc)]}) is read as if it were SDR")
    if stream.codec_context.name != "gif" and any(c.is_alpha for c in first.format.components):
        notes.append(NO_ALPHA)  # GIF is decoded with transparency, whether it has any or not
    turn = first.rotation % 360
    if turn % 90:
        notes.append(f"a rotation of {turn} degrees is not applied")
        turn = 0
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width, height, aspect = (
        (first.height, first.width, 1 / aspect) if turn % 180 else (first.width, first.height, aspect)
    )
    return ClipInfo(
        path, width, height, aspect, fps, constant, pts, base,
        rotation=turn, stream=stream.index, video_streams=len(videos), audio_streams=len(container.streams.audio),
        codec=stream.codec_context.name, pixel_format=first.format.name,
        depth=max((c.bits for c in first.format.components), default=8), start=start,
        tags={k.lower(): v for k, v in container.metadata.items() if k.lower() not in _NOT_TAGS},
        whole=len(raw) != max_frames, damaged=bool(damage), notes=tuple(notes),
    )  # fmt: skip


def _ends_early(path: Path) -> bool:
    """Whether a Matroska file, which counts no frames, holds less than the duration that its header states."""
    with av.open(str(path.resolve())) as container:
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


def _timing(
    raw: list[int | None], stream: VideoStream, start: Fraction, notes: list[str]
) -> tuple[tuple[int, ...], Fraction, Fraction, bool]:
    """(timestamps, their base, frame rate, is it constant) from the presentation times of decoded frames."""
    rates = [r for r in (stream.average_rate, stream.guessed_rate, stream.base_rate) if r]
    if not rates:
        notes.append(f"the file names no frame rate; {FOLDER_FPS} is assumed")
        rates = [FOLDER_FPS]
    base = stream.time_base
    known = [t for t in raw if t is not None]
    if base is None or len(known) < len(raw) or any(b <= a for a, b in itertools.pairwise(known)):
        notes.append("timestamps are missing or out of order; frames are spaced by the frame rate")
        return tuple(range(len(raw))), 1 / rates[0], rates[0], True
    offset = int(start / base)
    pts = tuple(t - offset for t in known)
    for rate in rates:
        tick = 1 / (rate * base)
        if _even(pts, tick):
            return pts, base, rate, True
    return pts, base, rates[0], False


def _even(pts: Sequence[int], tick: Fraction) -> bool:
    """Whether timestamps are `tick` apart, up to one unit of their clock."""
    return all(abs(t - pts[0] - i * tick) <= min(1, tick / 4) for i, t in enumerate(pts))


def _probe_pictures(path: Path, found: Sequence[Path], max_frames: int | None) -> ClipInfo:
    files = sorted((p for p in found if not p.name.startswith(".")), key=natural)
    if not files:
        where = f"the folder {path}" if path.is_dir() else f"{path}"
        raise ValueError(f"clip: expected pictures ({', '.join(PICTURES)}) in {where}, got none")
    files = files[:max_frames]
    sizes, notes, deep = {}, list[str](), False
    for file in files:
        try:
            header = read_header(file)
        except OSError as error:
            raise ValueError(f"clip: expected a picture, got {file}, which cannot be read as one") from error
        sizes.setdefault((header.width_px, header.height_px), file)
        deep |= header.bits == 16
        notes += [NO_ALPHA] if header.has_alpha and not notes else []
    if len(sizes) > 1:
        (a, first), (b, second) = list(sizes.items())[:2]
        raise ValueError(
            f"clip: expected frames of one size, got {a[0]}x{a[1]} in {first.name} and {b[0]}x{b[1]} in {second.name}"
        )
    ((width, height), _), *_ = sizes.items()
    pts, base, fps, constant = tuple(range(len(files))), 1 / FOLDER_FPS, FOLDER_FPS, True
    times = path / TIMES if path.is_dir() and (path / TIMES).is_file() else None
    if times is not None:
        pts, base, fps, constant = _read_times(times, len(files))
    return ClipInfo(
        path, width, height, Fraction(1), fps, constant, pts, base, depth=16 if deep else 8, notes=tuple(notes),
        files=tuple(files), times=times,
    )  # fmt: skip


def _read_times(path: Path, count: int) -> tuple[tuple[int, ...], Fraction, Fraction, bool]:
    """(timestamps, their base, frame rate, is it constant) of `count` frames, from milliseconds, one a line.

    Raises:
        ValueError: it holds something else, times that do not rise, or too few.
    """
    base = Fraction(1, 1_000_000)
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
        pts = tuple(round(Fraction(line.strip()) / 1000 / base) for line in lines[:count])
    except ValueError as error:
        raise ValueError(f"clip: expected milliseconds, one a line, in {path} ({error})") from None
    if len(pts) < count or any(b <= a for a, b in itertools.pairwise(pts)):
        raise ValueError(f"clip: expected {count} rising times in {path}, as there are frames; remove it or mend it")
    if count == 1:
        return pts, base, FOLDER_FPS, True
    mean = (count - 1) / ((pts[-1] - pts[0]) * base)
    usual = (Fraction(round(mean)), Fraction(1000 * round(mean * 1001 / 1000), 1001))  # 30, and 29.97 of NTSC
    rates = [rate for rate in (*usual, mean.limit_denominator(1001)) if rate > 0]
    even = next((rate for rate in rates if _even(pts, 1 / (rate * base))), None)
    return pts, base, even or rates[-1], even is not None


def with_fps(info: ClipInfo, fps: Fraction) -> ClipInfo:
    """The same frames played at another constant rate (for folders, which know none)."""
    fps = fps.limit_denominator(65_535)  # what containers can say
    return replace(info, fps=fps, constant_rate=True, pts=tuple(range(info.frames)), time_base=1 / fps)


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path.name)
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p.lower()) for p in parts]
