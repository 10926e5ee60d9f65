"""How much an edit changed, and whether that is what a sentence of its kind should.

    d(p) = max over channels |edited(p) - source(p)|, averaged over squares of a picture of `SIDE_PX`
    share = share of the squares with d > VISIBLE          peak = the d that a hundredth of the squares exceed

`USUAL` has what the exact edits of the sample world do, by kind of edit: the peak that 99 of 100 reach, and the share
that 95 of 100 keep to (`scripts/measure_change.py` makes it). On a photograph, where no truth is known, an edit of a
single thing that changes more of the picture than those is likely to have damaged it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

VISIBLE = 0.06
"""A change of a channel, of [0, 1], that is seen."""
SIDE_PX = 64
"""Shorter side in squares."""
UNSEEN = 0.5
"""Less than so much of the weakest right edit's peak counts as nothing."""


@dataclass(frozen=True)
class Usual:
    """What right edits of a kind do."""

    peak: float
    """That 99 of 100 reach."""
    share: float
    """That 95 of 100 keep to."""


USUAL = {
    "colour": Usual(0.10, 0.14),
    "material": Usual(0.10, 0.13),
    "shape": Usual(0.09, 0.18),
    "remove": Usual(0.10, 0.17),
    "add": Usual(0.22, 0.03),
    "time": Usual(0.22, 1.00),
    "weather": Usual(0.08, 1.00),
    "ground": Usual(0.08, 0.63),
    "sky": Usual(0.19, 0.45),
    "style": Usual(0.16, 1.00),
}
FAR = 5.0
"""A move of latents, whose spread is about 1, that leaves all that a prior knows."""
GROWN = 3.0
"""So many times as large as those of pictures latents are of none."""
OF_THINGS = frozenset({"colour", "material", "shape", "remove", "add"})
"""Kinds whose share says whether too much was changed. Sky and ground take as much of a picture as they do."""


@dataclass(frozen=True)
class Change:
    """What an edit did."""

    share: float
    """Of the picture, in [0, 1], that visibly changed."""
    peak: float
    """How much the hundredth that changed most did, of [0, 1]."""


def change_of(
    source: Float[Tensor, "n 3 H W"], edited: Float[Tensor, "n 3 H W"], where: Float[Tensor, "n 1 H W"] | None = None
) -> Change:
    """The change of pictures in [0, 1], that of the one that changed most.

    `where` says how much of the edit is shown at each place: what is mostly hidden (a half) does not count.
    """
    scale = min(1.0, SIDE_PX / min(source.shape[-2:]))
    size = [max(1, round(side * scale)) for side in source.shape[-2:]]
    small = [interpolate(rgb.float(), size, mode="area") for rgb in (source, edited)]
    d = (small[1] - small[0]).abs().amax(1)
    shown = torch.ones_like(d) if where is None else interpolate(where.float(), size, mode="area")[:, 0]
    peaks = [float(one[at >= min(0.5, float(at.max()))].quantile(0.99)) for one, at in zip(d, shown, strict=True)]
    return Change(float((d > VISIBLE).float().mean((1, 2)).max()), max(peaks))


def move_note(move: float, lr: float) -> str | None:
    """What a person should know, as soon as it happens, of a move by `move` (root mean square over latents) in one step
    at a learning rate; None where it is as usual."""
    if not move > FAR:
        return None
    return (
        f"one step moved the latents by more than {FAR:g} times their spread: --lr {lr:g}, or the guidance, is far too "
        "large, and what comes out will be noise; it can be stopped (ctrl+c) and begun with less"
    )


def distance_note(distance: float) -> str | None:
    """What a person should know of a network in training whose results are so far from their sources (root mean square
    over latents, whose spread is about 1); None where that is as usual."""
    if not distance > GROWN:
        return None
    return (
        f"the network's results are more than {GROWN:g} times the spread of latents away from their sources: --lr, or "
        "the guidance, is far too large, and it will make noise; it can be stopped (ctrl+c) and begun with less"
    )


def growth_note(z: Float[Tensor, "n c h w"], s: Float[Tensor, "n c h w"] | None) -> str | None:
    """What a person should know of latents `z` that outgrew those of their sources (None: there are none)."""
    size, own = (1.0 if x is None else float(x.float().square().mean().sqrt()) for x in (z, s))
    if not size > GROWN * max(own, 1.0):
        return None
    return (
        f"the latents grew to {size / max(own, 1.0):.3g} times those of pictures, so the result is mostly noise; a "
        "smaller --lr or --s-text, or fewer --steps help"
    )


def change_note(change: Change, sentences: Sequence[str], kinds: Sequence[str]) -> str | None:
    """What a person should know of a change by sentences of these kinds (none: of which nothing is known); None where
    it is as usual."""
    usual = [USUAL[kind] for kind in kinds if kind in USUAL]
    peak = min(known.peak for known in usual or USUAL.values())
    asked = ", ".join(map(repr, sentences))
    if change.peak < UNSEEN * peak:
        levels = f"{255 * change.peak:.1f} levels of 255"
        return (
            f"{asked} edited next to nothing: what changed most changed by {levels}; more --steps or --s-text may help"
        )
    most = max((known.share for known in usual), default=1.0)
    if kinds and OF_THINGS.issuperset(kinds) and change.share > most:
        return (
            f"{asked} changed {change.share:.0%} of the picture; of such edits of sample pictures 95 % change at most "
            f"{most:.0%}: what should have stayed may be damaged; a mask keeps it"
        )
    return None
