"""Frames of a clip on demand: fast for what is worked on, exact for the pixels that go back into the output.

PyAV serves them. FFmpeg's fast colour path takes the nearest chroma samples and rounds down, about a level of 255 too
dark. That is nothing to a diffusion prior at working size; `exact=True` converts with full chroma interpolation and
rounding.

decord can be asked for. It is an FFmpeg of 2019: of some files its pictures are not the ones asked for, though it
counts and times them right, and a few end the process; so it has a process of its own, and serves only whole files of
which it shows the same.
"""

from collections.abc import Generator
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor

from csd3d.media.clip.animation import AnimationReader, icc_of
from csd3d.media.clip.container import Damage, decoded_frames, open_video
from csd3d.media.clip.decord_process import DecordProcess
from csd3d.media.clip.probe import ClipInfo, probe, with_fps
from csd3d.media.clip.shown import upright_levels
from csd3d.media.overlap import ahead
from csd3d.media.pictures.levels import from_levels, read_header, read_levels, to_8_bits
from csd3d.media.pictures.profile import profile_from

Backend = Literal["pyav", "decord"]
_CHUNK_PX = 4_000_000  # full-size pixels held at a time, a few copies of each: about half a GB
_PROBES = 5
_SAME_LEVELS = 0.5  # mean difference, of 255; of 8-bit clips there is none


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

    def __init__(self, info: ClipInfo, reader: Reader, backend: str) -> None:
        self.info, self.backend, self.notes = info, backend, list(info.notes)
        self._reader = reader
        self._exact: Reader | None = None
        self._in_use = Lock()

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
        with self._in_use:
            pixels = (self._exact_reader() if exact else self._reader).read(start, stop)
        if pixels.shape != (stop - start, self.info.height_px, self.info.width_px, 3):
            raise ValueError(
                f"clip: frames [{start}, {stop}) of {self.info.path} could not be read again; did it change?"
            )
        return from_levels(pixels)

    def chunks(
        self, size: int, *, exact: bool = False
    ) -> Generator[tuple[range, Float[Tensor, "_n 3 H W"]], None, None]:
        """The whole clip in order, at most `size` frames at a time, with their numbers; read `ahead`."""
        parts = (range(start, min(start + size, self.info.frames)) for start in range(0, self.info.frames, size))
        return ahead((part, self.read(part.start, part.stop, exact=exact)) for part in parts)

    def _exact_reader(self) -> Reader:
        if isinstance(self._reader, PictureReader | AnimationReader):
            return self._reader
        self._exact = self._exact or PyAVReader(self.info)
        return self._exact

    def close(self) -> None:
        """Free the decoders, after what is being read."""
        with self._in_use:
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


def chunk_frames(clip: Clip, most: int) -> int:
    """How many full-size frames are held at a time."""
    return max(1, min(most, _CHUNK_PX // (clip.info.width_px * clip.info.height_px)))


def open_clip(
    path: Path,
    *,
    max_frames: int | None = None,
    fps: Fraction | None = None,
    stream: int | None = None,
    strict: bool = False,
    backend: Backend = "pyav",
) -> Clip:
    """Open a video file, a folder of frames, or a pattern such as frames/*.png.

    Args:
        max_frames: use only the first frames.
        fps: frame rate of a folder of frames (default 25); refused for video files, which know their own.
        stream: which of several video streams, from 0; None takes the one with the most pixels.
        strict: refuse a damaged file, of which otherwise what can be decoded is taken.
        backend: decoder of video files.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it cannot be read as a clip, is damaged and `strict`, or decord is asked for and shows other frames.
    """
    info = probe(path, max_frames=max_frames, stream=stream)
    if strict and info.damaged:
        why = next((note for note in info.notes if "damaged" in note), "")
        raise ValueError(f"clip: expected a whole file, got {path}: {why}")
    if stream is not None and info.files:
        raise ValueError(f"stream: expected none for pictures, got {stream}")
    if info.files:
        return Clip(with_fps(info, fps) if fps else info, PictureReader(info.files, info.depth), "pictures")
    if fps is not None:
        raise ValueError(f"fps: expected none for a video file, which has its own ({info.fps}), got {fps}")
    if info.by_pillow:
        return Clip(info, AnimationReader(path), "pillow")
    return Clip(info, PyAVReader(info, exact=False) if backend == "pyav" else DecordReader(info), backend)


class DecordReader:
    """Batches of frames through decord, in a process of its own; it turns rotated video upright itself."""

    def __init__(self, info: ClipInfo) -> None:
        """Open the file and look at a few frames.

        Raises:
            ValueError: decord cannot open the file, or counts or shows its frames differently from PyAV.
        """
        if info.damaged or not info.complete or info.video_streams > 1:
            raise ValueError(
                f"decord: expected a whole file with one video stream, and all its frames, got {info.path}"
            )
        self._process = DecordProcess(info.path)
        try:
            self._require_same(info)
        except BaseException:
            self.close()
            raise

    def _require_same(self, info: ClipInfo) -> None:
        """Raises ValueError where it has another number of frames than PyAV, or shows others."""
        count = self._process.frames
        if count != info.frames:
            raise ValueError(f"decord: expected {info.frames} frames, got {count} of {info.path}")
        with closing(PyAVReader(info, exact=False)) as pyav:
            for i in sorted({i * (count - 1) // (_PROBES - 1) for i in range(_PROBES)}):
                expected, got = to_8_bits(pyav.read(i, i + 1)), self.read(i, i + 1)
                if expected.shape != got.shape or np.abs(expected - got.astype(np.float32)).mean() > _SAME_LEVELS:
                    raise ValueError(
                        f"decord: expected the picture that PyAV shows, got another at frame {i} of {info.path}"
                    )

    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "n H W 3"]:
        """Frames start to stop - 1, upright RGB.

        Raises:
            ValueError: a frame cannot be decoded, or decord ended its process.
        """
        return self._process.read(start, stop)

    def close(self) -> None:
        """End the process."""
        self._process.close()


class PyAVReader:
    """Frames through PyAV; going back starts over from the first frame."""

    def __init__(self, info: ClipInfo, *, exact: bool = True, alpha: bool = False) -> None:
        """Open the clip; `exact` says how colours are converted; with `alpha`, what has transparency is RGBA."""
        self._info, self._exact, self._alpha = info, exact, alpha
        self._profile = profile_from(icc_of(info.path)) if info.codec == "apng" and not alpha else None
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
                levels = upright_levels(
                    frame, width_px=self._info.width_px, height_px=self._info.height_px,
                    orientation=self._info.orientation, deep=self._info.depth > 8, exact=self._exact,
                    alpha=self._alpha,
                )  # fmt: skip
                pixels.append(levels if self._profile is None else self._profile.to_srgb(levels))
            self._next += 1
        return np.stack(pixels) if pixels else np.zeros((0, 1, 1, 3), np.uint8)

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
            profile = profile_from(read_header(file).icc)
            levels = read_levels(file)
        except OSError as error:
            raise ValueError(f"clip: expected a whole picture, got {file} ({error})") from error
        if self._deep and levels.dtype == np.uint8:
            levels = levels.astype(np.uint16) * 257
        return levels if profile is None else profile.to_srgb(levels)

    def close(self) -> None:
        """Nothing stays open."""
