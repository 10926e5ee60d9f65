"""Decoded frames averaged along their motion: the coupling of `csd3d.engine.transport`, once more, where codecs err.

    D_i(p) = sum_k w_ik sum_j v_ij(p) y_jk(p + flow_ij(p)) / sum_j v_ij(p)      j from i - 4 to i + 4, in the same shot

y_jk is what the codec decodes of frame j under sentence k, and w_ik how much that sentence counts in frame i (`Plan`).
What the codec gets wrong differs from frame to frame and shows as trembling even where latents agree. Only what is
under one sentence is averaged, and sentences are mixed after that: across a fade or the end of an edit, an average of
frames would be one of different pictures, with hard borders where the flow ceases to be trusted. Edited and unedited
frames are averaged alike, so whatever detail this loses is what `csd3d.media.detail` puts back, and an unedited clip
still comes back as it was.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.metrics.warp import backward_warp
from video.motion import ClipMotion, flow_at
from video.plan import Plan

REACH = 4
"""Frames to either side that take part."""


class SteadyFrames:
    """Averaged frames in order, each particle decoded once; memory is that of a chunk and its neighbours at working
    size."""

    def __init__(
        self, decode: Callable[[slice], Float[Tensor, "_n k h w"]], plan: Plan, motion: ClipMotion | None
    ) -> None:
        """`decode` gives some particles of a plan that has blend weights. Without `motion` nothing is averaged."""
        self._decode, self._plan, self._motion = decode, plan, motion
        self._reach = 0 if motion is None else REACH
        self._near: dict[int, Tensor] = {}
        self._flows: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, frames: range) -> Float[Tensor, "_n k h w"]:
        """The averages of neighbouring frames; asked for in order of time."""
        shares = self._plan.blend_weights
        first, last = max(frames.start - self._reach, 0), min(frames.stop + self._reach, len(shares))
        wanted = range(shares[first][0][0], shares[last - 1][-1][0] + 1)
        self._near = {p: y for p, y in self._near.items() if p >= wanted.start}
        self._flows = {pair: found for pair, found in self._flows.items() if min(pair) >= first}
        missing = [p for p in wanted if p not in self._near]
        for k in range(0, len(missing), len(frames)):
            part = missing[k : k + len(frames)]
            self._near.update(zip(part, self._decode(slice(part[0], part[-1] + 1)), strict=True))
        return torch.stack([self._mixed(i) for i in frames])

    def _mixed(self, i: int) -> Float[Tensor, "k h w"]:
        """What frame i is made of, added up."""
        (first, weight), *others = self._plan.blend_weights[i]
        total = weight * self._average(i, first)
        for particle, weight in others:
            total += weight * self._average(i, particle)
        return total

    def _average(self, i: int, particle: int) -> Float[Tensor, "k h w"]:
        """Of a particle of frame i and those of its neighbours that are under the same sentence."""
        total, count = self._near[particle].clone(), torch.ones_like(self._near[particle][:1])
        for j in range(max(i - self._reach, 0), min(i + self._reach + 1, len(self._plan.blend_weights))):
            other = self._under_same(particle, j)
            if j == i or other is None or self._motion is None or not self._motion.together(i, j):
                continue
            flow, sure = self._flow(self._motion, i, j, (total.shape[-2], total.shape[-1]))
            warped, inside = backward_warp(self._near[other][None], flow[None])
            seen = (sure & inside[0]).to(total)
            total += seen * warped[0]
            count += seen
        return total / count

    def _under_same(self, particle: int, frame: int) -> int | None:
        """The particle of `frame` under the sentence of `particle`, if there is one."""
        of = self._plan.prompt_index
        return next((q for q, _ in self._plan.blend_weights[frame] if of[q] == of[particle]), None)

    def _flow(self, motion: ClipMotion, i: int, j: int, size: tuple[int, int]) -> tuple[Float[Tensor, "2 h w"], Tensor]:
        """Flow at the size of the decoded frames."""
        if (i, j) not in self._flows:
            for pair, found in zip(((i, j), (j, i)), motion.pixels(i, j), strict=True):
                self._flows[pair] = flow_at(found, *size)
        return self._flows[i, j]
