"""Edited views: which prompt made which, which of them training uses, and how they are stored and published.

Training uses the latest edit of each view, and the photograph of a view without one; a further prompt starts from the
pictures that training uses (chained edits); undo takes the latest prompt's edits back. Views are stored as PNG,
eight bits a channel, in memory as in checkpoints, so a checkpoint holds exactly what was trained on.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from csd3d.media.atomic import write_bytes
from csd3d.media.pictures.levels import from_levels, to_levels
from csd3d.media.sheet import contact_sheet, evenly, save_picture

SHEET_VIEWS = 6
"""Views on the contact sheet."""


@dataclass
class PromptEdits:
    """The views that one prompt has edited, as PNG files."""

    prompt: str
    source_prompt: str | None = None
    method: str | None = None
    views: dict[int, bytes] = field(default_factory=dict)
    masks: dict[int, bytes] | None = None
    """Where it may change each view, as it was found; none for everywhere. None: nothing was sought yet."""


class EditHistory:
    """The prompts of a scene, in order, and the views that each of them edited."""

    def __init__(
        self, photographs: Float[Tensor, "n 3 H W"], names: Sequence[str], mask_names: Sequence[str] | None = None
    ) -> None:
        """`photographs` in [0, 1]; `names`: one for each, used as file names; `mask_names`: the same of masks."""
        self.photographs, self.names = photographs, list(names)
        self._mask_names = list(names if mask_names is None else mask_names)
        self.edits: list[PromptEdits] = []
        self._folder: Path | None = None
        self._published: dict[int, bytes] | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts, the first one first."""
        return tuple(edit.prompt for edit in self.edits)

    @property
    def latest(self) -> PromptEdits | None:
        """The edits of the latest prompt."""
        return self.edits[-1] if self.edits else None

    def edited(self) -> list[int]:
        """All views that some prompt has edited."""
        return sorted({view for edit in self.edits for view in edit.views})

    def is_partial(self, prompt: str | None) -> bool:
        """Whether `prompt` is the latest and has edited some views, but not all."""
        latest = self.latest
        return latest is not None and latest.prompt == prompt and 0 < len(latest.views) < len(self.photographs)

    def begin(self, prompt: str, source_prompt: str | None = None, method: str | None = None) -> None:
        """Edits that follow are of this prompt; one that is the latest already goes on, with these settings."""
        latest = self.latest
        if latest is None or latest.prompt != prompt:
            latest = PromptEdits(prompt)
            self.edits.append(latest)
        latest.source_prompt, latest.method = source_prompt, method

    def record(self, view: int, rgb: Float[Tensor, "3 H W"]) -> None:
        """The latest prompt, which has begun, makes `rgb` (clamped to [0, 1], rounded to eight bits) of a view."""
        self.edits[-1].views[view] = _file(Image.fromarray(to_levels(rgb)))

    def record_masks(self, masks: Bool[Tensor, "n 1 H W"] | None) -> None:
        """The latest prompt, which has begun, may change all views only there; None: everywhere."""
        levels = [] if masks is None else (255 * masks[:, 0].byte()).cpu().numpy()
        self.edits[-1].masks = {view: _file(Image.fromarray(grey)) for view, grey in enumerate(levels)}

    @property
    def masks(self) -> Bool[Tensor, "n 1 H W"] | None:
        """Where the latest prompt may change each view; None: everywhere."""
        if self.latest is None or not self.latest.masks:
            return None
        files = [self.latest.masks[view] for view in range(len(self.names))]
        return torch.stack([torch.from_numpy(np.array(Image.open(io.BytesIO(png))) > 127)[None] for png in files])

    def current(self, view: int) -> Float[Tensor, "3 H W"]:
        """What training sees of a view: its latest edit, or its photograph."""
        return self._picture(view, self.edits)

    def source(self, view: int) -> Float[Tensor, "3 H W"]:
        """What the latest prompt edits: what training saw of a view before it."""
        return self._picture(view, self.edits[:-1])

    def undo(self) -> set[int]:
        """Take the latest prompt's edits back; the views that look different now."""
        return set(self.edits.pop().views) if self.edits else set()

    def reset(self) -> set[int]:
        """Take all edits back; the views that look different now."""
        changed = set(self.edited())
        self.edits.clear()
        return changed

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def state(self) -> list[dict[str, Any]]:
        """For a checkpoint: plain containers and byte tensors, which load without unpickling classes."""
        return [{**vars(edit), "views": _tensors(edit.views), "masks": _tensors(edit.masks)} for edit in self.edits]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Return to a `state`."""
        self.edits = [
            PromptEdits(**{**edit, "views": _files(edit["views"]), "masks": _files(edit.get("masks"))})
            for edit in state
        ]

    def identities(self) -> list[str]:
        """What tells the views of one data set from those of another: names and size."""
        height, width = self.photographs.shape[-2:]
        return [f"{name}, {width}x{height} px" for name in self.names]

    def require_same_views(self, identities: list[str]) -> None:
        """Raises `ValueError` if the edits of a checkpoint are of other views than these."""
        now = self.identities()
        if identities != now:
            n, other = next(((a, b) for a, b in zip(now, identities, strict=False) if a != b), ("", ""))
            which = f"{n} and {other}" if n else f"{len(now)} and {len(identities)} views"
            raise ValueError(f"checkpoint: expected edits of the training views of this data, got others: {which}")

    # --- pictures on disk ---------------------------------------------------------------------------------------------

    def publish_in(self, folder: Path) -> None:
        """From now on `publish` writes to `folder`, beginning with all that was edited so far."""
        self._folder = folder
        self.publish(self.edited())

    def publish(self, changed: Iterable[int]) -> None:
        """Bring NAME.png of the changed views up to date, the contact sheet of some views, sheet.png, and, beside the
        folder, the masks that were found. Does nothing before `publish_in`."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._publish_masks(self._folder.parent / "masks")
        for view in changed:
            path, png = self._folder / f"{self.names[view]}.png", _png(view, self.edits)
            if png is None:
                path.unlink(missing_ok=True)
            else:
                write_bytes(path, png)
        edited = self.edited()
        shown = [edited[i] for i in evenly(len(edited), SHEET_VIEWS)]
        if shown:
            self.publish_sheet(shown, torch.stack([self.current(v) for v in shown]))
        else:
            (self._folder / "sheet.png").unlink(missing_ok=True)

    def publish_sheet(self, views: list[int], now: Float[Tensor, "m 3 _H _W"]) -> None:
        """Write the contact sheet: photographs of some views, and below them what they look like now."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        rows: Mapping[str, Tensor] = {
            "photograph": self.photographs[views],
            ", then ".join(self.prompts): now,
        }
        if (masks := self.masks) is not None:
            rows = {**rows, "mask": masks[views].float().expand(-1, 3, -1, -1)}
        save_picture(contact_sheet(rows, columns=[self.names[v] for v in views]), self._folder / "sheet.png")

    def _publish_masks(self, folder: Path) -> None:
        """Bring the masks of the latest prompt up to date; none where it has none."""
        masks = (self.latest.masks if self.latest else None) or {}
        if masks == (self._published or {}):
            return
        for view, name in enumerate(self._mask_names):
            path = folder / f"{name}.png"
            if view in masks:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, masks[view])
            else:
                path.unlink(missing_ok=True)
        self._published = masks

    def _picture(self, view: int, edits: Sequence[PromptEdits]) -> Float[Tensor, "3 H W"]:
        png = _png(view, edits)
        if png is None:
            return self.photographs[view]
        return from_levels(np.array(Image.open(io.BytesIO(png))))


def _file(picture: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _png(view: int, edits: Sequence[PromptEdits]) -> bytes | None:
    """The latest of `edits` of a view; None: none of them has it."""
    return next((edit.views[view] for edit in reversed(edits) if view in edit.views), None)


def _tensors(files: Mapping[int, bytes] | None) -> dict[int, Tensor] | None:
    """Bytes as a checkpoint holds them."""
    if files is None:
        return None
    return {v: torch.frombuffer(bytearray(png), dtype=torch.uint8) for v, png in files.items()}


def _files(tensors: Mapping[int, UInt8[Tensor, " _b"]] | None) -> dict[int, bytes] | None:
    """The same, back."""
    return None if tensors is None else {v: png.numpy().tobytes() for v, png in tensors.items()}
