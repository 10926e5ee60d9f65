"""What the page of a panorama run shows, and the pictures beside it."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from csd3d.media.atomic import atomic_path
from csd3d.media.pictures.levels import from_levels, to_8_bits
from csd3d.media.pictures.read import Picture
from csd3d.runs.manifest import Manifest
from csd3d.runs.report import Panel, Report
from panorama.regions import Plan
from panorama.wrap import Wrap

MOST_PX = 4096
"""Longer side of the report's pictures."""


@dataclass(frozen=True)
class Facts:
    """What the page says about a run, besides the manifest."""

    picture: Picture
    plan: Plan
    wrap: Wrap
    windows: int
    panels: tuple[Panel, ...]
    """The before and after, and what can be turned."""


def write_media(
    folder: Path, source: np.ndarray, edited: np.ndarray
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "3 h w"]]:
    """Write `source.jpg` and `edited.jpg`, [H W 3] pixels shrunk to at most `MOST_PX`; returns them in [0, 1]."""
    shown = []
    for name, pixels in (("source.jpg", source), ("edited.jpg", edited)):
        small = shrunk(pixels)
        with atomic_path(folder / name) as part:
            Image.fromarray(small).save(part, "JPEG", quality=90, subsampling=0)
        shown.append(from_levels(small))
    return shown[0], shown[1]


def said_windows(count: int) -> str:
    """How many windows there are, in words."""
    return f"{count} window{'s' * (count > 1)}"


def make_report(facts: Facts, manifest: Manifest) -> Report:
    """What the page of a finished run shows of its own."""
    picture, edit = facts.picture, manifest.config
    bits = 8 if picture.levels == 255 else 16
    wraps = {"none": "flat", "cylinder": "closed cylinder", "sphere": "full sphere"}[facts.wrap]
    phrases = [
        f"{picture.width_px} × {picture.height_px} px",
        f"{bits} bits",
        wraps,
        said_windows(facts.windows),
        "by sampling" if edit["by"] == "sampling" else f"{edit['csd']['coupling']} coupling",
        f"prior {manifest.prior['name']}",
        manifest.said_steps,
    ]
    return Report(
        title=" · ".join(sentence.text for sentence in facts.plan.sentences),
        subtitle=picture.path.name,
        facts=phrases,
        panels=facts.panels,
    )


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """[H W 3] uint8, longer side at most `MOST_PX`."""
    height, width = pixels.shape[:2]
    scale = min(1.0, MOST_PX / max(height, width))
    if scale < 1:
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return to_8_bits(pixels)
