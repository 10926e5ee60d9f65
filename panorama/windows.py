"""Overlapping windows of one canvas as particles: what CSD-Edit moves is the canvas, seen through all its windows.

    G = sum_i a_i g_i / sum_i a_i        canvas <- canvas - lr m G

g_i  what window i descends along            a_i  how much it counts at each of its places
m    the mask, 1 where the canvas may move; with Adam, whose moves do not grow with G, of the move itself

A canvas has layers: a flat picture is one layer under many windows; a sphere is a layer for each perspective view, with
one window that is all of it. A window under several prompts is a particle for each, with the prompt's weight in a_i.

Where there are more windows than a step may hold, an epoch partitions them into batches (`rounds`), and the canvas
moves when the epoch ends: each place has moved as often and by as much as every other, at the borders as in the middle,
however few windows a step holds. Each step has a timestep of its own: where windows overlap, a move averages several,
which comes nearer to the truth than one for all. `random` (the published way): every step draws windows anew and moves
what they cover.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.epochs import Epochs, steps_in_epoch
from csd3d.engine.optimise import Moments, descend, first_moments
from csd3d.engine.types import Batch, Index, Latents
from panorama.spans import cover

Draw = Literal["rounds", "random"]
Settle = Callable[[Float[Tensor, "k c H W"]], Float[Tensor, "k c H W"]]


@dataclass(frozen=True, eq=False)
class Windows:
    """Where the particles are on a canvas [k c H W], all of one size."""

    layer: Int[Tensor, " n"]
    rows: Int[Tensor, "n h"]
    columns: Int[Tensor, "n w"]
    share: Float[Tensor, "n h w"]
    """a_i. Over all particles it sums to 1 at every place of the canvas."""
    prompt: Int[Tensor, " n"]
    """Number of the sentence that each particle follows."""

    def __len__(self) -> int:
        return len(self.layer)

    def unheld(self, sentences: Sequence[str]) -> list[str]:
        """What is said of sentences that no particle follows."""
        held = set(self.prompt.tolist())
        unheld = [text for number, text in enumerate(sentences) if number not in held]
        return [f"{text!r} holds nowhere: its region is empty, or all under others" for text in unheld]

    def select(self, index: Int[Tensor, " m"]) -> "Windows":
        """Those of number `index`."""
        parts = (self.layer, self.rows, self.columns, self.share, self.prompt)
        return Windows(*(part[index] for part in parts))

    def gather(self, canvas: Float[Tensor, "k c H W"]) -> Float[Tensor, "n c h w"]:
        """What they show of the canvas."""
        seen = canvas[self.layer[:, None, None], :, self.rows[:, :, None], self.columns[:, None, :]]
        return seen.permute(0, 3, 1, 2).contiguous()

    def scatter_add(self, canvas: Float[Tensor, "k c H W"], values: Float[Tensor, "n #c h w"]) -> None:
        """Add a_i times its values to each place of the canvas, in place, window after window."""
        for i in range(len(self)):
            rows, columns = self.rows[i][:, None], self.columns[i][None]
            canvas[int(self.layer[i])][:, rows, columns] += self.share[i] * values[i]


class WindowParticles:
    """A canvas of latents, moved through its windows; satisfies the engine's `Particles` and `Stateful`.

    The canvas lives on the CPU whatever the prior runs on: a step carries only its own windows to `device`.
    """

    def __init__(
        self,
        s: Float[Tensor, "k c H W"],
        windows: Windows,
        config: CsdConfig,
        *,
        budget: int,
        draw: Draw = "rounds",
        device: torch.device | str = "cpu",
        mask: Float[Tensor, "k 1 H W"] | None = None,
        settle: Settle | None = None,
        settle_every: int = 10,
    ) -> None:
        """Start at the sources `s`.

        Args:
            s: the source canvas.
            windows: they cover it.
            config: which optimiser.
            budget: most windows in a step.
            draw: how the batches of an epoch are drawn.
            device: of the batches.
            mask: in [0, 1], how far each place may move.
            settle: brings layers that show the same things to agree, after every `settle_every` moves.
            settle_every: moves.
        """
        self.s = s.detach().cpu().contiguous()
        self.z = self.s.clone()
        self._windows, self._budget, self._device = windows, budget, torch.device(device)
        self._draw: Draw = draw
        self._mask = mask
        self._settle, self._settle_every = settle, settle_every
        self._moments = first_moments(self.z, config.optimizer)
        self._gradient = torch.zeros_like(self.z)
        self._cover = torch.zeros_like(self.z[:, :1]) if draw == "random" else None
        self._epochs = Epochs(self._partition)
        self._moves = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps for one move of the canvas."""
        return steps_in_epoch(len(self._windows), self._budget) if self._draw == "rounds" else 1

    def draw(self, rng: torch.Generator) -> Batch:
        """The next batch of windows."""
        index = self._epochs.batch(rng)
        some = self._windows.select(index)
        z, s = (some.gather(x).to(self._device) for x in (self.z, self.s))
        return Batch(z, s, index)

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        """Collect the windows' directions; at the end of the epoch, move the canvas along their average."""
        some = self._windows.select(index)
        some.scatter_add(self._gradient, g.cpu())
        if self._cover is not None:
            some.scatter_add(self._cover, torch.ones_like(g[:, :1]).cpu())
        if self._epochs.exhausted:
            self._move(lr)

    def state_dict(self) -> dict[str, Any]:
        """Canvas, what was collected, the batches left in the epoch and the moments, as tensors by name."""
        state: dict[str, Any] = {"z": self.z, "gradient": self._gradient, "moves": torch.tensor(self._moves)}
        state |= self._epochs.state_dict()
        if self._cover is not None:
            state["cover"] = self._cover
        if self._moments is not None:
            state |= {"mean": self._moments.mean, "square": self._moments.square}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`.

        Raises:
            ValueError: the state is of another picture or other settings.
        """
        expected = set(self.state_dict())
        if set(state) != expected or state["z"].shape != self.z.shape:
            shape = tuple(state["z"].shape) if "z" in state else "none"
            wanted = f"{sorted(expected)} for a canvas {tuple(self.z.shape)}"
            raise ValueError(f"state: expected {wanted}, got {sorted(state)} for {shape}")
        self.z.copy_(state["z"])
        self._gradient.copy_(state["gradient"])
        if self._cover is not None:
            self._cover.copy_(state["cover"])
        self._moves = int(state["moves"])
        self._epochs.load_state_dict(state)
        if self._moments is not None:
            steps = torch.full((len(self.z),), self._moves)
            self._moments = Moments(state["mean"].clone(), state["square"].clone(), steps)

    def _partition(self, rng: torch.Generator) -> list[Tensor]:
        order = torch.randperm(len(self._windows), generator=rng)
        if self._draw == "random":
            return [order[: self._budget].sort().values]
        batches = torch.tensor_split(order, self.steps_per_epoch)
        return [batch.sort().values for batch in batches]

    def _move(self, lr: float) -> None:
        g, m = self._gradient, self._mask
        if self._cover is not None:
            covered = self._cover > 0
            g = torch.where(covered, g / self._cover.clamp_min(1e-12), 0.0)
            m = covered.to(g) if m is None else m * covered
            self._cover.zero_()
        moved, self._moments = descend(self.z, g, self._moments, lr=lr)
        self.z = moved if m is None else torch.lerp(self.z, moved, m.expand_as(moved))
        self._gradient.zero_()
        self._moves += 1
        if self._settle is not None and self._moves % self._settle_every == 0:
            settled = self._settle(self.z).cpu()
            self.z.copy_(settled if self._mask is None else torch.lerp(self.z, settled, self._mask.expand_as(settled)))


def make_windows(count: int, size_lat: tuple[int, int], window_lat: int, *, wrap: bool) -> Windows:
    """Windows that cover `count` layers of a canvas, half a window apart where one is not enough.

    Args:
        size_lat: height and width of a layer.
        window_lat: longest side of a window.
        wrap: layers are closed from right to left.
    """
    stride = max(1, window_lat // 2)
    rows = cover(size_lat[0], window_lat, stride)
    columns = cover(size_lat[1], window_lat, stride, wraps=wrap)
    fade = [spans.shares(torch.arange(spans.length) + 0.5, ramp=spans.size / 2).float() for spans in (rows, columns)]
    order = [(k, i, j) for k in range(count) for i in range(len(rows.starts)) for j in range(len(columns.starts))]
    k, i, j = torch.tensor(order).T
    ys, xs = rows.cells()[i], columns.cells()[j]
    share = fade[0][i[:, None], ys][:, :, None] * fade[1][j[:, None], xs][:, None, :]
    return Windows(k, ys, xs, share, torch.zeros_like(k))
