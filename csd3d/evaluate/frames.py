"""What is measured, as frames: a clip, a folder of frames or renders, a picture, or a folder of pictures."""

from pathlib import Path
from types import TracebackType

from jaxtyping import Float
from torch import Tensor

from csd3d.media.clip.animation import is_animation
from csd3d.media.clip.probe import PICTURES, natural, probe
from csd3d.media.clip.source import Clip, PictureReader, open_clip
from csd3d.media.geometry import resize
from csd3d.media.masks import ClipMask, read_mask
from csd3d.media.pictures.levels import Header, from_levels, read_header

SHAPE_TOLERANCE = 0.02
"""By how much the aspects of a source and its result may differ: codecs round sides to even numbers."""


class Frames:
    """Frames in order, as sRGB where a profile says what they are, each scaled to a size of its own. A context manager.

    A clip is decoded as it is read; of pictures one is in memory at a time.
    """

    def __init__(self, path: Path, *, max_frames: int | None = None, stream: int | None = None) -> None:
        """Open it; `stream` is which of several video streams, None the one with the most pixels.

        Raises:
            FileNotFoundError: there is nothing at `path`.
            ValueError: it is no clip, picture or folder of pictures.
        """
        self.path = path
        self._clip: Clip | None = None
        self._pictures = pictures_of(path)[:max_frames]
        if not self._pictures:
            self._clip = open_clip(path, max_frames=max_frames, stream=stream)
            size = (self._clip.info.height_px, self._clip.info.width_px)
            self._sizes = [size] * self._clip.info.frames
        else:
            headers = [_header(file) for file in self._pictures]
            self._sizes = [(h.height_px, h.width_px) for h in headers]

    def __len__(self) -> int:
        """How many frames there are."""
        return len(self._sizes)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a frame in px, upright."""
        return self._sizes[index]

    @property
    def one_size(self) -> bool:
        """Whether all frames have the same size; pictures that have not are measured one by one."""
        return len(set(self._sizes)) == 1

    @property
    def clip(self) -> Clip | None:
        """The opened clip; None for pictures."""
        return self._clip

    def read(self, index: int, size_px: tuple[int, int]) -> Float[Tensor, "3 H W"]:
        """A frame in [0, 1], scaled to `size_px`, height and width (bicubic, free of aliasing)."""
        if self._clip is not None:
            rgb = self._clip.read(index, index + 1, exact=True)
        else:
            rgb = from_levels(PictureReader(self._pictures, 8).read(index, index + 1))
        return resize(rgb, *size_px)[0].clamp(0, 1)

    def close(self) -> None:
        """Free the decoder."""
        if self._clip is not None:
            self._clip.close()

    def __enter__(self) -> "Frames":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def pictures_of(path: Path) -> tuple[Path, ...]:
    """The picture files that `path` is or holds, in natural order; none where it is a video file or a pattern."""
    if path.is_file():
        return (path,) if path.suffix.lower() in PICTURES and not is_animation(path) else ()
    if not path.is_dir():
        return ()
    found = [p for p in path.iterdir() if p.suffix.lower() in PICTURES and p.is_file() and not p.name.startswith(".")]
    return tuple(sorted(found, key=natural))


def measured_size(height_px: int, width_px: int, shorter_px: int) -> tuple[int, int]:
    """The size at which frames are measured: the shorter side at most `shorter_px`, sides multiples of 8."""
    scale = min(1.0, shorter_px / min(height_px, width_px))
    height, width = (max(8, 8 * round(side * scale / 8)) for side in (height_px, width_px))
    return height, width


def require_same_shape(source: Frames, result: Frames, index: int = 0) -> None:
    """Raises ValueError unless a frame of the result has the shape of that of the source."""
    (h, w), (p, q) = source.size(index), result.size(index)
    if abs(w * p - q * h) > SHAPE_TOLERANCE * h * q:
        raise ValueError(f"result: expected the shape of the source, {w}x{h} px, got {q}x{p} in {result.path}")


class Mask:
    """Where the edit may change pixels, for the frames of a source."""

    def __init__(self, path: Path, source: Frames) -> None:
        """Open it. Raises as `csd3d.media.masks` does."""
        info = (
            source.clip.info if source.clip else probe(source.path, max_frames=len(source)) if source.one_size else None
        )
        self._clip = None if info is None else ClipMask(path, info)
        self._picture = read_mask(path) if self._clip is None else None

    def read(self, index: int, size_px: tuple[int, int]) -> Float[Tensor, "1 H W"]:
        """The mask of a frame in [0, 1]; what is only partly left alone at `size_px` counts as edited."""
        if self._clip is not None:
            grey = self._clip(range(index, index + 1))
        else:
            assert self._picture is not None
            grey = self._picture[None, None]
        touched = (grey > 0).float()
        return (resize(touched, *size_px)[0] > 1e-3).float()

    def close(self) -> None:
        """Free the decoder."""
        if self._clip is not None:
            self._clip.close()


def _header(file: Path) -> Header:
    try:
        return read_header(file)
    except OSError as error:
        raise ValueError(f"{file}: expected a picture, which it cannot be read as ({error})") from None
