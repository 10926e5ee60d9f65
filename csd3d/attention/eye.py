"""Eye-for-an-Eye (Go et al. 2024) along correspondences that are known: the same look at the same point.

    h_i(p) <- h_a(p')        where the point that particle i shows at p is at p' in anchor a, and that is trusted

h is what enters a self-attention of the decoder at level 0 or 1, from which queries, keys and values are made. Of
several anchors that know a point the one with the nearest number counts; where none does, and in anchors, h stays its
own. The paper takes p' from the most similar features of a reference; here points are followed as they move.

Anchors are predicted first, each for itself, and leave h, as those that are shared do (`csd3d.attention.attended`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from csd3d.attention.bank import Bank
from csd3d.attention.control import Control, Enter
from csd3d.attention.rows import Rows
from csd3d.attention.score import Controllable
from csd3d.attention.sites import Site, choose
from csd3d.engine.transport import Correspondences
from csd3d.engine.validate import require_number


@dataclass(frozen=True)
class EyeForEye:
    """Hidden states of anchors along motion; a `Composition` whose part is done by `AttendedScore`."""

    sees_sources: ClassVar[bool] = False

    after: float = 0.1
    """Share of the timesteps, from noise, in which particles keep their own."""
    until: float = 0.7
    """Share of the timesteps, from noise, after which they do so again."""
    correspondences: Correspondences | None = None
    """Where points of particles are in each other."""

    def __post_init__(self) -> None:
        require_number(self, 0, 1, "after", "until")

    def require(self, score: Controllable) -> None:
        """Motion must be known, and the decoder must have self-attentions there."""
        if self.correspondences is None:
            raise ValueError("eye: expected frames of a clip, whose motion is followed, got something else")
        if not self._sites(score):
            raise ValueError("eye: expected self-attentions in the decoder at levels 0 and 1, got none")

    def leave(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Nothing."""
        return ()

    def take(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Nothing: anchors leave something first."""
        return ()

    def acts(self, score: Controllable, t: int) -> tuple[Site, ...]:
        """Where it acts at timestep `t`."""
        left = t / score.schedule.num_timesteps
        return self._sites(score) if 1 - self.until <= left and (left < 1 - self.after or self.after == 0) else ()

    def rearranged(self, left: Bank, anchors: Sequence[int]) -> Enter:
        """h of rows, from what anchors have left."""
        found: dict[int, tuple[Tensor, Tensor]] = {}

        def enter(site: Site, rows: Rows, h: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
            changed = list(h)
            for row, (branch, i) in enumerate(zip(rows.branch, rows.particle, strict=True)):
                if i in anchors:
                    continue
                near = sorted(anchors, key=lambda a: (-abs(a - i), -a))  # the nearest last, which counts
                if i not in found:
                    assert self.correspondences is not None  # as it was required
                    found[i] = self.correspondences(0, torch.tensor([i, *near]))
                places, known = at_size(*found[i], site.size(rows.size_lat))
                (theirs,) = left.read(site, rows.role, [branch] * len(near), near)
                for k in range(len(near)):
                    moved = theirs[k][places[k + 1].to(h.device)]
                    changed[row] = torch.where(known[k + 1].to(h.device)[:, None], moved, changed[row])
            return torch.stack(changed)

        return enter

    def _sites(self, score: Controllable) -> tuple[Site, ...]:
        return choose(score.sites, kind="self", places=("up",), levels=(0, 1))


def at_size(
    position: Float[Tensor, "k h w 2"], v: Float[Tensor, "k h w"], size: tuple[int, int]
) -> tuple[Int[Tensor, "k n"], Bool[Tensor, "k n"]]:
    """Numbers of the places of maps of `size` where points are, and whether that is known; positions are in latents.

    Where a place holds several latents, it moves as those of them do on the average whose points are known.
    """
    (height, width), (rows, columns) = position.shape[1:3], size
    v = torch.where(position.isfinite().all(3), v, 0.0)[:, None]
    move = (position.nan_to_num(0.0, 0.0, 0.0) - _middles(height, width).to(position)).permute(0, 3, 1, 2)
    share = interpolate(v, size, mode="area")
    scale = move.new_tensor([columns / width, rows / height]).view(2, 1, 1)
    mean = scale * interpolate(v * move, size, mode="area") / share.clamp_min(1e-6)
    x, y = (mean + _middles(rows, columns).to(mean).permute(2, 0, 1)).unbind(1)
    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    known = inside & (share[:, 0] > 0.5)
    places = y.clamp(0, rows - 1).long() * columns + x.clamp(0, columns - 1).long()
    return places.flatten(1), known.flatten(1)


def _middles(rows: int, columns: int) -> Float[Tensor, "rows columns 2"]:
    """x, y of the middles of places."""
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    return torch.stack([x, y], -1)


def leaving_hidden(bank: Bank) -> Enter:
    """Leaves h in `bank`, changes nothing."""

    def enter(site: Site, rows: Rows, h: Tensor) -> Tensor:
        bank.write(site, rows, h)
        return h

    return enter
