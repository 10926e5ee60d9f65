"""Where an edit may change pixels: mask files, which mean the same in every editor.

The level of a mask is the luma (Rec. 709) of its picture times its opacity, in [0, 1]: white is edited, black stays bit
for bit, grey is mixed, and what is transparent stays whatever its colour. Grey of 16 bits keeps its levels.

For a clip a mask is a picture for all frames, or a picture a frame (a folder, a pattern, a video). A feather makes the
edit fade in from the border of what is edited inwards, so that what stays still stays.
"""

from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from csd3d.media.clip.animation import AnimationReader, is_animation
from csd3d.media.clip.probe import PICTURES, ClipInfo, is_pattern, probe, read_as
from csd3d.media.clip.source import PyAVReader, Reader
from csd3d.media.pictures.levels import from_levels, luma, read_with_alpha
from csd3d.media.place import require_utf8


def read_mask(path: Path) -> Float[Tensor, "H W"]:
    """How much each pixel may change, 0 to 1, from a picture file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as a picture.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a device or pipe" if path.exists() else "which does not exist"
        raise FileNotFoundError(f"mask: expected a picture, got {path}, {what}")
    require_utf8(path.absolute(), "mask")
    try:
        levels, alpha = read_with_alpha(path)
    except OSError as error:
        raise ValueError(f"mask: expected a picture, got {path}, which cannot be read as one ({error})") from None
    return mask_levels(levels if alpha is None else np.dstack([levels, alpha]))


def mask_levels(pixels: np.ndarray) -> Float[Tensor, "*n H W"]:
    """Luma times opacity of [*n H W 3] or [*n H W 4] pixels of 8 or 16 bits, in [0, 1]; grey stays what it is."""
    rgba = from_levels(pixels)
    rgb, red = rgba[..., :3, :, :], rgba[..., 0, :, :]
    level = torch.where((rgb == rgb[..., :1, :, :]).all(-3), red, luma(rgb).clamp(0, 1))
    return level * rgba[..., 3, :, :] if rgba.shape[-3] == 4 else level


class ClipMask:
    """An opened mask for a clip. A context manager."""

    def __init__(self, path: Path, info: ClipInfo, *, feather_px: float = 0.0) -> None:
        """Open the mask at `path` for the clip `info`.

        Raises:
            FileNotFoundError: there is nothing at `path`.
            ValueError: it cannot be read, has another shape than the clip, fewer frames, or is black in all of them.
        """
        self.path, self.files = path, ()
        self._feather, self._info = feather_px, info
        self._reader: Reader | None = None
        self._one: Tensor | None = None
        self._pictures: tuple[Path, ...] = ()
        is_one = path.suffix.lower() in PICTURES and not (is_pattern(path) or path.is_dir())
        if is_one and not (path.is_file() and is_animation(path)):
            self._one = self._fitted(read_mask(path)[None], path)
            self._require_some()
            return
        with read_as("mask"):
            own = probe(path)
        self.path, self.files, self._pictures = own.path, own.content, own.files
        if own.frames < info.frames:
            raise ValueError(f"mask: expected {info.frames} frames as the clip has, got {own.frames} in {path}")
        if not own.files:
            self._reader = AnimationReader(path, alpha=True) if own.by_pillow else PyAVReader(own, alpha=True)
        self._require_some()

    def _require_some(self) -> None:
        """Raises `ValueError` for a mask under which nothing changes."""
        if not any(self(range(i, i + 1)).any() for i in range(1 if self._one is not None else self._info.frames)):
            raise ValueError(f"mask: expected something white, got nothing but black in {self.path}")

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files, and the folder or pattern, that it is read from."""
        return (self.path, *self.files)

    def __call__(self, frames: range) -> Float[Tensor, "_n 1 H W"]:
        """How much each pixel of neighbouring frames may change, 0 to 1.

        Raises:
            ValueError: a frame that could be read before no longer can.
        """
        if self._one is not None:
            return self._one.expand(len(frames), -1, -1, -1)
        if self._reader is None:
            files = self._pictures[frames.start : frames.stop]
            return torch.cat([self._fitted(read_mask(file)[None], file) for file in files])
        pixels = self._reader.read(frames.start, frames.stop)
        if len(pixels) != len(frames):
            raise ValueError(f"mask: frames [{frames.start}, {frames.stop}) of {self.path} could not be read again")
        return self._fitted(mask_levels(pixels), self.path)

    def _fitted(self, mask: Float[Tensor, "n _h _w"], path: Path) -> Float[Tensor, "n 1 _H _W"]:
        height, width = self._info.height_px, self._info.width_px
        if abs(mask.shape[-1] * height - mask.shape[-2] * width) > 0.02 * mask.shape[-2] * width:
            size = f"{mask.shape[-1]}x{mask.shape[-2]}"
            raise ValueError(f"mask: expected the clip's shape, {width}x{height} px, got {size} in {path}")
        grey = mask[:, None]
        if tuple(grey.shape[-2:]) != (height, width):
            grey = interpolate(grey, (height, width), mode="nearest-exact")
        return feathered(grey, self._feather) if self._feather else grey

    def close(self) -> None:
        """Free the decoder."""
        if self._reader is not None:
            self._reader.close()

    def __enter__(self) -> "ClipMask":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def feathered(mask: Float[Tensor, "n 1 H W"], radius_px: float) -> Float[Tensor, "n 1 H W"]:
    """The mask times min(distance to the nearest pixel that stays / radius, 1): 0 stays 0."""
    distances = [cv2.distanceTransform((m[0].numpy() > 0).astype(np.uint8), cv2.DIST_L2, 5) for m in mask]
    return mask * (torch.from_numpy(np.stack(distances))[:, None] / (radius_px + 1)).clamp_max(1)


def masked(
    source: Float[Tensor, "n 3 H W"], edited: Float[Tensor, "n 3 H W"], mask: Float[Tensor, "n 1 H W"]
) -> Float[Tensor, "n 3 H W"]:
    """source + mask (edited - source); the source itself, bit for bit, where the mask is 0."""
    return torch.where(mask > 0, torch.lerp(source, edited, mask.expand_as(source)), source)
