"""Pictures of a subject: files of a folder, views of a scene, frames of a clip, one picture; their middle squares."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.media.clip.source import open_clip
from csd3d.media.geometry import resize
from csd3d.media.json_file import load_json
from csd3d.media.masks import ClipMask, read_mask
from csd3d.media.pictures.find import SUFFIXES, find_pictures
from csd3d.media.pictures.levels import from_levels, read_levels, to_8_bits
from csd3d.media.sheet import evenly


@dataclass(frozen=True)
class Subject:
    """Where its pictures are."""

    path: Path
    files: tuple[Path, ...]
    """Of pictures; none of a clip."""
    frames: tuple[int, ...] = ()
    """Of a clip."""

    @property
    def reads(self) -> tuple[Path, ...]:
        """All files that are read."""
        return self.files or (self.path,)

    def __len__(self) -> int:
        return len(self.files or self.frames)

    def squares(self, size_px: int) -> Float[Tensor, "n 3 S S"]:
        """The middle of each picture, in [0, 1]. Raises ValueError when one cannot be read."""
        if self.files:
            return torch.cat([middle(_read(path)[None], size_px) for path in self.files]).clamp(0, 1)
        with open_clip(self.path) as clip:
            return torch.cat([middle(clip.read(k, k + 1), size_px) for k in self.frames]).clamp(0, 1)

    def masks(self, path: Path, size_px: int) -> Float[Tensor, "n 1 S S"]:
        """The middle of the mask of each picture, in [0, 1].

        Raises:
            FileNotFoundError, ValueError: it cannot be read, or has not one for each picture.
        """
        if self.frames:
            with open_clip(self.path) as clip, ClipMask(path, clip.info) as mask:
                return torch.cat([middle(mask(range(k, k + 1)), size_px) for k in self.frames]).clamp(0, 1)
        found = [path] * len(self) if path.suffix.lower() in SUFFIXES else [path / file.name for file in self.files]
        masks = [middle(read_mask(file)[None, None], size_px) for file in found]
        return torch.cat(masks).clamp(0, 1)


def find_subject(path: Path, most: int) -> Subject:
    """The pictures at `path`: all of a folder, at most so many views of a scene or frames of a clip.

    Raises:
        FileNotFoundError, ValueError: there is nothing of the kind.
    """
    scene = path / "transforms.json" if path.is_dir() else path
    if scene.name == "transforms.json" and scene.is_file():
        views = _views(scene)
        return Subject(path, tuple(views[k] for k in evenly(len(views), most)))
    if path.is_dir():
        return Subject(path, tuple(find_pictures(path)))
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return Subject(path, (path,))
    with open_clip(path) as clip:
        return Subject(path, (), tuple(evenly(clip.info.frames, most)))


def middle(picture: Float[Tensor, "n c H W"], size_px: int) -> Float[Tensor, "n c S S"]:
    """Its middle square, scaled; may overshoot a little."""
    height, width = picture.shape[-2:]
    side = min(height, width)
    y, x = (height - side) // 2, (width - side) // 2
    return resize(picture[..., y : y + side, x : x + side], size_px, size_px)


def _views(scene: Path) -> Sequence[Path]:
    """The pictures that a transforms.json names. Raises ValueError where it names none."""
    content = load_json(scene, "scene")
    frames = content.get("frames") if isinstance(content, dict) else None
    names = [frame.get("file_path") for frame in frames if isinstance(frame, dict)] if isinstance(frames, list) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"pictures: expected frames with a file_path in {scene}, got none")
    return [scene.parent / str(name) for name in names]


def _read(path: Path) -> Float[Tensor, "3 H W"]:
    try:
        return from_levels(to_8_bits(read_levels(path)))
    except OSError as error:
        raise ValueError(f"pictures: {path} cannot be read ({error})") from None
