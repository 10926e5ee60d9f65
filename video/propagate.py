"""A few edited frames carried to all others along their motion: the quick way, and what key frames are for.

    D_i(p) = sum_k a_ik v_ik(p) y_k(p + flow_ik(p)) / sum_k a_ik v_ik(p)      k: the key frames around frame i

y_k      what the codec decodes of key frame k
flow_ik  flows of frame to next frame, one after the other: flow_ik(p) = flow_ij(p) + flow_jk(p + flow_ij(p))
v_ik     1 where every one of them comes home (see `video.motion`), else a little: pixels that no key frame shows take
         what the flow leads to all the same
a_ik     falls evenly from 1 at k to 0 at the other key frame; there is none across a cut

Edited and unedited key frames are carried alike. Where the flow is wrong both are wrong together, and what
`csd3d.media.detail` puts back is the true frame, changed as the edit changes what is around it.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csd3d.metrics.warp import backward_warp
from video.motion import ClipMotion, flow_at

LONGEST = 250
"""Frames between two key frames, at most: their flows are held, and further away flow says nothing."""
_UNSURE = 1e-3

PixelPath = tuple[Float[Tensor, "2 H W"], Bool[Tensor, "H W"]]
"""Flow from a frame to a key frame, and where it can be trusted."""


def key_frames(shots: Sequence[int], count: int) -> list[int]:
    """About `count` frames, at least one a shot, each in the middle of an equal part of its shot.

    `shots` says to which shot each frame belongs. Longer shots get more, and as many as `LONGEST` asks for.

    Raises:
        ValueError: fewer than the clip would need if it were one shot.
    """
    if count < (least := _least(len(shots))):
        raise ValueError(f"keyframes: expected at least {least} for {len(shots)} frames, got {count}")
    keys: list[int] = []
    for shot in dict.fromkeys(shots):
        first, length = shots.index(shot), shots.count(shot)
        own = min(max(round(count * length / len(shots)), _least(length)), length)
        keys += [first + (2 * k + 1) * length // (2 * own) for k in range(own)]
    return keys


def _least(length: int) -> int:
    """Key frames with which no frame of a shot is more than `LONGEST` from one, nor two of them from each other."""
    return 1 if length <= 2 * LONGEST else -(-length // LONGEST)


class CarriedFrames:
    """All frames in order, from the key frames; memory is that of two key frames and the flows between them."""

    def __init__(
        self, decode: Callable[[int], Float[Tensor, "k h w"]], motion: ClipMotion, keys: Sequence[int]
    ) -> None:
        """`decode` gives the key frame that has one of the numbers in `keys`."""
        self._decode, self._motion, self._keys = decode, motion, sorted(keys)
        self._pictures: dict[int, Tensor] = {}
        self._ahead: dict[int, PixelPath] = {}
        self._behind: tuple[int, int, PixelPath] | None = None

    def __call__(self, frames: range) -> Float[Tensor, "_n k h w"]:
        """The pictures of neighbouring frames; asked for in order of time."""
        return torch.stack([self._frame(i) for i in frames])

    def _frame(self, i: int) -> Float[Tensor, "k h w"]:
        before, after = self._around(i)
        self._pictures = {k: y for k, y in self._pictures.items() if k in (before, after)}
        if before == i:
            return self._picture(i)
        paths = {}
        if before is not None:
            paths[before] = self._from_before(i, before)
        if after is not None:
            paths[after] = self._from_after(i, after)
        total, weights = torch.zeros(()), torch.zeros(())
        for key, path in paths.items():
            y = self._picture(key)
            flow, sure = flow_at(path, y.shape[-2], y.shape[-1])
            warped, inside = backward_warp(y[None], flow[None])
            near = 1 - abs(i - key) / sum(abs(i - k) for k in paths) if len(paths) > 1 else 1.0
            weight = near * ((sure & inside[0]).to(y) + _UNSURE)
            total, weights = total + weight * warped[0], weights + weight
        return total / weights

    def _around(self, i: int) -> tuple[int | None, int | None]:
        """The key frames before (or at) and after frame i, within its shot."""
        place = bisect_right(self._keys, i)
        near = (self._keys[place - 1] if place else None, self._keys[place] if place < len(self._keys) else None)
        before, after = (k if k is not None and self._motion.together(i, k) else None for k in near)
        return before, after

    def _picture(self, key: int) -> Float[Tensor, "k h w"]:
        if key not in self._pictures:
            self._pictures[key] = self._decode(key)
        return self._pictures[key]

    def _from_before(self, i: int, key: int) -> PixelPath:
        """The path of frame i, from that of the frame before it."""
        if self._behind is None or self._behind[:2] != (key, i - 1):
            self._behind = (key, key, self._nowhere(key))
            for j in range(key + 1, i):
                self._behind = (key, j, longer(self._step(j, j - 1), self._behind[2]))
        path = longer(self._step(i, i - 1), self._behind[2])
        self._behind = (key, i, path)
        return path

    def _from_after(self, i: int, key: int) -> PixelPath:
        """The path of frame i; those of all frames up to the key frame are found together, back from it."""
        if i not in self._ahead:
            path, self._ahead = self._nowhere(key), {}
            for j in range(key - 1, i - 1, -1):
                path = longer(self._step(j, j + 1), path)
                self._ahead[j] = (path[0].half(), path[1])
        flow, sure = self._ahead.pop(i)
        return flow.float(), sure

    def _step(self, i: int, j: int) -> PixelPath:
        return self._motion.pixels(i, j)[0]

    def _nowhere(self, key: int) -> PixelPath:
        flow, sure = self._step(key, key)
        return torch.zeros_like(flow), torch.ones_like(sure)


def longer(step: PixelPath, path: PixelPath) -> PixelPath:
    """flow_ik from flow_ij (`step`) and flow_jk (`path`), trusted where both are."""
    (flow, sure), (onward, onward_sure) = step, path
    found, inside = backward_warp(torch.cat([onward, onward_sure[None].to(onward)])[None], flow[None])
    return flow + found[0, :2], sure & inside[0] & (found[0, 2] > 0.5)
