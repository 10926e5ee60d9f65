"""SVGD along correspondences: pixel p of particle i mixes with where p really is in particle j.

Two frames of a moving camera show one point at different pixels, so a kernel that is one number a pair averages what
different points want. Here the kernel is a matrix, as in matrix-valued SVGD (Wang, Tang, Bajaj and Liu, 2019):

    K_ij = k_ij P_ij        (P_ij f)(p) = v_ij(p) sum_q b(pos_ij(p), q) f(q)        k_ij = exp(-gamma d2_ij)

pos_ij(p)   where the point that particle i shows at p is in particle j: optical flow, or a reprojection by depth
v_ij(p)     how sure it is that particle j shows it at all, 0 to 1; an occluded pixel has 0
b           bilinear weights; P_ii = 1
d2_ij       squared distance along the correspondence: mean over what is visible of (x_i - P_ij x_j)^2, times c h w

    g_i(p) = 1/c_i(p)  sum_j k_ij [ (P_ij r_j)(p) - lambda_rep 2 gamma v_ij(p) (x_i - P_ij x_j)(p) ]

with c_i(p) = sum_j k_ij v_ij(p) for "row-sum": a pixel that nobody else sees keeps its own residual and its full step.

What holds exactly. Let W_i carry a common canonical frame to frame i, orthogonal (shifts by whole pixels on a torus,
permutations), and P_ij = W_i W_j^T. Then K(x_i, x_j) = W_i k(W_i^T x_i, W_j^T x_j) W_j^T is positive definite,
because sum_ij f_i^T K_ij f_j = sum_ij k_ij <W_i^T f_i, W_j^T f_j> and k is; P_ji = P_ij^T; and g is plain SVGD of
the particles y_i = W_i^T x_i in the canonical frame, carried back: the second term is K_ij's divergence by x_j,
k_ij's slope along P_ij P_ij^T = 1. P_ij = 1 everywhere gives the scalar kernel, n = 1 the independent update.

What is an approximation. Measured flow does not compose (P_ij P_jk is only about P_ik), bilinear weights blur
(P_ij P_ij^T is only about v_ij), and occlusion is not symmetric. K is then no Gram matrix; d2 is made symmetric as
(d2_ij + d2_ji) / 2. The repulsion is exactly minus the slope of k_ij by what is visible of x_i, which for a
kernel of differences is what SVGD asks for; the unseen rest of d2 is held fixed, as the width is. With "row-sum",
each row is a weighted mean whatever P is, so g never exceeds the largest residual.

Memory grows as n for the given correspondences of one particle; `PairwiseCorrespondences` holds all of them, as n^2.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine.kernels import SAME_RMS, Bandwidth, median_gamma, rbf
from csd3d.engine.stein import KernelSums

LEAST_SEEN = 0.02
"""Pairs that see less of each other than this share of the pixels have nothing to say about their distance: they are
left alone."""


@runtime_checkable
class Correspondences(Protocol):
    """Where the points of one particle are in others."""

    def __call__(self, i: int, index: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n h w 2"], Float[Tensor, "n h w"]]:
        """For each particle j of a step: pos_ij (x, y) in latent pixels, a pixel's centre at +0.5, and v_ij in [0, 1].

        `index` says which particles of the whole set take part, `i` the place in it of the one that looks. Positions
        outside of the picture or not finite count as not visible, whatever v says. Row i itself is not used.
        """
        ...


@dataclass(frozen=True)
class PairwiseCorrespondences:
    """Correspondences of a whole set of m particles, held in memory: `position[i, j]` and `visible[i, j]` are pos_ij
    and v_ij."""

    position: Float[Tensor, "m m h w 2"]
    visible: Float[Tensor, "m m h w"]

    def __call__(self, i: int, index: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n h w 2"], Float[Tensor, "n h w"]]:
        """Rows of the particles that take part."""
        index = index.to(self.position.device)
        return self.position[index[i], index], self.visible[index[i], index]


@dataclass(frozen=True)
class TransportKernel:
    """K_ij = k_ij P_ij of the module's text; satisfies the engine's `Kernel`.

    `bandwidth` is a rule for gamma, over the pairs that see each other, or gamma itself. With 0 all that is visible
    counts the same: every residual becomes the mean along its point's path. Raises `ValueError` if "paper" is asked
    for, whose median over all pairs is not defined where pairs do not see each other.
    """

    correspondences: Correspondences
    bandwidth: Bandwidth = "median"

    def __post_init__(self) -> None:
        if self.bandwidth == "paper":
            raise ValueError("bandwidth: expected median or a number along correspondences, got 'paper'")

    def __call__(
        self, r: Float[Tensor, "n c h w"], x: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]
    ) -> KernelSums:
        n, c = x.shape[:2]
        gamma, k = self._scalar_kernel(x, index)
        attraction, repulsion = torch.empty_like(r), torch.zeros_like(r)
        mass, weights = torch.empty_like(r[:, :1]), torch.empty_like(k)
        for i in range(n):
            position, v = self._looking(i, index, like=x)
            moved = transport(torch.cat([r, x], 1) if gamma else r, position)
            moved[i, :c] = r[i]
            share = k[i].view(-1, 1, 1) * v  # k_ij v_ij(p)
            attraction[i] = (share[:, None] * moved[:, :c]).sum(0)
            mass[i, 0] = share.sum(0)
            weights[i] = share.mean((1, 2))
            if gamma:
                moved[i, c:] = x[i]
                repulsion[i] = 2 * gamma * (share[:, None] * (x[i] - moved[:, c:])).sum(0)
        return KernelSums(attraction, repulsion, mass, weights)

    def _scalar_kernel(
        self, x: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]
    ) -> tuple[float, Float[Tensor, "n n"]]:
        """gamma and k_ij, which is 0 for pairs that do not see each other."""
        if self.bandwidth == 0:
            return 0.0, x.new_ones(len(x), len(x))
        d2 = self._sq_distances(x, index)
        gamma = self.bandwidth
        if isinstance(gamma, str):
            gamma = median_gamma(d2, gamma, floor=SAME_RMS**2 * x[0].numel())
        return gamma, torch.where(d2.isinf(), 0.0, rbf(d2, gamma)).to(x)

    def _looking(
        self, i: int, index: Int[Tensor, " n"], *, like: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n h w 2"], Float[Tensor, "n h w"]]:
        """pos_ij and v_ij for all j, with v_ii = 1 and nothing visible outside of the picture."""
        position, v = (value.to(like) for value in self.correspondences(i, index))
        height, width = like.shape[-2:]
        inside = ((position >= 0) & (position <= position.new_tensor([width, height]))).all(-1)
        v = torch.where(inside, v, torch.zeros_like(v))
        v[i] = 1
        return torch.where(inside[..., None], position, torch.zeros_like(position)), v

    def _sq_distances(self, x: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]) -> Float[Tensor, "n n"]:
        """d2_ij, symmetric; infinite for pairs that do not see enough of each other. In float32 at least."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        n, _, h, w = x.shape
        d2 = x.new_zeros(n, n)
        for i in range(n):
            position, v = self._looking(i, index, like=x)
            seen = v.sum((1, 2))
            apart = ((x[i] - transport(x, position)).square().sum(1) * v).sum((1, 2)) * (h * w / seen)
            d2[i] = torch.where(seen < LEAST_SEEN * h * w, torch.inf, apart)
            d2[i, i] = 0
        return (d2 + d2.T) / 2


def transport(f: Float[Tensor, "n c h w"], position: Float[Tensor, "n h w 2"]) -> Float[Tensor, "n c h w"]:
    """f_j at `position_j`, bilinear; beyond the outermost centres the nearest is taken. Exact at centres of pixels."""
    n, c, h, w = f.shape
    x, y = (position[..., axis].sub(0.5).clamp(0, size - 1) for axis, size in ((0, w), (1, h)))
    x0, y0 = x.floor(), y.floor()
    a, b = (x - x0)[:, None], (y - y0)[:, None]
    left, top = x0.long(), y0.long()
    right, bottom = (left + 1).clamp_max(w - 1), (top + 1).clamp_max(h - 1)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return f.flatten(2).gather(2, (row * w + column).view(n, 1, -1).expand(n, c, -1)).view(n, c, h, w)

    upper = (1 - a) * at(top, left) + a * at(top, right)
    lower = (1 - a) * at(bottom, left) + a * at(bottom, right)
    return (1 - b) * upper + b * lower
