"""Edited views: which prompt made which, what training sees of them, and how they are stored.

Every prompt is a layer over the photographs. Training sees the topmost layer that holds a view, its photograph where
none does; a further prompt starts from what training sees (chained edits); undo takes the top layer away. Views are
kept as PNG, eight bits a channel, in memory as in checkpoints, so a checkpoint stores exactly what was trained on.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from csd3d.media.atomic import write_bytes
from csd3d.media.pictures.levels import from_levels, to_levels
from csd3d.media.sheet import contact_sheet, evenly, save_picture

SHEET_VIEWS = 6


@dataclass
class Layer:
    """The views that one prompt has edited, as PNG files."""

    prompt: str
    source_prompt: str | None = None
    method: str | None = None
    views: dict[int, bytes] = field(default_factory=dict)


class Layers:
    """The history of prompts and the views they made."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []

    @property
    def prompt(self) -> str | None:
        """The latest prompt."""
        return self.layers[-1].prompt if self.layers else None

    @property
    def history(self) -> tuple[str, ...]:
        """All prompts, the first one first."""
        return tuple(layer.prompt for layer in self.layers)

    def holds_some(self, prompt: str | None, count: int) -> bool:
        """Whether `prompt` is the latest and has edited some of `count` views, but not all."""
        return bool(self.layers) and prompt == self.prompt and 0 < len(self.layers[-1].views) < count

    @property
    def source_prompt(self) -> str | None:
        """The source prompt beside it."""
        return self.layers[-1].source_prompt if self.layers else None

    def start(self, prompt: str, source_prompt: str | None = None, method: str | None = None) -> None:
        """Begin a layer, unless the top one is of that prompt; what else is said goes for it from now on."""
        if prompt != self.prompt:
            self.layers.append(Layer(prompt))
        self.layers[-1].source_prompt, self.layers[-1].method = source_prompt, method

    def undo(self) -> set[int]:
        """Take the top layer away; the views that look different now."""
        return set(self.layers.pop().views) if self.layers else set()

    def reset(self) -> set[int]:
        """Take all layers away; the views that look different now."""
        changed = {view for layer in self.layers for view in layer.views}
        self.layers.clear()
        return changed

    def put(self, view: int, rgb: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
        """Keep an edited view in the top layer; returns it as training will see it, rounded to eight bits."""
        levels = to_levels(rgb)
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, "PNG", compress_level=1)
        self.layers[-1].views[view] = buffer.getvalue()
        return from_levels(levels)

    def seen(self, view: int, *, below_top: bool = False) -> Float[Tensor, "3 H W"] | None:
        """The edited view that training sees, or, `below_top`, saw before the latest prompt; None: its photograph."""
        png = self._png(view, below_top=below_top)
        if png is None:
            return None
        return from_levels(np.array(Image.open(io.BytesIO(png))))

    def edited(self) -> list[int]:
        """All views that some layer holds."""
        return sorted({view for layer in self.layers for view in layer.views})

    def state(self) -> list[dict[str, Any]]:
        """For a checkpoint: plain containers and byte tensors, which load without unpickling classes."""
        return [
            {**vars(layer), "views": {v: _to_tensor(png) for v, png in layer.views.items()}} for layer in self.layers
        ]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Return to a `state`."""
        self.layers = [
            Layer(**{**layer, "views": {v: png.numpy().tobytes() for v, png in layer["views"].items()}})
            for layer in state
        ]

    def write(
        self, folder: Path, names: list[str], photographs: Float[Tensor, "n 3 H W"], changed: Iterable[int]
    ) -> None:
        """Bring `folder`/NAME.png of the changed views up to date, and the contact sheet of some views, sheet.png."""
        folder.mkdir(parents=True, exist_ok=True)
        for view in changed:
            png = self._png(view)
            if png is None:
                (folder / f"{names[view]}.png").unlink(missing_ok=True)
            else:
                write_bytes(folder / f"{names[view]}.png", png)
        edited = self.edited()
        shown = [edited[i] for i in evenly(len(edited), SHEET_VIEWS)]
        if not shown:
            (folder / "sheet.png").unlink(missing_ok=True)
            return
        now = torch.stack([picture for v in shown if (picture := self.seen(v)) is not None])
        write_sheet(folder, {"photograph": photographs[shown], ", then ".join(self.history): now}, names, shown)

    def _png(self, view: int, *, below_top: bool = False) -> bytes | None:
        layers = reversed(self.layers[:-1] if below_top else self.layers)
        return next((layer.views[view] for layer in layers if view in layer.views), None)


def write_sheet(
    folder: Path, rows: Mapping[str, Float[Tensor, "n 3 _H _W"]], names: list[str], shown: list[int]
) -> None:
    """Write the contact sheet of the views `shown`, sheet.png."""
    folder.mkdir(parents=True, exist_ok=True)
    save_picture(contact_sheet(rows, columns=[names[v] for v in shown]), folder / "sheet.png")


def require_same_views(then: list[str], now: list[str]) -> None:
    """Raises `ValueError` if the edits of a checkpoint are of other views (`then`) than those of the data (`now`)."""
    if then != now:
        n, other = next(((a, b) for a, b in zip(now, then, strict=False) if a != b), ("", ""))
        which = f"{n} and {other}" if n else f"{len(now)} and {len(then)} views"
        raise ValueError(f"checkpoint: expected edits of the training views of this data, got others: {which}")


def _to_tensor(png: bytes) -> UInt8[Tensor, " b"]:
    return torch.frombuffer(bytearray(png), dtype=torch.uint8)
