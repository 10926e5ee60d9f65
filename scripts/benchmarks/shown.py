"""What a file shows, for contact sheets of scripts."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.media.clip.formats import CONTAINERS
from csd3d.media.clip.source import open_clip
from csd3d.media.pictures.read import open_picture
from csd3d.media.sheet import evenly


def shown(path: Path, most: int, *, of: int | None = None) -> Float[Tensor, "n 3 H W"]:
    """A picture, or at most so many frames of a clip, spread evenly. `of`: over the first of them; None: over all."""
    if path.is_dir() or path.suffix.lower() in CONTAINERS:
        with open_clip(path, max_frames=of) as clip:
            return torch.cat([clip.read(i, i + 1) for i in evenly(clip.info.frames, most)])
    picture = open_picture(path)
    return picture.rgb(torch.arange(picture.height_px), torch.arange(picture.width_px))[None]
