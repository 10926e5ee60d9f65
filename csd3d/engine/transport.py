"""SVGD along correspondences: pixel p of particle i mixes with the pixel of particle j that shows the same point.

Two frames of a moving camera show one point at different pixels, so a kernel that is one number a pair averages what
different points want. Here the kernel is a matrix, as in matrix-valued SVGD (Wang, Tang, Bajaj and Liu, 2019): a sum of
the scalar kernel, in place, and of a constant one along the paths of points, on the coarse band of the latents:

    K_ij = k_ij (1 - L) + (k_ij + P_ij) L / 2        (P_ij f)(p) = v_ij(p) sum_q b(pos_ij(p), q) f(q)

k_ij        a scalar kernel: exp(-gamma |x_i - x_j|^2) of `RbfKernel`, or the same on features
L           blur: a Gaussian of `BLUR_LAT` latent pixels, mirrored at the border
pos_ij(p)   where the point that particle i shows at p is in particle j: optical flow, or a reprojection by depth
v_ij(p)     how sure it is that particle j shows it at all, 0 to 1; an occluded pixel has 0
b           bilinear weights; P_ii = 1

    g_i = 1/c_i (1 - L) sum_j [ k_ij r_j - lambda_rep grad_{x_j} k_ij ]
        + 1/d_i 1/2     sum_j [ (k_ij + P_ij) L r_j - lambda_rep L grad_{x_j} k_ij ]

with c_i = sum_j k_ij and d_i(p) = sum_j (k_ij + v_ij(p)) / 2 for "row-sum", both n for "count": all points of a path
count the same, however different the noise around them; a pixel hidden elsewhere moves almost as in `RbfKernel`.

Why two bands. The latents of a codec are no samples of a smooth field: the fine structure of an edge is another when
the edge has moved by a quarter of a latent. Carried along a path it would blur and be wrong, so only L r is carried.
Weights k_ij fall to about 1 / (n + 1) for any two particles, as the noise in x sets the median: about half of an update
is a particle's own residual, with its errors. The constant kernel along paths has no such floor.

What holds exactly. Let W_i carry a common canonical frame to frame i, orthogonal and commuting with L (mirror images;
shifts by whole pixels away from the border), and P_ij = W_i W_j^T. Then K is positive definite: k is, 1 - L and L are,
and sum_ij f_i^T P_ij L f_j = |L^(1/2) sum_j W_j^T f_j|^2. P does not depend on x, so only k contributes to K's
divergence. n = 1 is the independent update. P_ij = 1 everywhere is the scalar kernel k on the fine band and (k + 1) / 2
on the coarse one; with gamma = 0 that is `RbfKernel` with gamma = 0.

What is an approximation. Measured flow does not compose (P_ij P_jk is only about P_ik), bilinear weights blur, and
occlusion is not symmetric. With "row-sum" and without repulsion each band is a weighted mean whatever P is.

Memory grows as n: correspondences are asked for one particle at a time.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.stein import Kernel, KernelSums, RbfKernel
from csd3d.engine.types import Index, Latents

BLUR_LAT = 0.7
"""Standard deviation of the blur L that separates the two bands, in latent pixels."""


@runtime_checkable
class Correspondences(Protocol):
    """Where the points of one particle are in others."""

    def __call__(self, i: int, index: Index) -> tuple[Float[Tensor, "n h w 2"], Float[Tensor, "n h w"]]:
        """For each particle j of a step: pos_ij (x, y) in latent pixels, a pixel's centre at +0.5, and v_ij in [0, 1].

        `index` says which particles of the whole set take part, `i` the place of particle i in it. Positions
        outside of the picture or not finite count as not visible, whatever v says. Row i itself is not used.
        """
        ...


@dataclass(frozen=True)
class TransportKernel:
    """K_ij of the module's text; satisfies the engine's `Kernel`. `scalar` is k_ij."""

    correspondences: Correspondences
    scalar: Kernel = field(default_factory=RbfKernel)

    def __call__(self, r: Latents, x: Latents, index: Index) -> tuple[KernelSums, ...]:
        """The coarse band and the fine one; a single particle has one band."""
        (plain,) = self.scalar(r, x, index)
        if len(r) == 1:
            return (plain,)
        coarse = blur(r)
        path, v = torch.empty_like(r), r.new_empty(len(r), *r[:, 0].shape)
        for i in range(len(r)):
            moved, v[i] = along(i, coarse, self.correspondences, index)
            path[i] = (v[i][:, None] * moved).sum(0)
        attraction, repulsion = blur(plain.attraction), blur(plain.repulsion)
        fine = KernelSums(plain.attraction - attraction, plain.repulsion - repulsion, plain.mass, plain.weights)
        mass = (plain.mass + v.sum(1)[:, None]) / 2
        weights = (plain.weights + v.mean((2, 3))) / 2
        return KernelSums((attraction + path) / 2, repulsion / 2, mass, weights), fine


def along(i: int, f: Latents, correspondences: Correspondences, index: Index) -> tuple[Latents, Float[Tensor, "n h w"]]:
    """All f_j where particle i has their points, sum_q b(pos_ij(p), q) f_j(q), and v_ij. `index` as in the protocol.

    f_i itself is not moved and v_ii = 1; nothing is visible outside of the picture.
    """
    position, v = (value.to(f.device, f.dtype, non_blocking=True) for value in correspondences(i, index))
    x, y = position.unbind(-1)
    inside = (x >= 0) & (x <= f.shape[-1]) & (y >= 0) & (y <= f.shape[-2])
    v = torch.where(inside, v, torch.zeros_like(v))
    moved = transport(f, torch.where(inside[..., None], position, torch.zeros_like(position)))
    v[i], moved[i] = 1, f[i]
    return moved, v


def blur(f: Latents) -> Latents:
    """L f."""
    rows, columns = (_gaussian(size, like=f) for size in f.shape[-2:])
    return rows @ f @ columns


def _gaussian(size: int, *, like: Tensor) -> Float[Tensor, "size size"]:
    """The blur of one axis, a symmetric matrix whose rows sum to 1: pixels beyond the border are those before it,
    mirrored."""
    reach = torch.arange(-math.ceil(3 * BLUR_LAT), math.ceil(3 * BLUR_LAT) + 1, device=like.device)
    weights = torch.softmax(-(reach.double() ** 2) / (2 * BLUR_LAT**2), 0)
    at = (torch.arange(size, device=like.device)[:, None] + reach) % (2 * size)
    at = torch.minimum(at, 2 * size - 1 - at)
    zeros = torch.zeros(size, size, dtype=torch.float64, device=like.device)
    return zeros.scatter_add_(1, at, weights.expand(size, -1).contiguous()).to(like)


def transport(f: Latents, position: Float[Tensor, "n h w 2"]) -> Latents:
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
