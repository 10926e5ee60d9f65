"""Where a clip may be edited: a picture for all frames, or a picture a frame (a folder, a pattern, a video).

White is edited, black stays bit for bit, grey is mixed. A feather makes the edit fade in from the border of what is
edited inwards, so that what stays still stays.
"""

from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from csd3d.media.clip.probe import PICTURES, ClipInfo
from csd3d.media.clip.source import Clip, open_clip
from csd3d.media.pictures.levels import read_levels


class ClipMask:
    """An opened mask for a clip. A context manager."""

    def __init__(self, path: Path, info: ClipInfo, *, feather_px: float = 0.0) -> None:
        """Open the mask at `path` for the clip `info`.

        Raises:
            FileNotFoundError: there is nothing at `path`.
            ValueError: it cannot be read, has another shape than the clip, or fewer frames.
        """
        self.path, self.files = path, ()
        self._feather, self._info = feather_px, info
        self._clip: Clip | None = None
        self._one: Tensor | None = None
        if path.suffix.lower() in PICTURES and (path.is_file() or not any(sign in path.name for sign in "*?[")):
            self._one = self._fitted(_picture(path), path)
            return
        self._clip = open_clip(path)
        self.path, self.files = self._clip.info.path, self._clip.info.content
        if self._clip.info.frames < info.frames:
            have = self._clip.info.frames
            self._clip.close()
            raise ValueError(f"mask: expected {info.frames} frames as the clip has, got {have} in {path}")
        self._fitted(self._clip.read(0, 1), path)

    def __call__(self, frames: range) -> Float[Tensor, "_n 1 H W"]:
        """How much each pixel of neighbouring frames may change, 0 to 1."""
        if self._one is not None:
            return self._one.expand(len(frames), -1, -1, -1)
        assert self._clip is not None
        return self._fitted(self._clip.read(frames.start, frames.stop, exact=True), self._clip.info.path)

    def _fitted(self, rgb: Float[Tensor, "n 3 _h _w"], path: Path) -> Float[Tensor, "n 1 _H _W"]:
        height, width = self._info.height_px, self._info.width_px
        if abs(rgb.shape[-1] * height - rgb.shape[-2] * width) > 0.02 * rgb.shape[-2] * width:
            size = f"{rgb.shape[-1]}x{rgb.shape[-2]}"
            raise ValueError(f"mask: expected the clip's shape, {width}x{height} px, got {size} in {path}")
        grey = rgb.mean(1, keepdim=True)
        if tuple(grey.shape[-2:]) != (height, width):
            grey = interpolate(grey, (height, width), mode="nearest-exact")
        return feathered(grey, self._feather) if self._feather else grey

    def close(self) -> None:
        """Free the decoder."""
        if self._clip is not None:
            self._clip.close()

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


def _picture(path: Path) -> Float[Tensor, "1 3 H W"]:
    if not path.is_file():
        raise FileNotFoundError(f"mask: expected a picture or a clip, got {path}, which does not exist")
    try:
        levels = read_levels(path)
    except OSError as error:
        raise ValueError(f"mask: expected a picture, got {path}, which cannot be read as one") from error
    return torch.from_numpy(levels.astype(np.float32)).permute(2, 0, 1)[None] / np.iinfo(levels.dtype).max
