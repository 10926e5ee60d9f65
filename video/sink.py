"""Writing a clip: H.264 with the source's exact times, sound copied untouched, colours converted as they are tagged.

Sizes are kept to the pixel. H.264 at 4:2:0 needs even sides, so a clip with an odd side is stored at 4:4:4 instead of
growing by a pixel; some browsers do not play that.
"""

import io
import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from jaxtyping import Float
from torch import Tensor

from csd3d.runs.atomic import atomic_path
from csd3d.runs.h264 import h264_options
from video.probe import ClipInfo
from video.source import EXACT

CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv")
"""Suffixes of clips that can be written."""


class ClipWriter:
    """Takes frames in order and encodes them; see `write_clip`."""

    def __init__(
        self, container: OutputContainer, stream: VideoStream, pts: Sequence[int], time_base: Fraction, fps: Fraction
    ) -> None:
        self._container, self._stream = container, stream
        self._pts, self._time_base = pts, time_base  # our own: the muxer may change the stream's clock
        self._durations = dict(zip(pts, _durations(pts, time_base, fps), strict=True))
        self.sound: _Sound | None = None
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
        if not bool(torch.isfinite(rgb).all()):
            raise ValueError("frames: expected finite values, got NaN or infinity")
        levels = (rgb.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        for picture in levels:
            frame = VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(
                format=self._stream.pix_fmt, interpolation=EXACT, dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.MPEG,
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
        for packet in self.sound.rest() if self.sound else ():
            self._container.mux(packet)

    def _mux(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            if packet.pts in self._durations and packet.time_base == self._time_base:
                packet.duration = self._durations[packet.pts]
            if self.sound and packet.dts is not None and packet.time_base is not None:
                for sound in self.sound.until(packet.dts * packet.time_base):
                    self._container.mux(sound)
            self._container.mux(packet)


@contextmanager
def write_clip(
    path: Path,
    *,
    width_px: int,
    height_px: int,
    fps: Fraction,
    pts: Sequence[int],
    time_base: Fraction,
    sample_aspect: Fraction = Fraction(1),
    audio_from: Path | None = None,
    crf: int = 18,
    notes: list[str] | None = None,
) -> Iterator[ClipWriter]:
    """Write an H.264 clip at `path`, which appears whole or, if the block raises, not at all.

    Args:
        fps: nominal rate; `pts` in units of `time_base` are what counts.
        pts: when each frame is shown; as many as frames will be written.
        audio_from: a file whose sound is copied packet by packet.
        crf: quality of x264, 0 (lossless) to 51.
        notes: receives a line for what could not be kept.

    Raises:
        ValueError: a container we do not write, an empty clip, or an encoder that is missing.
    """
    if path.suffix.lower() not in CONTAINERS:
        raise ValueError(f"output: expected a name ending in {', '.join(CONTAINERS)}, got {path}")
    if not pts:
        raise ValueError("output: expected at least one frame, got none")
    notes = notes if notes is not None else []
    with atomic_path(path) as part, ExitStack() as stack:
        options = {"movflags": "+faststart"} if path.suffix.lower() != ".mkv" else {}
        container = stack.enter_context(av.open(str(part), "w", options=options))
        stream = _video_stream(container, width_px, height_px, fps, crf)
        stream.time_base = stream.codec_context.time_base = time_base
        stream.sample_aspect_ratio = sample_aspect
        writer = ClipWriter(container, stream, pts, time_base, fps)
        writer.sound = _Sound(container, audio_from, stack, notes)
        yield writer
        writer.finish()


def _video_stream(container: OutputContainer, width: int, height: int, fps: Fraction, crf: int) -> VideoStream:
    try:
        stream: Any = container.add_stream("libx264", rate=fps)
    except (FFmpegError, ValueError) as error:
        raise ValueError(f"output: this build of PyAV cannot encode H.264 ({error}); install the av wheel") from error
    stream.width, stream.height = width, height
    stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
    stream.options = h264_options(crf)
    codec = stream.codec_context
    codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
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


def _durations(pts: Sequence[int], base: Fraction, fps: Fraction) -> list[int]:
    """Ticks for which each frame stays; the last so long that the whole has the mean rate, or as long as most."""
    shown = [b - a for a, b in itertools.pairwise(pts)]
    last = round(len(pts) / (fps * base)) - sum(shown)
    usual = statistics.median_low(shown) if shown else round(1 / (fps * base))
    return [*shown, last if last > 0 else usual]


class _Sound:
    """The packets of all audio streams of a file, handed out in time order, without decoding."""

    def __init__(self, container: OutputContainer, path: Path | None, stack: ExitStack, notes: list[str]) -> None:
        self._packets: Iterator[Packet] = iter(())
        self._held: Packet | None = None
        self._offset = Fraction(0)
        self._streams: dict[int, Any] = {}
        if path is None:
            return
        source: InputContainer = stack.enter_context(av.open(str(path)))
        for stream in source.streams.audio:
            if _fits(path, stream.index, container.format.name):
                self._streams[stream.index] = container.add_stream_from_template(stream)
            else:
                name = stream.codec_context.name
                notes.append(f"the sound ({name}) does not fit into this container and is left out; .mkv keeps it")
        kept = [s for s in source.streams.audio if s.index in self._streams]
        if kept:
            self._packets = _readable(source, kept)
            self._held = next(self._packets, None)

    def until(self, time_s: Fraction) -> Iterator[Packet]:
        """Packets that come before `time_s`."""
        while self._held is not None and self._time(self._held) <= time_s:
            yield self._next()

    def rest(self) -> Iterator[Packet]:
        """All packets that are left."""
        while self._held is not None:
            yield self._next()

    def _time(self, packet: Packet) -> Fraction:
        base = packet.time_base or Fraction(1)
        return (packet.dts or 0) * base

    def _next(self) -> Packet:
        packet = self._held
        assert packet is not None
        packet.stream = self._streams[packet.stream_index]
        self._held = next(self._packets, None)
        return packet


def _fits(path: Path, index: int, container_format: str) -> bool:
    """Whether a container can hold an audio stream, found by trying: some refuse only when they are closed."""
    try:
        with av.open(str(path)) as source, av.open(io.BytesIO(), "w", format=container_format.split(",")[0]) as trial:
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
