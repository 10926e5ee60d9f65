"""Things where boxes say: the energy of LLM-grounded diffusion (Lian et al. 2024), the boxes given by a person.

    E = sum_i sum_(v in V_i)  - top_k(A_v b_i) + w top_k(A_v (1 - b_i))

A_v     comparable, smoothed cross-attention map of token v (`csd3d.attention.energy`)
V_i     tokens of thing i, noun and attributes
b_i     1 at places whose middle is in the box of thing i, 0 elsewhere; the nearest place, where there is none
top_k   mean of the largest values there, of `share` of the places
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csd3d.attention.groups import Group
from csd3d.engine.validate import require, require_number

ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture, in fractions of its width and height from the left and the top."""

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        require_number(self, 0, 1, "left", "top", "right", "bottom")
        require(self, "left", self.left < self.right, f"less than right ({self.right:g})")
        require(self, "top", self.top < self.bottom, f"less than bottom ({self.bottom:g})")

    @classmethod
    def of(cls, text: str, what: str) -> "Box":
        """From `x0,y0,x1,y1`. Raises ValueError that begins with `what` for something else."""
        try:
            return cls(*(float(part) for part in text.split(",")))
        except (ValueError, TypeError):
            raise ValueError(
                f"{what}: expected left,top,right,bottom from 0 to 1, such as 0.1,0.2,0.5,0.9, got {text!r}"
            ) from None

    def inside(self, size: tuple[int, int]) -> Bool[Tensor, "a b"]:
        """Which places of maps of this size are in it."""
        height, width = size
        rows, columns = (torch.arange(side) for side in size)
        y, x = (rows + 0.5) / height, (columns + 0.5) / width
        in_rows, in_columns = (y > self.top) & (y < self.bottom), (x > self.left) & (x < self.right)
        if not bool(in_rows.any()):
            in_rows = rows == ((self.top + self.bottom) / 2 * height) // 1
        if not bool(in_columns.any()):
            in_columns = columns == ((self.left + self.right) / 2 * width) // 1
        return in_rows[:, None] & in_columns[None]


@dataclass(frozen=True)
class Layout:
    """Every thing within its box."""

    outside: float = 1.0
    """w."""
    share: float = 0.2
    """Of the places inside and outside that count."""
    boxes: tuple[Box, ...] = ()
    """Of the things, in order."""
    targets: ClassVar[Mapping[float, float]] = MappingProxyType({0.0: -math.inf, 0.2: -math.inf, 0.4: -math.inf})

    def __post_init__(self) -> None:
        require_number(self, 0, 10, "outside")
        require_number(self, 0, 1, "share")

    @property
    def compares(self) -> bool:
        """Never."""
        return False

    def __call__(
        self, maps: Float[Tensor, "l a b"], before: Float[Tensor, "l a b"] | None, groups: Sequence[Group]
    ) -> Float[Tensor, ""]:
        """See the module."""
        if len(groups) != len(self.boxes):
            raise ValueError(f"box: expected one for each of {len(groups)} things, got {len(self.boxes)}")
        energies: list[Tensor] = []
        for box, group in zip(self.boxes, groups, strict=True):
            inside = box.inside((maps.shape[1], maps.shape[2])).to(maps.device)
            within, beyond = maps[list(group.tokens)][:, inside], maps[list(group.tokens)][:, ~inside]
            energies += [-self._top(within), self.outside * self._top(beyond)]
        return torch.stack(energies).sum()

    def _top(self, values: Float[Tensor, "v p"]) -> Float[Tensor, ""]:
        """Sum over tokens of the mean of the largest; 0 of no places."""
        count = values.shape[1]
        return (
            values.topk(max(round(self.share * count), min(count, 1)), dim=1).values.mean(1).sum()
            if count
            else 0 * values.sum()
        )


def boxed_things(texts: Sequence[str]) -> tuple[str, tuple[Box, ...]]:
    """The things as `csd3d.attention.groups.groups_of` reads them, and their boxes, of settings such as
    "the ball=0.1,0.2,0.5,0.9". Raises ValueError for something else."""
    names, boxes = list[str](), list[Box]()
    for text in texts:
        name, equals, rest = text.rpartition("=")
        words = name.split()
        words = words[1:] if words and words[0].lower() in ARTICLES else words
        if not equals or not words:
            raise ValueError(f'box: expected "the ball=x0,y0,x1,y1", got {text!r}')
        names.append(" ".join(words))
        boxes.append(Box.of(rest, "box"))
    return " | ".join(names), tuple(boxes)
