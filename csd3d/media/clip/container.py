"""Opening video files with PyAV: which kinds are read, which stream is the picture, and a clock that goes one way.

Two recordings written one after the other into one file (`cat a.ts b.ts`) start their clock again, and a camera may set
its clock in between. In the formats where that is known to happen, packets are shifted so that the second recording
begins where the first ends, as ffmpeg does.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
from av.container import InputContainer
from av.error import EOFError as EndOfStream
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

_LISTS = (
    "hls",
    "concat",
    "dash",
    "webm_dash_manifest",
    "imf",
    "sdp",
    "rtsp",
    "lavfi",
    "tty",
    "bin",
    "xbin",
    "adf",
    "idf",
)
"""Kinds that name other files, whose content no one would know of, or draw any text as a picture."""
_LIST_HEADS = (b"ffconcat", b"#EXTM3U", b"<?xml", b"<MPD")
_DOLBY_VISION = re.compile(rb"\0\0\0[\x18-\x30]dv[cvw]C[\1-\3]|\x41\xe7\x84dv[cvw]C", re.DOTALL)
_HEAD_BYTES = 1 << 23
_CLOCK_MAY_JUMP = 0x0200  # AVFMT_TS_DISCONT
_BACK_S, _AHEAD_S = Fraction(1, 10), 10
"""A clock that goes back by more than the one, or ahead by more than the other, was set anew."""


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Open a video file for reading. Text in its tags that is no UTF-8 is taken for Latin-1, as old cameras write it.

    Raises:
        ValueError: it is empty, a list of other files, or of no kind that is read.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"clip: expected a video, got the empty file {path}")
    name = str(path.resolve())  # in full, so that a colon is no protocol's
    options = {"format_whitelist": _readable_kinds(), "pattern_type": "none"}  # a % in a name is no number of frames
    try:
        try:
            container = av.open(name, options=options)
        except UnicodeDecodeError:
            container = av.open(name, options=options, metadata_encoding="latin-1")
    except (FFmpegError, OSError) as error:
        with path.open("rb") as file:
            head = file.read(16).lstrip()
        if head.startswith(_LIST_HEADS):
            raise ValueError(f"clip: expected a video, got {path}, which is a list of other files") from None
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"clip: expected a readable video, got {path} ({reason})") from error
    with container:
        yield container


def is_dolby_vision(path: Path) -> bool:
    """Whether a file says that its video is Dolby Vision: a configuration box of MP4, or a mapping of Matroska."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(len(head), path.stat().st_size - _HEAD_BYTES))  # where a camera writes it
        return any(_DOLBY_VISION.search(part) is not None for part in (head, file.read()))


@cache
def _readable_kinds() -> str:
    return ",".join(sorted(av.formats_available - set(_LISTS)))


@contextmanager
def open_video(
    path: Path, *, index: int | None = None, number: int | None = None, careful: bool = False
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video stream of a file; a cover picture is not a video stream.

    Args:
        path: the file.
        index: which stream of the container; None goes by `number`.
        number: which of its video streams, from 0; None takes the one with the most pixels.
        careful: keep every frame of a damaged file, which is slower.

    Raises:
        ValueError: the file is empty, no video, audio only, of an unknown codec, or has no such stream.
    """
    with open_container(path) as container:
        videos = video_streams(container)
        if not videos:
            if any(s.type == "video" and s.codec_context is None for s in container.streams):
                raise ValueError(f"clip: expected a video of a known codec, got {path}")
            kinds = sorted({"a cover picture" if s.type == "video" else s.type for s in container.streams}) or [
                "nothing"
            ]
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


def video_streams(container: InputContainer) -> list[VideoStream]:
    """The streams that can be decoded and are no cover picture."""
    return [
        s
        for s in container.streams.video
        if s.codec_context is not None and not s.disposition & Disposition.attached_pic
    ]


class Damage:
    """What `decoded_frames` left out: broken packets, a missing end, and what an edit list hides (no damage)."""

    packets = 0
    corrupt = 0
    joins = 0
    truncated = False
    hidden = 0

    def __bool__(self) -> bool:
        # where a recording ends and another begins, the last packet of the one looks cut
        return self.packets > 0 or self.truncated or self.corrupt > self.joins


def decoded_frames(container: InputContainer, stream: VideoStream, damage: Damage) -> Iterator[VideoFrame]:
    """All frames that can be decoded, in presentation order; broken packets are skipped and counted in `damage`."""
    packets = continuous(container, [stream], damage)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except FFmpegError as error:  # it ends in the middle of something: drain what the decoder still holds
            if isinstance(error, MemoryError):
                raise
            damage.truncated = True
            packet = None
        if packet is not None:
            damage.corrupt += packet.is_corrupt
            damage.hidden += packet.is_discard
        try:
            yield from stream.decode(packet)
        except EndOfStream:
            return
        except FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            damage.packets += 1
        if packet is None:
            return


def continuous(container: InputContainer, streams: Sequence[Stream], damage: Damage | None = None) -> Iterator[Packet]:
    """Packets of `streams` in the order of the file, with times on one clock (see the module's text).

    Jumps are looked for in all picture and sound streams, whichever are asked for, so that all callers see the same;
    they are counted in `damage`.
    """
    if not container.format.flags & _CLOCK_MAY_JUMP:
        yield from container.demux(*streams)
        return
    wanted = {s.index for s in streams}
    clocks = [*video_streams(container), *(s for s in container.streams.audio if s.codec_context is not None)]
    others = [s for s in streams if s.index not in {c.index for c in clocks}]
    clock = _Clock({s.index for s in clocks})
    for packet in container.demux(*clocks, *others):
        clock.shift(packet)
        if damage is not None:
            damage.joins = clock.joins
        if packet.stream_index in wanted:
            yield packet


class _Clock:
    """Shifts the packets of a recording so that the first of them comes where the last recording ended.

    Every stream finds the join by itself, since packets of both recordings may be mixed there; the first to find it
    says by how much all are shifted, so that picture and sound stay together.
    """

    def __init__(self, watched: set[int]) -> None:
        self._recording = dict.fromkeys(watched, 0)
        self._shifts_s = [Fraction(0)]
        self._ends_s: dict[int, Fraction] = {}

    @property
    def joins(self) -> int:
        """How many recordings began anew so far."""
        return len(self._shifts_s) - 1

    def shift(self, packet: Packet) -> None:
        """Put the packet on the clock."""
        base, stream = packet.time_base, packet.stream_index
        if packet.dts is None or not base:
            return
        recording = self.joins
        if stream in self._recording:
            recording = self._find(stream, packet.dts * base)
            self._ends_s[stream] = (packet.dts + (packet.duration or 0)) * base + self._shifts_s[recording]
        ticks = round(self._shifts_s[recording] / base)
        packet.dts += ticks
        if packet.pts is not None:
            packet.pts += ticks

    def _find(self, stream: int, time_s: Fraction) -> int:
        """To which recording a packet of a watched stream belongs."""
        recording = self._recording[stream]
        expected_s = self._ends_s.get(stream, time_s + self._shifts_s[recording])
        if not -_BACK_S <= time_s + self._shifts_s[recording] - expected_s <= _AHEAD_S:
            recording += 1
            if recording == len(self._shifts_s):
                self._shifts_s.append(max(self._ends_s.values()) - time_s)
        self._recording[stream] = recording
        return recording
