"""Frames of a clip on demand: decord in batches, PyAV for what decord cannot open and where colours must be exact.

decord converts colours like FFmpeg's fast path: nearest chroma samples and rounding down, about 1 level of 255 too
dark. That is nothing to a diffusion prior at working size, and decord is many times faster. For the pixels that go
back into the output `exact=True` reads through PyAV with full chroma interpolation and rounding.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor

from csd3d.media.clip.probe import ClipInfo, Damage, decoded_frames, open_video, probe, with_fps
from csd3d.media.pictures.levels import from_levels, read_levels

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
"""swscale flags under which RGB to YUV 4:2:0 and back errs by under a level on smooth pictures (default: 4.6)."""

Backend = Literal["auto", "decord", "pyav"]


Levels = UInt8[np.ndarray, "n H W c"] | UInt16[np.ndarray, "n H W c"]
"""Bytes or, of deeper sources, 16 bits a channel; RGB, or RGBA where transparency is asked for."""


@runtime_checkable
class Reader(Protocol):
    """Random access to frames; reading onwards from the last frame is fast."""

    def read(self, start: int, stop: int) -> Levels:
        """Frames start to stop - 1, upright RGB."""
        ...

    def close(self) -> None:
        """Free the decoder."""
        ...


class Clip:
    """An opened clip: `info`, which backend serves it, and frames as tensors. A context manager.

    No frame is kept: memory is what the caller asks for at a time.
    """

    def __init__(self, info: ClipInfo, reader: Reader, backend: str, notes: tuple[str, ...]) -> None:
        self.info, self.backend, self.notes = info, backend, list(notes)
        self._reader = reader
        self._exact: Reader | None = None

    def read(self, start: int, stop: int, *, exact: bool = False) -> Float[Tensor, "n 3 H W"]:
        """Frames start to stop - 1, rgb in [0, 1], as stored (sample aspect is not applied).

        Args:
            exact: convert colours exactly (slower), see the module's text.

        Raises:
            IndexError: the range is empty or outside the clip.
            ValueError: a frame that was decodable before no longer is (the file changed).
        """
        if not 0 <= start < stop <= self.info.frames:
            raise IndexError(f"frames: expected a range within [0, {self.info.frames}), got [{start}, {stop})")
        try:
            pixels = (self._exact_reader() if exact else self._reader).read(start, stop)
        except DecordFailure as error:  # PyAV has decoded every frame before, so it can again
            self.notes.append(f"read with PyAV from frame {start} on: {error}")
            self._reader, self.backend = self._exact_reader(), "pyav"
            pixels = self._reader.read(start, stop)
        if pixels.shape != (stop - start, self.info.height_px, self.info.width_px, 3):
            raise ValueError(
                f"clip: frames [{start}, {stop}) of {self.info.path} could not be read again; did it change?"
            )
        return from_levels(pixels)

    def chunks(self, size: int, *, exact: bool = False) -> Iterator[tuple[range, Float[Tensor, "_n 3 H W"]]]:
        """The whole clip in order, at most `size` frames at a time, each chunk with its frame numbers."""
        for start in range(0, self.info.frames, size):
            frames = range(start, min(start + size, self.info.frames))
            yield frames, self.read(frames.start, frames.stop, exact=exact)

    def _exact_reader(self) -> Reader:
        if isinstance(self._reader, PictureReader | PyAVReader):
            return self._reader
        self._exact = self._exact or PyAVReader(self.info)
        return self._exact

    def close(self) -> None:
        """Free the decoders."""
        for reader in dict.fromkeys((self._reader, self._exact)):
            if reader is not None:
                reader.close()
        self._exact = None

    def __enter__(self) -> "Clip":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_clip(
    path: Path,
    *,
    max_frames: int | None = None,
    fps: Fraction | None = None,
    stream: int | None = None,
    strict: bool = False,
    backend: Backend = "auto",
) -> Clip:
    """Open a video file, a folder of frames, or a pattern such as frames/*.png.

    Args:
        max_frames: use only the first frames.
        fps: frame rate of a folder of frames (default 25); refused for video files, which know their own.
        stream: which of several video streams, from 0; None takes the one with the most pixels.
        strict: refuse a damaged file, of which otherwise what can be decoded is taken.
        backend: `auto` takes decord and falls back to PyAV, with a note, when decord fails or sees other frames.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it cannot be read as a clip, is damaged and `strict`, or decord was demanded and cannot.
    """
    info = probe(path, max_frames=max_frames, stream=stream)
    if strict and info.damaged:
        why = next((note for note in info.notes if "damaged" in note), "")
        raise ValueError(f"clip: expected a whole file, got {path}: {why}")
    if stream is not None and info.files:
        raise ValueError(f"stream: expected none for pictures, got {stream}")
    if info.files:
        return Clip(with_fps(info, fps) if fps else info, PictureReader(info.files, info.depth), "pictures", info.notes)
    if fps is not None:
        raise ValueError(f"fps: expected none for a video file, which has its own ({info.fps}), got {fps}")
    if backend == "pyav":
        return Clip(info, PyAVReader(info), "pyav", info.notes)
    if info.damaged and backend == "auto":
        return Clip(info, PyAVReader(info), "pyav", (*info.notes, "read with PyAV: decord stops at damage"))
    if info.video_streams > 1 and backend == "auto":
        return Clip(info, PyAVReader(info), "pyav", info.notes)  # decord chooses a stream by itself
    try:
        return Clip(info, DecordReader(info, partial=max_frames is not None), "decord", info.notes)
    except DecordFailure as error:
        if backend == "decord":
            raise ValueError(f"clip: {error}: {path}") from error
        return Clip(info, PyAVReader(info), "pyav", (*info.notes, f"read with PyAV: {error}"))


class DecordFailure(Exception):  # noqa: N818 - never seen by a caller
    """decord cannot read what PyAV can."""


class DecordReader:
    """Batches of frames through decord, which turns rotated video upright itself.

    Raises:
        DecordFailure: decord cannot open the file, or counts or times its frames differently from PyAV.
    """

    def __init__(self, info: ClipInfo, *, partial: bool) -> None:
        import decord  # here, so that nothing else needs it

        decord.logging.set_level(decord.logging.QUIET)
        try:
            self._video = decord.VideoReader(str(info.path.resolve()), ctx=decord.cpu(0))
            count = len(self._video)
            probes = sorted({0, info.frames // 2, info.frames - 1}) if count >= info.frames else [0]
            starts = self._video.get_frame_timestamp(probes)[:, 0]
            height, width = self._video.get_batch([0]).shape[1:3]
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise DecordFailure("decord cannot open it") from error
        if count < info.frames or (count != info.frames and not partial):
            raise DecordFailure(f"decord counts {count} frames, {info.frames} can be decoded")
        if (width, height) != (info.width_px, info.height_px):
            raise DecordFailure(f"decord sees {width}x{height}, expected {info.width_px}x{info.height_px}")
        expected = [info.time_s(i) - info.time_s(0) for i in probes]
        if any(abs(a - starts[0] - b) > 0.4 / float(info.fps) for a, b in zip(starts, expected, strict=True)):
            raise DecordFailure("decord and PyAV disagree about the timestamps")

    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "n H W 3"]:
        """Frames start to stop - 1, upright RGB.

        Raises:
            DecordFailure: a frame cannot be decoded.
        """
        import decord

        try:
            return self._video.get_batch(range(start, stop)).asnumpy()
        except (decord.DECORDError, RuntimeError) as error:
            raise DecordFailure(f"decord cannot decode frames [{start}, {stop})") from error

    def close(self) -> None:
        """Free the decoder."""
        del self._video


class PyAVReader:
    """Frames through PyAV with exact colour conversion; going back starts over from the first frame."""

    def __init__(self, info: ClipInfo, *, alpha: bool = False) -> None:
        """Open the clip; with `alpha`, pixels of what has transparency are RGBA."""
        self._info, self._alpha = info, alpha
        self._open()

    def _open(self) -> None:
        self._stack = ExitStack()
        self._frames = decoded_frames(
            *self._stack.enter_context(
                open_video(self._info.path, index=self._info.stream, careful=self._info.damaged)
            ),
            Damage(),
        )
        self._next = 0

    def read(self, start: int, stop: int) -> Levels:
        """Frames start to stop - 1, upright RGB; fewer if the stream ends."""
        if start < self._next:
            self.close()
            self._open()
        pixels = []
        while self._next < stop:
            frame = next(self._frames, None)
            if frame is None:
                break
            if self._next >= start:
                pixels.append(self._upright(frame))
            self._next += 1
        return np.stack(pixels) if pixels else np.zeros((0, 1, 1, 3), np.uint8)

    def _upright(self, frame: VideoFrame) -> UInt8[np.ndarray, "H W c"] | UInt16[np.ndarray, "H W c"]:
        turned = self._info.rotation % 180 != 0
        size = (self._info.height_px, self._info.width_px) if turned else (self._info.width_px, self._info.height_px)
        deep = self._info.depth > 8
        form = "rgb48le" if deep else "rgb24"
        if self._alpha and any(c.is_alpha for c in frame.format.components):
            form = "rgba64le" if deep else "rgba"
        rgb = frame.reformat(*size, format=form, interpolation=EXACT, dst_color_range=ColorRange.JPEG)
        return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), self._info.rotation // 90))

    def close(self) -> None:
        """Free the decoder."""
        self._stack.close()


class PictureReader:
    """Frames from picture files, orientation applied, transparency dropped; of `depth` 16 all in 16 bits."""

    def __init__(self, files: tuple[Path, ...], depth: int) -> None:
        self._files, self._deep = files, depth > 8

    def read(self, start: int, stop: int) -> Levels:
        """Frames start to stop - 1, upright RGB.

        Raises:
            ValueError: a picture cannot be decoded.
        """
        return np.stack([self._one(file) for file in self._files[start:stop]])

    def _one(self, file: Path) -> UInt8[np.ndarray, "H W 3"] | UInt16[np.ndarray, "H W 3"]:
        try:
            levels = read_levels(file)
            return levels.astype(np.uint16) * 257 if self._deep and levels.dtype == np.uint8 else levels
        except OSError as error:
            raise ValueError(f"clip: expected a whole picture, got {file} ({error})") from error

    def close(self) -> None:
        """Nothing stays open."""
