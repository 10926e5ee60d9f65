"""A record of the steps of a run: numbers for its curves, and gradients of a few particles for its picture.

A particle's first updates change it most, and a single gradient is mostly the noise that was drawn. So gradients are
summed over stretches of updates that double: 1, 2-3, 4-7, 8-15, ... The record thus grows with the logarithm of the
number of updates, and depends on nothing but the steps that were done, however often the run was stopped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from csd3d.engine.loop import StepInfo
from csd3d.engine.step import StepResult
from csd3d.engine.types import Batch
from csd3d.media.sheet import contact_sheet, evenly
from csd3d.runs.curves import Curve

PARTICLES = 3
"""Particles whose gradients are recorded: the first, a middle one and the last."""
SHOWN = 5
"""Most stretches in a row of the picture."""
CAPTION = (
    "Where the edit changes a particle: the picture, then the length of the gradient over the latent channels, from "
    "black (none) to white (the largest in that map). A map is the mean gradient over the updates named; that of a "
    "single update is mostly noise."
)
Show = Callable[[int], tuple[str, Float[Tensor, "1 c h w"]]]
"""A particle's number to its name and its latent."""
_CELL_PX, _LATENTS = 160, 64
_NUMBERS = ("t", "lr", "gradient_rms", "residual_rms", "kernel_mean", "edit_rms")
_OPTIONAL = ("kernel_mean", "edit_rms")


class StepLog:
    """The steps of a run over all its sessions."""

    def __init__(self, count: int) -> None:
        """Nothing yet, of `count` particles."""
        self.count = count
        self.infos: list[StepInfo] = []
        self._updates = dict.fromkeys(evenly(count, PARTICLES), 0)
        self._sums: dict[int, list[Tensor]] = {i: [] for i in self._updates}

    @property
    def done(self) -> int:
        """Steps that are finished."""
        return len(self.infos)

    def watch(self, batch: Batch, result: StepResult) -> None:
        """Take up the gradients of a step; the engine's loop calls it."""
        for i in self._updates:
            at = (batch.index == i).nonzero().flatten()
            if not len(at):
                continue
            g = result.g[at[0]].detach().to("cpu", torch.float32)
            self._updates[i] += 1
            if self._updates[i].bit_length() > len(self._sums[i]):
                self._sums[i].append(torch.zeros_like(g))
            if self._sums[i][-1].shape != g.shape:  # of a state of something else
                raise ValueError(f"state: expected gradients {tuple(g.shape)}, got {tuple(self._sums[i][-1].shape)}")
            self._sums[i][-1] += g

    def add(self, info: StepInfo) -> None:
        """Take up the numbers of a step."""
        self.infos.append(replace(info, index=()))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything, as tensors by name."""
        rows = [[_as_float(getattr(info, name)) for name in _NUMBERS] for info in self.infos]
        curves = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(_NUMBERS))
        sums = {f"gradient.{i}": torch.stack(own) for i, own in self._sums.items() if own}
        return {"curves": curves, "updates": torch.tensor(list(self._updates.values())), **sums}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state of `state_dict`, of as many particles. Raises ValueError or KeyError for another."""
        rows = state["curves"].tolist()
        # runs of before have fewer numbers a step
        self.infos = [_as_info(i, dict(zip(_NUMBERS, row, strict=False))) for i, row in enumerate(rows)]
        self._updates = dict(zip(self._updates, map(int, state["updates"].tolist()), strict=True))
        self._sums = {i: _spans(state[f"gradient.{i}"], count) if count else [] for i, count in self._updates.items()}

    def curves(self) -> list[Curve]:
        """The charts of a report."""
        infos = self.infos
        charts = (
            Curve("Gradient", [i.gradient_rms for i in infos], log=True, hint="root mean square of the direction"),
            Curve(
                "Residual",
                [i.residual_rms for i in infos],
                log=True,
                hint="direction of each particle before the coupling",
            ),
            Curve(
                "Kernel weight",
                [_as_float(i.kernel_mean) for i in infos],
                hint="mean weight between two particles; 1 = all move as one",
            ),
            Curve("Edit", [_as_float(i.edit_rms) for i in infos], hint="root mean square distance from the sources"),
            Curve("Learning rate", [i.lr for i in infos]),
        )
        return [chart for chart in charts if any(v == v for v in chart.values)]

    def picture(self, show: Show, decode: Callable[[Tensor], Tensor]) -> Image.Image | None:
        """A row for each particle: a small picture of it, then maps of its gradient; none if nothing moved.

        `decode` makes pixels in [0, 1] of latents.
        """
        rows: dict[str, Tensor] = {}
        for i, count in self._updates.items():
            if not count:
                continue
            name, z = show(i)
            thumbnail = decode(_within(z, _LATENTS)).detach().float().cpu()
            thumbnail = interpolate(thumbnail, _side(z.shape[-2:], _CELL_PX), mode="bilinear", antialias=True)
            spans = [(2**k, min(2 ** (k + 1) - 1, count)) for k in evenly(len(self._sums[i]), SHOWN)]
            means = [self._sums[i][first.bit_length() - 1] / (last - first + 1) for first, last in spans]
            maps = interpolate(heat(torch.stack(means)), thumbnail.shape[-2:], mode="area")
            named = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)
            rows[f"{name}, updates {named}"] = torch.cat([thumbnail, maps])
        return contact_sheet(rows, cell_px=_CELL_PX) if rows else None


def _spans(sums: Float[Tensor, "k c h w"], count: int) -> list[Tensor]:
    """The sums over each span of `count` updates. Raises ValueError for another number of them."""
    if sums.ndim != 4 or len(sums) != count.bit_length():
        raise ValueError(f"gradients {tuple(sums.shape)} of {count} updates")
    return list(sums.clone())


def heat(g: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 h w"]:
    """Length over channels as the colours of hot iron: black for none, red, yellow, white for the most of a picture."""
    length = g.norm(dim=1, keepdim=True)
    share = length / length.amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return (3 * share - torch.tensor([0.0, 1.0, 2.0])[:, None, None]).clamp(0, 1)


def _side(size: Sequence[int], longest: int) -> tuple[int, int]:
    """Height and width of the same shape whose longer side is `longest`."""
    height, width = (max(round(side * longest / max(size)), 1) for side in size)
    return height, width


def _within(z: Float[Tensor, "1 c h w"], longest: int) -> Float[Tensor, "1 c _h _w"]:
    """`z`, made smaller if a side is longer: enough for a small picture, and cheap to decode. Sides become even, as
    those of codecs that read patches of 2 x 2."""
    if max(z.shape[-2:]) <= longest:
        return z
    size = [side + side % 2 for side in _side(z.shape[-2:], longest)]
    return interpolate(z, size, mode="area")


def _as_float(value: float | int | None) -> float:
    return float("nan") if value is None else float(value)


def _as_info(step: int, row: Mapping[str, float]) -> StepInfo:
    optional = {name: None if row[name] != row[name] else row[name] for name in _OPTIONAL if name in row}
    numbers = {**row, **optional, "t": int(row["t"])}
    # the names are those of its fields
    return StepInfo(step=step, index=(), **numbers)  # pyright: ignore[reportArgumentType]
