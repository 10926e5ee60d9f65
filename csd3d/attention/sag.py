"""Self-Attention Guidance (Hong et al. 2023): away from what the network would say if what it looks at were blurred.

    e <- e + s (e_b(x_t) - e_b(x^_t))

    e     guided prediction          e_b   of one branch: the one without a condition, or the only one that is predicted
    x^_t  x0^ of e_b, blurred where M = 1, at level t again with the same e_b
    M     upsampled [sum over queries of the mean over heads of A > 1]: places that are looked at more than the average,
          in the self-attention of the bottleneck

The blur is a Gaussian of 9 x 9 latents at most. Each step costs one more row a particle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from csd3d.attention.bank import Bank
from csd3d.attention.control import Control
from csd3d.attention.rows import Rows
from csd3d.attention.score import Controllable
from csd3d.attention.sites import Site, choose
from csd3d.engine.ddim import clean, ddim_step
from csd3d.engine.types import Latents, Noised, numbers
from csd3d.engine.validate import require, require_number

RADIUS = 4
"""Latents to each side over which is blurred."""


@dataclass(frozen=True)
class SelfAttentionGuidance:
    """Sharper results, without a condition; a `Composition` that neither leaves nor takes anything."""

    sees_sources: ClassVar[bool] = False

    scale: float = 0.75
    """s; 0 changes nothing."""
    blur: float = 1.0
    """Standard deviation of the blur, in latents."""
    threshold: float = 1.0
    """How much a place must be looked at to be blurred; 1 = the average."""

    def __post_init__(self) -> None:
        require_number(self, 0, 10, "scale")
        require_number(self, 0, 20, "threshold")
        require_number(self, 0, 20, "blur")
        require(self, "blur", self.blur > 0, "more than 0")

    def require(self, score: Controllable) -> None:
        """The bottleneck must have a self-attention."""
        if not self._sites(score):
            raise ValueError("sag: expected a self-attention in the bottleneck of the network, got none")

    def leave(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Nothing."""
        return ()

    def take(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Nothing."""
        return ()

    def target(self, score: Controllable, x: Noised, controls: Sequence[Control]) -> Latents:
        """The guided prediction for `x`, with and without the blur under the same `controls`."""
        looked, said, branches = Bank(), Bank(), list[str]()

        def weigh(site: Site, rows: Rows, A: Float[Tensor, "b heads n m"]) -> Float[Tensor, "b heads n m"]:
            looked.write(site, rows, received(A))
            return A

        def leave(site: Site, rows: Rows, output: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
            said.write(site, rows, output)
            branches.extend(branch for branch in rows.branch if branch not in branches)
            return output

        sites, outputs = self._sites(score), choose(score.sites, kind="output")
        with score.controlled([*controls, Control(sites, weigh=weigh), Control(outputs, leave=leave)]):
            e = score.target(x)
        base = min(branches, key=list(score.source_branch).index)
        some, size_lat = numbers(x.index), (x.z_t.shape[-2], x.z_t.shape[-1])
        (output,) = said.read(outputs[0], "target", [base] * len(some), some)
        (maps,) = looked.read(sites[0], "target", [base] * len(some), some)
        e_base = score.noise_in(output.to(x.z_t), x)
        small = (maps > self.threshold).to(x.z_t).view(len(some), 1, *sites[0].size(size_lat))
        M = functional.interpolate(small, size_lat)
        ab = score.schedule.alpha_bar(x.t)
        x0 = clean(x.z_t, e_base, ab)
        x0 = M * blurred(x0, self.blur) + (1 - M) * x0
        degraded = Noised(x.z, x.s, x.index, x.e, x.t, ddim_step(x0, e_base, 1.0, ab), x.s_t)
        with score.controlled(controls):
            return e + self.scale * (e_base - score.target_branch(degraded, base))

    def _sites(self, score: Controllable) -> tuple[Site, ...]:
        return choose(score.sites, kind="self", places=("mid",))[:1]


def received(A: Float[Tensor, "b heads n m"]) -> Float[Tensor, "b n"]:
    """How much each of n places is looked at by all, 1 in the mean. Keys of other particles, after the n own ones, do
    not count."""
    own = A[..., : A.shape[2]].mean(1)
    total = own.sum((1, 2), keepdim=True).clamp_min(torch.finfo(own.dtype).tiny)
    return (own * (own.shape[1] / total)).sum(1)


def blurred(x: Float[Tensor, "n c h w"], sigma: float) -> Float[Tensor, "n c h w"]:
    """By a Gaussian, cut off at `RADIUS` and normalised; beyond the border pictures are reflected."""
    for axis in (2, 3):
        radius = min(RADIUS, x.shape[axis] - 1)
        at = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
        weights = (-0.5 * (at / sigma) ** 2).exp()
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        kernel = (weights / weights.sum()).view(shape).expand(x.shape[1], -1, -1, -1)
        pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        x = functional.conv2d(functional.pad(x, pad, mode="reflect"), kernel, groups=x.shape[1])
    return x
