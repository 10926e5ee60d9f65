"""Does the left border of a picture go on at its right border? Decided by its metadata, else by its edges."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from csd3d.media.pictures.read import Picture
from csd3d.media.pictures.tags import Tags, without_sphere

Wrap = Literal["none", "cylinder", "sphere"]
WrapChoice = Literal["auto", "none", "cylinder", "sphere"]

_SHAPE_SLACK = 0.01
_ALIKE = 0.6
"""Halves whose difference is less than this share of what it is when one is turned show the same to two eyes."""
SEAM_RATIO = 1.5
"""Edges match when the step over the seam is at most so many times the mean step between neighbouring columns."""


@dataclass(frozen=True)
class Recognised:
    """What a picture is taken for, and why."""

    wrap: Wrap
    reason: str
    """A sentence for people; empty where nothing is remarkable."""
    stale: bool = False
    """Its photo sphere fields are of another picture, which it was cut out of."""

    def tags_of(self, picture: Picture) -> Tags:
        """Those of the picture that are true of it."""
        return without_sphere(picture.tags) if self.stale else picture.tags


def recognise(picture: Picture, choice: WrapChoice, *, flat: bool = False) -> Recognised:
    """How a picture wraps: as asked for, else by its GPano fields, else 2:1 with matching edges is a sphere.

    A panorama whose fields say that it shows only part of the turn does not wrap. `flat`: none does unless it is asked
    for, and nothing is said of it but that fields are stale.
    """
    if flat and choice == "auto":
        found = recognise(picture, choice)
        return found if found.stale else Recognised("none", "")
    if choice != "auto":
        return Recognised(choice, "")
    kind = (picture.tags.gpano("ProjectionType") or "").lower()
    if kind in ("equirectangular", "cylindrical"):
        return _by_fields(picture, kind)
    twice = abs(picture.width_px - 2 * picture.height_px) <= 0.01 * picture.width_px
    if twice and picture.height_px > 1 and seam_step(picture) <= SEAM_RATIO:
        return Recognised(
            "sphere",
            "taken for a full sphere: it is twice as wide as high and its left and right borders match "
            "(--wrap none edits it flat)",
        )
    return Recognised("none", "edited flat, since nothing says that it wraps (--wrap cylinder or sphere closes it)")


def seam_step(picture: Picture) -> float:
    """The step from the last column to the first over the mean step between neighbours; 0 if all are equal."""
    width = picture.width_px
    count = min(width, 256)  # pairs of columns, spread over the picture
    at = (torch.arange(count) * max(width - 1, 1)) // count
    rows = torch.arange(0, picture.height_px, max(1, picture.height_px // 1024))
    seam = (picture.rgb(rows, torch.tensor([0])) - picture.rgb(rows, torch.tensor([width - 1]))).abs().mean()
    inner = (picture.rgb(rows, at) - picture.rgb(rows, at + 1)).abs().mean()
    return float(seam / inner) if float(inner) > 0 else (0.0 if float(seam) == 0 else float("inf"))


def stereo_layout(picture: Picture) -> str | None:
    """How the two eyes of a full sphere lie in one picture, by its shape and by how much its halves are alike."""
    height, width = picture.height_px, picture.width_px
    if abs(width - height) <= _SHAPE_SLACK * width:
        halves, how = (
            (picture.pixels[: height // 2], picture.pixels[height // 2 : 2 * (height // 2)]),
            "one above the other",
        )
    elif abs(width - 4 * height) <= _SHAPE_SLACK * width:
        halves, how = (
            (picture.pixels[:, : width // 2], picture.pixels[:, width // 2 : 2 * (width // 2)]),
            "side by side",
        )
    else:
        return None
    step = max(1, height // 256)
    one, two = (half[::step, ::step].astype(np.float32) for half in halves)
    apart = np.abs(one - np.roll(two, one.shape[1] // 4, axis=1)).mean()  # the same sphere, turned
    return how if np.abs(one - two).mean() < _ALIKE * apart else None


def _by_fields(picture: Picture, kind: str) -> Recognised:
    def number(name: str) -> float | None:
        text = picture.tags.gpano(name) or ""
        return float(text) if text.isascii() and text.isdigit() else None

    full_width, width = number("FullPanoWidthPixels"), number("CroppedAreaImageWidthPixels")
    full_height, height = number("FullPanoHeightPixels"), number("CroppedAreaImageHeightPixels")
    partly = full_width is not None and width is not None and width + 1 < full_width
    silent = full_width is None or width is None or width != picture.width_px  # made smaller, or cut out of it
    whole_turn = not partly and not (silent and seam_step(picture) > SEAM_RATIO)
    if not whole_turn and not partly:
        size = f"{picture.width_px}x{picture.height_px}"
        return Recognised(
            "none",
            f"its photo sphere fields say {kind}, a full turn, but left and right borders of its {size} px do not "
            "match: edited flat, and the fields are left out (--wrap sphere or cylinder trusts them)",
            stale=True,
        )
    if not whole_turn:
        return Recognised("none", f"its photo sphere fields say {kind}, less than a full turn: edited without wrapping")
    if kind == "cylindrical":
        return Recognised("cylinder", "its photo sphere fields say cylindrical, a full turn: the seam is closed")
    if (how := stereo_layout(picture)) is not None:
        return Recognised(
            "none", f"it is a stereo pair, {how}: edited flat, as one picture; cut in two, each eye is a sphere"
        )
    whole = full_height is None or height is None or height >= full_height - 1
    twice = abs(picture.width_px - 2 * picture.height_px) <= 0.01 * picture.width_px
    if whole and twice:
        return Recognised("sphere", "its photo sphere fields say equirectangular: edited as a full sphere")
    return Recognised(
        "cylinder", "its photo sphere fields say equirectangular, a full turn without poles: its seam is closed"
    )
