"""`--like PICTURE`: the picture that the results of a run are to be like, as the network reads it."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from torch.nn.functional import interpolate

from csd3d.attention.presets import Attention
from csd3d.media.pictures.levels import from_levels
from csd3d.media.pictures.read import open_picture
from csd3d.priors.prior import Prior
from csd3d.runs.config import RunConfig


@runtime_checkable
class Liking(Protocol):
    """Settings of such a run."""

    @property
    def like(self) -> str | None:
        """The picture's file, if there is one."""
        ...

    @property
    def attending(self) -> Attention:
        """What is done inside the network."""
        ...


C = TypeVar("C", bound=RunConfig)


def placed(config: C) -> C:
    """`config.placed`, once the picture has been looked at. Raises as that and `open_picture` do."""
    if (like := getattr(config, "like", None)) is not None:  # of editors that have it
        open_picture(Path(like))
    return config.placed()


def like_files(config: Liking) -> tuple[Path, ...]:
    """The file, if there is one, for those who list what a run reads."""
    return () if config.like is None else (Path(config.like),)


def attending_of(config: Liking, prior: Prior) -> Attention:
    """`config.attending`, with the latents of the picture: its shorter side as long as what the prior was trained at.

    Raises as `open_picture` does.
    """
    if config.like is None:
        return config.attending
    rgb = from_levels(open_picture(Path(config.like)).pixels)[None]
    scale, unit = prior.native_px / min(rgb.shape[-2:]), prior.multiple_px
    size = [max(round(side * scale / unit), 1) * unit for side in rgb.shape[-2:]]
    small = interpolate(rgb, size, mode="bilinear", antialias=True).clamp(0, 1)
    return replace(config.attending, reference=prior.encode(small))
