"""Where a sentence holds: everywhere, in a span of the width, or where a mask file is white.

A region is a weight in [0, 1] for every position of the picture, positions being fractions of width and height. Regions
that overlap share a place in proportion to their weights; what they leave over belongs to the sentence for everywhere,
or, where there is none, to nobody: there the picture stays as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from csd3d.media.masks import feathered, read_mask


@runtime_checkable
class Region(Protocol):
    """A weight over the picture."""

    def weight(self, x: Float[Tensor, "*d"], y: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
        """In [0, 1] at positions given as fractions of width and height, in [0, 1)."""
        ...


@dataclass(frozen=True)
class Everywhere:
    """1 at every position."""

    def weight(self, x: Float[Tensor, "*d"], y: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
        """One."""
        return torch.ones_like(x)


@dataclass(frozen=True)
class Span:
    """From `first` to `last` (fractions of the width), rising over `soft` to either side of each end.

    Where the picture wraps, a span whose `first` is larger than its `last` goes over the seam. The borders of a picture
    that does not wrap are no ends: a span that reaches one holds fully there.
    """

    first: float
    last: float
    soft: float = 0.05
    wraps: bool = False

    def weight(self, x: Float[Tensor, "*d"], y: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
        """1 inside, 0 outside, a half at the ends; two spans that meet sum to 1."""
        length = (self.last - self.first) % 1.0 or 1.0
        if length == 1.0 or (not self.wraps and self.first <= 0 and self.last >= 1):
            return torch.ones_like(x)
        middle = self.first + length / 2
        away = (x - middle).abs()
        if self.wraps:
            away = torch.minimum(away % 1.0, 1.0 - away % 1.0)
            return _rise(length / 2 - away, self.soft)
        left = torch.ones_like(x) if self.first <= 0 else _rise(x - self.first, self.soft)
        right = torch.ones_like(x) if self.last >= 1 else _rise(self.last - x, self.soft)
        return torch.minimum(left, right)


@dataclass(frozen=True, eq=False)
class MaskFile:
    """The levels of a mask file laid over the whole picture; white is 1."""

    path: Path
    levels: Float[Tensor, "1 1 H W"]
    """In [0, 1]."""
    smooth: bool
    """Interpolate between its pixels (it has another size than the picture), or take the nearest (exact)."""

    @classmethod
    def read(
        cls, path: Path, height_px: int, width_px: int, *, feather_px: float = 0.0, wraps: bool = False
    ) -> "MaskFile":
        """A mask for a picture of that size, whose edit fades in over `feather_px` of the picture's pixels.

        Raises as `read_mask` does, and ValueError for another aspect.
        """
        return cls.of(path, read_mask(path), height_px, width_px, feather_px=feather_px, wraps=wraps)

    @classmethod
    def of(
        cls,
        path: Path,
        mask: Float[Tensor, "_h _w"],
        height_px: int,
        width_px: int,
        *,
        feather_px: float = 0.0,
        wraps: bool = False,
    ) -> "MaskFile":
        """The same of levels that are known already."""
        height, width = mask.shape
        if abs(height * width_px - width * height_px) > max(height * width_px, width * height_px) * 0.02:
            raise ValueError(
                f"mask: expected the picture's aspect ({width_px}x{height_px}), got {width}x{height} in {path}"
            )
        levels = mask[None, None]
        if feather_px:
            radius = feather_px * height / height_px
            beyond = min(math.ceil(radius), width) if wraps else 0  # over the seam
            around = torch.cat([levels[..., width - beyond :], levels, levels[..., :beyond]], -1)
            levels = feathered(around, radius)[..., beyond : beyond + width]
        return cls(path, levels, (height, width) != (height_px, width_px))

    def weight(self, x: Float[Tensor, "*d"], y: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
        """The mask at those positions."""
        at = torch.stack([2 * x.float() - 1, 2 * y.float() - 1], -1).reshape(1, 1, -1, 2)
        mode = "bilinear" if self.smooth else "nearest"
        found = grid_sample(self.levels, at, mode=mode, padding_mode="border", align_corners=False)
        return found.reshape(x.shape).to(x)


@dataclass(frozen=True)
class Sentence:
    """One of the sentences of an edit, and where it holds."""

    text: str
    region: Region


@dataclass(frozen=True)
class Plan:
    """All sentences of an edit; which sentence holds where, and where nothing is edited."""

    sentences: tuple[Sentence, ...]
    """At least one."""
    base: int | None = 0
    """Number of the sentence that holds where the others do not; None: nothing is edited there."""
    mask: Region | None = None
    """Nothing happens where this is 0."""

    @property
    def files(self) -> list[Path]:
        """Mask files that say so, that of the whole edit first."""
        regions = [self.mask, *(sentence.region for sentence in self.sentences)]
        return [region.path for region in regions if isinstance(region, MaskFile)]

    @property
    def everywhere(self) -> bool:
        """One sentence for the whole picture, without a mask."""
        return len(self.sentences) == 1 and self.base == 0 and self.mask is None

    def shares(self, x: Float[Tensor, "*d"], y: Float[Tensor, "*d"]) -> Float[Tensor, "k *d"]:
        """How much each sentence counts; sums to 1 wherever any sentence holds, and to 0 elsewhere."""
        parts = [
            torch.zeros_like(x) if k == self.base else sentence.region.weight(x, y)
            for k, sentence in enumerate(self.sentences)
        ]
        if self.base is not None:
            parts[self.base] = (1 - torch.stack(parts).sum(0)).clamp(0, 1)
        stacked = torch.stack(parts)
        total = stacked.sum(0)
        return torch.where(total > 0, stacked / total.clamp_min(1e-12), 0.0)

    def strength(self, x: Float[Tensor, "*d"], y: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
        """How much of the edit is shown, in [0, 1]; exactly 0 where the picture has to stay."""
        if self.base is not None:
            held = torch.ones_like(x)
        else:
            held = torch.stack([sentence.region.weight(x, y) for sentence in self.sentences]).sum(0).clamp(0, 1)
        return held if self.mask is None else held * self.mask.weight(x, y)


def parse_span(text: str) -> tuple[float, float, str]:
    """(first, last, sentence) of `x0,x1=sentence`, x0 and x1 as fractions of the width from 0 to 1.

    Raises:
        ValueError: it is something else.
    """
    head, equals, sentence = text.partition("=")
    try:
        first, last = (float(part) for part in head.split(","))
    except ValueError:
        first = last = math.nan
    if not equals or not sentence.strip() or not (0 <= first <= 1 and 0 <= last <= 1) or first == last:
        raise ValueError(
            f'prompt-at: expected x0,x1="sentence" with different x0 and x1 from 0 (left) to 1 (right), got {text!r}'
        )
    return first, last, sentence.strip()


def parse_masked(text: str) -> tuple[Path, str]:
    """(file, sentence) of `mask.png=sentence`. Raises ValueError for something else."""
    head, equals, sentence = text.rpartition("=")
    if not equals or not head.strip() or not sentence.strip():
        raise ValueError(f'prompt-mask: expected mask.png="sentence", got {text!r}')
    return Path(head.strip()), sentence.strip()


def sentences_of(prompt: str | None, prompt_at: Sequence[str], prompt_mask: Sequence[str]) -> list[str]:
    """All sentences of an edit as a person wrote it, in the order of its plan; no mask is read.

    Raises:
        ValueError: a span or a mask is written otherwise than they are.
    """
    at = [text for *_, text in map(parse_span, prompt_at)]
    return [*([] if prompt is None else [prompt]), *at, *(text for _, text in map(parse_masked, prompt_mask))]


def make_plan(
    prompt: str | None,
    prompt_at: Sequence[str],
    prompt_mask: Sequence[str],
    mask: Path | None,
    *,
    height_px: int,
    width_px: int,
    wraps: bool,
    feather_px: float = 0.0,
) -> Plan:
    """The plan of an edit as a person wrote it; `feather_px` is of the mask.

    Raises:
        ValueError, FileNotFoundError: no sentence, or a span or mask that cannot be used.
    """
    sentences = [] if prompt is None else [Sentence(prompt, Everywhere())]
    for first, last, text in map(parse_span, prompt_at):
        if first > last and not wraps:
            raise ValueError(f"prompt-at: expected x0 below x1, got {first:g},{last:g}; only what wraps has a seam")
        sentences.append(Sentence(text, Span(first, last, wraps=wraps)))
    for path, text in map(parse_masked, prompt_mask):
        sentences.append(Sentence(text, MaskFile.read(path, height_px, width_px)))
    if not sentences:
        raise ValueError('expected a sentence, --prompt "...", got none')
    edited = None if mask is None else MaskFile.read(mask, height_px, width_px, feather_px=feather_px, wraps=wraps)
    return Plan(tuple(sentences), None if prompt is None else 0, edited)


def _rise(inside: Tensor, soft: float) -> Tensor:
    """From 0 at `soft` outside an end to 1 at `soft` inside it; inside + outside = 1."""
    if soft <= 0:
        return (inside > 0).to(inside)
    return torch.sin(math.pi / 2 * ((inside / soft + 1) / 2).clamp(0, 1)).square()
