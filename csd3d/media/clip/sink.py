"""Writing a clip: the source's exact times, sound and subtitles copied untouched, colours converted as they are tagged.

Sizes are kept to the pixel; see `csd3d.media.clip.formats` for what can be written.
"""

import io
import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import av
import numpy as np
import torch
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from jaxtyping import Float
from torch import Tensor

from csd3d.media.atomic import atomic_path
from csd3d.media.clip.formats import CONTAINERS, Encoding, Stream, require_output, stream_of
from csd3d.media.clip.probe import ClipInfo
from csd3d.media.clip.source import EXACT
from csd3d.media.pictures.levels import Bits, to_levels


@runtime_checkable
class Writer(Protocol):
    """Takes the frames of a clip in order."""

    def write(self, rgb: Float[Tensor, "n 3 H W"]) -> None:
        """Append frames, values in [0, 1] (others are clamped)."""
        ...


@dataclass(frozen=True)
class Carried:
    """What is copied from one file to another besides pictures."""

    path: Path
    """The file whose sound, subtitles and chapters are copied, without decoding."""
    start: Fraction = Fraction(0)
    """Seconds at which it begins; they are taken off all its times."""
    until: Fraction | None = None
    """Seconds after its start at which the copy ends; None: with the file."""


class ClipWriter:
    """Takes frames in order and encodes them; see `write_clip`."""

    def __init__(
        self, container: OutputContainer, stream: VideoStream, pts: Sequence[int], time_base: Fraction, fps: Fraction
    ) -> None:
        self._container, self._stream = container, stream
        self._rgb = stream.pix_fmt is not None and stream.pix_fmt.startswith(("bgr", "gbr"))
        self._deep = "10" in (stream.pix_fmt or "")
        self._pts, self._time_base = pts, time_base  # our own: the muxer may change the stream's clock
        self._durations = dict(zip(pts, durations(pts, time_base, fps), strict=True))
        self.others: _Others | None = None
        self.frames = 0

    def write(self, rgb: Float[Tensor, "n 3 H W"]) -> None:
        """Append frames, values in [0, 1] (others are clamped).

        Raises:
            ValueError: more frames than were announced, frames of another size, or a value that is no number.
        """
        expected = (self._stream.height, self._stream.width)
        if tuple(rgb.shape[-2:]) != expected:
            raise ValueError(f"frames: expected {expected[1]}x{expected[0]} px, got {rgb.shape[-1]}x{rgb.shape[-2]}")
        if self.frames + len(rgb) > len(self._pts):
            raise ValueError(f"frames: expected {len(self._pts)} in all, got more")
        for picture in frame_levels(rgb, 16 if self._deep else 8):
            frame = VideoFrame.from_ndarray(picture, format="rgb48le" if self._deep else "rgb24")
            to_yuv: dict[str, Any] = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
            frame = frame.reformat(
                format=self._stream.pix_fmt, interpolation=EXACT, src_color_range=ColorRange.JPEG,
                **({"dst_color_range": ColorRange.JPEG} if self._rgb else to_yuv),
            )  # fmt: skip
            frame.pts, frame.time_base = self._pts[self.frames], self._time_base
            self._mux(self._stream.encode(frame))
            self.frames += 1

    def finish(self) -> None:
        """Flush the encoder and the rest of the sound.

        Raises:
            ValueError: fewer frames were written than announced.
        """
        if self.frames != len(self._pts):
            raise ValueError(f"frames: expected {len(self._pts)}, got {self.frames}")
        self._mux(self._stream.encode(None))
        for packet in self.others.rest() if self.others else ():
            self._container.mux(packet)

    def _mux(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            if packet.pts in self._durations and packet.time_base == self._time_base:
                packet.duration = self._durations[packet.pts]
            if self.others and packet.dts is not None and packet.time_base is not None:
                for other in self.others.until(packet.dts * packet.time_base):
                    self._container.mux(other)
            self._container.mux(packet)


def frame_levels(rgb: Float[Tensor, "n 3 H W"], bits: Bits) -> np.ndarray:
    """Frames as arrays [n H W 3] of 8 or 16 bits a channel.

    Raises:
        ValueError: a value is no number.
    """
    if not bool(torch.isfinite(rgb).all()):
        raise ValueError("frames: expected finite values, got NaN or infinity")
    return to_levels(rgb, bits)


@contextmanager
def write_clip(
    path: Path,
    *,
    width_px: int,
    height_px: int,
    fps: Fraction,
    pts: Sequence[int],
    time_base: Fraction,
    sample_aspect: Fraction | None = Fraction(1),
    tags: Mapping[str, str] | None = None,
    carried: Carried | None = None,
    encoding: Encoding | None = None,
    notes: list[str] | None = None,
) -> Iterator[ClipWriter]:
    """Write a clip at `path`, which appears whole or, if the block raises, not at all.

    Args:
        fps: nominal rate; `pts` in units of `time_base` are what counts.
        pts: when each frame is shown; as many as frames will be written.
        sample_aspect: width over height of a pixel as it is shown; None: the file does not say.
        tags: title, artist, ... of the file.
        carried: what is copied from the source file.
        encoding: how; None = H.264, visually close.
        notes: receives a line for what could not be kept.

    Raises:
        ValueError: a container or codec that does not go together, an empty clip, or an encoder that is missing.
    """
    encoding, notes = encoding or Encoding(), notes if notes is not None else []
    require_output(path, encoding)
    if path.suffix.lower() not in CONTAINERS:
        raise ValueError(f"output: expected a name ending in {', '.join(CONTAINERS)}, got {path}")
    if not pts:
        raise ValueError("output: expected at least one frame, got none")
    with atomic_path(path) as part, ExitStack() as stack:
        matroska = path.suffix.lower() in (".mkv", ".webm")  # which else has a number of its own drawn at random
        options = {"fflags": "+bitexact"} if matroska else {"movflags": "+faststart"}
        container = stack.enter_context(av.open(str(part.resolve()), "w", options=options))
        how = stream_of(path, encoding, width_px=width_px, height_px=height_px)
        stream = _video_stream(container, how, width_px, height_px, fps)
        stream.time_base = stream.codec_context.time_base = time_base
        if sample_aspect is not None:
            stream.sample_aspect_ratio = sample_aspect
        container.metadata.update(tags or {})
        writer = ClipWriter(container, stream, pts, time_base, fps)
        if carried is not None:
            writer.others = _Others(container, carried, stack, notes)
        yield writer
        writer.finish()


def _video_stream(container: OutputContainer, how: Stream, width: int, height: int, fps: Fraction) -> VideoStream:
    try:
        stream: Any = container.add_stream(how.encoder, rate=fps)
    except (FFmpegError, ValueError) as error:
        raise ValueError(f"output: this build of PyAV has no {how.encoder} ({error}); install the av wheel") from error
    stream.width, stream.height, stream.pix_fmt = width, height, how.pixel_format
    stream.options = how.options
    codec = stream.codec_context
    codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    if how.is_rgb:
        codec.color_range = ColorRange.JPEG
    else:
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    if how.tag is not None:
        codec.codec_tag = how.tag
    return stream


def even_times(info: ClipInfo) -> tuple[tuple[int, ...], Fraction]:
    """Timestamps and their clock for writing `info` again.

    Constant rates get their exact times, which a container with a coarse clock (WebM: 1 ms) could only round.
    """
    if not info.constant_rate:
        return info.pts, info.time_base
    start = info.pts[0] * info.time_base
    base = Fraction(1, info.fps.numerator)
    if start % base:
        base /= 1000
    tick = 1 / (info.fps * base)
    return tuple(round(start / base + i * tick) for i in range(info.frames)), base


def durations(pts: Sequence[int], base: Fraction, fps: Fraction) -> list[int]:
    """Ticks for which each frame stays; the last so long that the whole has the mean rate, or as long as most."""
    shown = [b - a for a, b in itertools.pairwise(pts)]
    last = round(len(pts) / (fps * base)) - sum(shown)
    usual = statistics.median_low(shown) if shown else round(1 / (fps * base))
    return [*shown, last if last > 0 else usual]


class _Others:
    """The packets of all sound and subtitle streams of a file, handed out in time order, without decoding."""

    def __init__(self, container: OutputContainer, carried: Carried, stack: ExitStack, notes: list[str]) -> None:
        self._carried, self._streams = carried, dict[int, Any]()
        source: InputContainer = stack.enter_context(av.open(str(carried.path.resolve())))
        for stream in (*source.streams.audio, *source.streams.subtitles):
            if _fits(carried.path, stream.index, container.format.name):
                copy: Any = container.add_stream_from_template(stream)
                copy.metadata.update({k: v for k, v in stream.metadata.items() if k in ("language", "title")})
                copy.disposition = stream.disposition
                self._streams[stream.index] = copy
            else:
                kind, name = ("sound" if stream.type == "audio" else "subtitles"), stream.codec_context.name
                notes.append(f"the {kind} ({name}) does not fit into this container and is left out; .mkv keeps it")
        if any(stream.type == "attachment" for stream in source.streams):
            notes.append("attachments, such as fonts of subtitles, are left out")
        _copy_chapters(source, container, carried)
        kept = [source.streams[index] for index in self._streams]
        self._packets = _readable(source, kept) if kept else iter(())
        self._held = next(self._packets, None)

    def until(self, time_s: Fraction) -> Iterator[Packet]:
        """Packets that come before `time_s`."""
        while self._held is not None and self._time(self._held) <= time_s:
            yield from self._next()

    def rest(self) -> Iterator[Packet]:
        """All packets that are left."""
        while self._held is not None:
            yield from self._next()

    def _time(self, packet: Packet) -> Fraction:
        base = packet.time_base or Fraction(1)
        return (packet.dts or 0) * base - self._carried.start

    def _next(self) -> Iterator[Packet]:
        packet = self._held
        assert packet is not None
        self._held = next(self._packets, None)
        if self._carried.until is not None and self._time(packet) >= self._carried.until:
            return
        if self._carried.start and packet.time_base and packet.dts is not None:
            ticks = round(self._carried.start / packet.time_base)
            packet.dts, packet.pts = packet.dts - ticks, None if packet.pts is None else packet.pts - ticks
        packet.stream = self._streams[packet.stream_index]
        yield packet


def _copy_chapters(source: InputContainer, target: OutputContainer, carried: Carried) -> None:
    """Chapters of what is carried, with their times counted from its start."""
    chapters = []
    for chapter in source.chapters():
        base = chapter["time_base"] or Fraction(1)
        first, last = (chapter[name] - round(carried.start / base) for name in ("start", "end"))
        if carried.until is None or first * base < carried.until:
            last = last if carried.until is None else min(last, round(carried.until / base))
            chapters.append({**chapter, "start": first, "end": last})
    if chapters and target.format.name.split(",")[0] in ("mp4", "mov", "ipod", "matroska", "webm"):
        target.set_chapters(chapters)


def _fits(path: Path, index: int, container_format: str) -> bool:
    """Whether a container can hold an audio stream, found by trying: some refuse only when they are closed."""
    try:
        with (
            av.open(str(path.resolve())) as source,
            av.open(io.BytesIO(), "w", format=container_format.split(",")[0]) as trial,
        ):
            copy = trial.add_stream_from_template(source.streams[index])
            packet = next(_readable(source, [source.streams[index]]), None)
            if packet is not None:
                packet.stream = copy
                trial.mux(packet)
    except (FFmpegError, ValueError):
        return False
    return True


def _readable(source: InputContainer, streams: list[Any]) -> Iterator[Packet]:
    """Packets until the end of the file or of what can be read of it; the empty ones that flush decoders left out."""
    packets = source.demux(streams)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):
            return
        if packet.dts is not None and packet.size > 0:
            yield packet
