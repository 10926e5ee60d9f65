"""Decoded frames averaged along their motion: the coupling of `csd3d.engine.transport`, once more, where codecs err.

    D_i(p) = sum_j v_ij(p) y_j(p + flow_ij(p)) / sum_j v_ij(p)        j from i - 4 to i + 4, in the same shot

y_j is what the codec decodes of frame j. What it gets wrong differs from frame to frame and shows as trembling even
where latents agree. Edited and unedited frames are averaged alike, so whatever detail this loses is what
`csd3d.media.detail` puts back, and an unedited clip still comes back as it was.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.metrics.warp import backward_warp
from video.motion import ClipMotion, flow_at

REACH = 4
"""Frames to either side that take part."""


class SteadyFrames:
    """Averaged frames in order, each decoded once; memory is that of a chunk and its neighbours at working size."""

    def __init__(self, decode: Callable[[range], Float[Tensor, "_n k h w"]], motion: ClipMotion, frames: int) -> None:
        """`decode` gives some frames of a clip of `frames` in all."""
        self._decode, self._motion, self._frames = decode, motion, frames
        self._near: dict[int, Tensor] = {}
        self._flows: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, frames: range) -> Float[Tensor, "_n k h w"]:
        """The averages of neighbouring frames; asked for in order of time."""
        first, last = max(frames.start - REACH, 0), min(frames.stop + REACH, self._frames)
        self._near = {i: y for i, y in self._near.items() if i >= first}
        self._flows = {pair: found for pair, found in self._flows.items() if min(pair) >= first}
        missing = [i for i in range(first, last) if i not in self._near]
        for k in range(0, len(missing), len(frames)):
            part = missing[k : k + len(frames)]
            self._near.update(zip(part, self._decode(range(part[0], part[-1] + 1)), strict=True))
        return torch.stack([self._average(i) for i in frames])

    def _average(self, i: int) -> Float[Tensor, "k h w"]:
        total, count = self._near[i].clone(), torch.ones_like(self._near[i][:1])
        for j in range(max(i - REACH, 0), min(i + REACH + 1, self._frames)):
            if j == i or not self._motion.together(i, j):
                continue
            flow, sure = self._flow(i, j)
            warped, inside = backward_warp(self._near[j][None], flow[None])
            seen = (sure & inside[0]).to(total)
            total += seen * warped[0]
            count += seen
        return total / count

    def _flow(self, i: int, j: int) -> tuple[Float[Tensor, "2 h w"], Tensor]:
        """Flow at the size of the decoded frames."""
        if (i, j) not in self._flows:
            height, width = self._near[i].shape[-2:]
            for pair, found in zip(((i, j), (j, i)), self._motion.pixels(i, j), strict=True):
                self._flows[pair] = flow_at(found, height, width)
        return self._flows[i, j]
