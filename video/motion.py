"""Where the points of one frame are in another: optical flow, trusted where forward and backward flow agree.

    flow(p) = q - p                  what frame i shows at p is at q in frame j, in pixels (x, y)
    |flow_ij(p) + flow_ji(p + flow_ij(p))|^2 <= 0.01 (|flow_ij|^2 + |flow_ji|^2) + 0.5        (Sundaram et al., 2010)

The flow is OpenCV's DIS (Kroeger et al., 2016) on grey pictures. It is estimated on one thread, because its result
depends on their number and a seed must give the same clip on any machine.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from csd3d.media.geometry import WorkingSize, pixel_centres
from csd3d.media.pictures.levels import luma
from csd3d.metrics.warp import backward_warp

FLOW_PX = 256
"""Motion is estimated on frames whose shorter side is at most this, if the codec's unit allows: latents are coarser."""
FOLLOWED = 48
"""Frames over which motion is followed: further apart, flow is found by chance."""
_CACHE_BYTES = 1 << 28
_LEAST_PX = 16
"""Of the shorter side: on smaller frames OpenCV refuses, or ends the process."""
Move = tuple[Float[Tensor, "h w 2"], Float[Tensor, "h w"]]
"""How far the points of a frame are from their place in another, in latent pixels, and how sure that is."""
Matches = Callable[[int, int], tuple[Move, Move]]
"""From two frames to what is known of their points by other means than flow, there and back."""


class ClipMotion:
    """The motion of a clip as the engine's `Correspondences`, found for pairs of frames as they are asked for.

    Between frames of different shots, or further apart than `FOLLOWED`, no flow is trusted: they are coupled by the
    scalar kernel alone. Up to 256 MB of flows are cached.
    """

    def __init__(
        self, greys: Any, per_latent_px: int, shots: Sequence[int] | None = None, matches: Matches | None = None
    ) -> None:
        """Motion between the frames `greys`, a uint8 tensor or file of rows (n H W), each latent `per_latent_px` wide.

        `shots` says to which shot each frame belongs; None: all to one. `matches` counts within a shot where flow is
        not trusted for half of a latent.
        """
        self._greys, self._unit, self._matches = greys, per_latent_px, matches
        self._shots = list(shots) if shots is not None else [0] * len(greys)
        self._found: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._rows: Tensor | None = None

    def __call__(self, i: int, index: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n h w 2"], Float[Tensor, "n h w"]]:
        """Where the points of the frame at place `i` of `index` are in all of them, see the engine's protocol."""
        frames = index.tolist()
        rows = [self._pair(frames[i], j) for j in frames]
        return torch.stack([move for move, _ in rows]) + pixel_centres(*rows[0][0].shape[:2]), torch.stack(
            [v for _, v in rows]
        )

    def _pair(self, i: int, j: int) -> Move:
        """From frame i to frame j."""
        if (i, j) in self._found:
            self._found.move_to_end((i, j))
        elif i == j or not self.together(i, j) or (abs(i - j) > FOLLOWED and self._matches is None):
            return self._in_place(sure=i == j)
        else:
            there, back = self._between(i, j)
            self._keep((j, i), *back)
            self._keep((i, j), *there)
        assert self._rows is not None
        row = self._rows[self._found[i, j]].clone()
        return row[..., :2], row[..., 2]

    def _between(self, i: int, j: int) -> tuple[Move, Move]:
        """From frame i to frame j and back: flow, and matches where it is not trusted."""
        if abs(i - j) > FOLLOWED:
            ways = (self._in_place(sure=False), self._in_place(sure=False))
        else:
            there, back = self.pixels(i, j)
            ways = (to_latents(*there, self._unit), to_latents(*back, self._unit))
        if self._matches is None:
            return ways
        filled = [_filled(own, other) for own, other in zip(ways, self._matches(i, j), strict=True)]
        return filled[0], filled[1]

    def together(self, i: int, j: int) -> bool:
        """Whether two frames belong to one shot."""
        return self._shots[i] == self._shots[j]

    def pixels(self, i: int, j: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Flow (2 H W) at the size of the grey frames from i to j and from j to i, and where each can be trusted."""
        first, second = (self._greys[torch.tensor([k])][0].numpy() for k in (i, j))
        return both_ways(first, second)

    def _keep(self, pair: tuple[int, int], move: Float[Tensor, "h w 2"], sure: Float[Tensor, "h w"]) -> None:
        """In one block of memory, whose pages are taken as they are used: many small tensors would scatter the heap."""
        row = torch.cat([move, sure[..., None]], -1)
        if self._rows is None:
            self._rows = torch.empty(max(2, _CACHE_BYTES // row.nbytes), *row.shape)
        place = self._found.pop(pair, None)
        if place is None:
            full = len(self._found) == len(self._rows)
            place = self._found.popitem(last=False)[1] if full else len(self._found)
        self._rows[place], self._found[pair] = row, place

    def _in_place(self, *, sure: bool) -> Move:
        height, width = (side // self._unit for side in self._greys.shape[-2:])
        return torch.zeros(height, width, 2), torch.full((height, width), float(sure))


class ParticleMotion:
    """The motion of a clip between its particles: particle k shows frame `frames[k]`; satisfies `Correspondences`."""

    def __init__(self, motion: ClipMotion, frames: Sequence[int]) -> None:
        self._motion, self._frames = motion, torch.tensor(frames)

    def __call__(self, i: int, index: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n h w 2"], Float[Tensor, "n h w"]]:
        """See the engine's protocol."""
        return self._motion(i, self._frames[index.cpu()])


class Followed:
    """Motion that is known once the clip is decoded; until then no point is. Satisfies `Correspondences`."""

    def __init__(self) -> None:
        self.motion: ParticleMotion | None = None

    def __call__(self, i: int, index: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n h w 2"], Float[Tensor, "n h w"]]:
        """See the engine's protocol."""
        if self.motion is None:
            return torch.zeros(len(index), 1, 1, 2), torch.zeros(len(index), 1, 1)
        return self.motion(i, index)


def _filled(own: Move, other: Move) -> Move:
    """The first, and the second where that is not sure."""
    lost = (own[1] <= 0.5) & (other[1] > own[1])
    return torch.where(lost[..., None], other[0], own[0]), torch.where(lost, other[1], own[1])


def to_latents(flow: Float[Tensor, "2 H W"], sure: Bool[Tensor, "H W"], per_latent_px: int) -> Move:
    """Mean flow of the trusted pixels below each latent, in latent pixels, and what share of them is trusted."""
    share = avg_pool2d(sure[None].float(), per_latent_px)[0]
    mean = avg_pool2d(flow * sure, per_latent_px) / share.clamp_min(1e-6)
    return (mean / per_latent_px).permute(1, 2, 0).contiguous(), share


def flow_at(
    found: tuple[Float[Tensor, "2 _H _W"], Bool[Tensor, "_H _W"]], height: int, width: int
) -> tuple[Float[Tensor, "2 h w"], Bool[Tensor, "h w"]]:
    """Flow and where it is trusted at another size, in pixels of that size."""
    flow, sure = found
    if tuple(flow.shape[-2:]) == (height, width):
        return flow, sure
    scale = flow.new_tensor([width / flow.shape[-1], height / flow.shape[-2]]).view(2, 1, 1)
    flow = scale * interpolate(flow[None], (height, width), mode="bilinear")[0]
    return flow, interpolate(sure[None, None].float(), (height, width))[0, 0] > 0.5


def both_ways(
    first: UInt8[np.ndarray, "H W"], second: UInt8[np.ndarray, "H W"]
) -> tuple[tuple[Float[Tensor, "2 H W"], Bool[Tensor, "H W"]], tuple[Float[Tensor, "2 H W"], Bool[Tensor, "H W"]]]:
    """Flow from `first` to `second` and back, each with the pixels that come home within the picture."""
    if (scale := -(-_LEAST_PX // min(first.shape))) > 1:  # less has no patches: found on larger pixels
        large = (np.repeat(np.repeat(grey, scale, 0), scale, 1) for grey in (first, second))
        there, back = both_ways(*large)
        return flow_at(there, *first.shape), flow_at(back, *first.shape)
    with _one_thread():
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        found = [dis.calc(a, b, np.zeros((*a.shape, 2), np.float32)) for a, b in ((first, second), (second, first))]
    there, back = (torch.from_numpy(flow).permute(2, 0, 1).contiguous() for flow in found)
    return (there, comes_home(there, back)), (back, comes_home(back, there))


def comes_home(there: Float[Tensor, "2 H W"], back: Float[Tensor, "2 H W"]) -> Bool[Tensor, "H W"]:
    """The forward-backward check of the module's text."""
    returned, inside = backward_warp(back[None], there[None])
    astray = (there + returned[0]).square().sum(0)
    return inside[0] & (astray <= 0.01 * (there.square().sum(0) + returned[0].square().sum(0)) + 0.5)


def grey_px(size: WorkingSize, factor: int) -> int:
    """How many pixels of a grey frame lie along one latent: of the codec's `factor`, what keeps within `FLOW_PX`."""
    unit = factor
    while unit % 2 == 0 and unit > 1 and min(size.height_px, size.width_px) * unit // factor > FLOW_PX:
        unit //= 2
    return unit


def greys_at(rgb: Float[Tensor, "n 3 _H _W"], size: WorkingSize, factor: int) -> UInt8[Tensor, "n H W"]:
    """Frames at working size as grey frames."""
    return grey_levels(avg_pool2d(rgb, factor // grey_px(size, factor)))


def grey_levels(rgb: Float[Tensor, "n 3 H W"]) -> UInt8[Tensor, "n H W"]:
    """Luma (Rec. 709) of pictures in [0, 1], as bytes."""
    return (luma(rgb).clamp(0, 1) * 255).round().to(torch.uint8)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
