"""Stein variational gradient descent (SVGD): how particles mix their residuals.

    g_i = 1/c_i  sum_j [ K_ij r_j  -  lambda_rep grad_{x_j} K_ij ]

r_j         residual of particle j: which way its prediction of the noise says it should move
x_j         what the kernel compares (noisy or clean latents, or by features of clean ones)
K_ij        weight of particle j in the update of particle i
c_i         "row-sum": sum_j K_ij, a step whose size does not depend on n; "count": n, as published
lambda_rep  strength of the repulsion between particles

The sign. SVGD (Liu and Wang, 2016) *ascends* along 1/n sum_j [k_ij score_j + grad_{x_j} k_ij]. A noise prediction is
a scaled score that points downhill, eps = -sigma score with sigma = sqrt(1 - ab_t), and `g` is a *descent* direction:
minus sigma times that line is 1/n sum_j [k_ij eps_j - sigma grad_{x_j} k_ij]. Hence the minus, and what `lambda_rep`
means: at sigma the particles settle at the density p_t of the noisy latents, at lambda_rep they settle at
p_t^(sigma / lambda_rep). The published 1 is thus flatter than p_t, the more the smaller t; 0 only searches the mode.

The gradient is by x_j with the width of the kernel held fixed. The chain rule from x = z_t = sqrt(ab_t) z + ... to z
would scale all of `g` by sqrt(ab_t); as in all score distillation it is left to the learning rate.

Kernels on perceptual distance (in CSD's text-to-3D: LPIPS) compare features f of the clean latents x:

    K_ij = exp(-gamma |f_i - f_j|^2)        f_i = f(x_i)
    grad_{x_j} K_ij = -2 gamma K_ij J_j^T (f_j - f_i)        J_j = df/dx at x_j

Their repulsion moves a particle along what changes its features, and leaves alone what they do not see.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.kernels import SAME_RMS, Bandwidth, median_gamma, rbf, sq_distances
from csd3d.engine.types import Index, Latents

Normalise = Literal["row-sum", "count"]


@dataclass(frozen=True, eq=False)
class KernelSums:
    """What a kernel contributes to the update of every particle."""

    attraction: Latents
    """sum_j K_ij r_j"""
    repulsion: Latents
    """sum_j grad_{x_j} K_ij"""
    mass: Float[Tensor, "n #c #h #w"]
    """sum_j K_ij; varies over the pixels of a particle where a kernel reaches only some of them."""
    weights: Float[Tensor, "n n"]
    """K_ij, as one number a pair."""

    def update(self, *, normalise: Normalise, repulsion: float) -> Latents:
        """What these sums add to g, with lambda_rep = `repulsion`."""
        c = self.mass if normalise == "row-sum" else self.mass.shape[0]
        return (self.attraction - repulsion * self.repulsion) / c


@runtime_checkable
class Kernel(Protocol):
    """Any positive definite kernel, scalar or matrix-valued: K_ij may be a linear map from particle j to i.

    Must satisfy: for n = 1, attraction = r, repulsion = 0 and mass = 1, exactly.
    """

    def __call__(self, r: Latents, x: Latents, index: Index) -> tuple[KernelSums, ...]:
        """Sums for the residuals `r` of particles at `x`; `index` says which particles of the whole set they are.

        A kernel that is a sum over frequency bands returns one for each band, to be normalised by its own mass; the
        `weights` of the first are reported.
        """
        ...


@dataclass(frozen=True)
class RbfKernel:
    """The paper's kernel, one number for each pair: K_ij = exp(-gamma |x_i - x_j|^2).

    `bandwidth` is a rule for gamma ("median" or "paper", see `median_gamma`) or gamma itself.
    """

    bandwidth: Bandwidth = "median"

    def __call__(self, r: Latents, x: Latents, index: Index) -> tuple[KernelSums]:
        """One band."""
        gamma, K = _gaussian(x, self.bandwidth, sq_norm=float(x[0].numel()))
        mass = K.sum(1).view(-1, 1, 1, 1)
        # sum_j grad_{x_j} k_ij = sum_j -2 gamma k_ij (x_j - x_i); about the mean, where differences do not cancel
        from_mean = x - x.mean(0)
        repulsion = 2 * gamma * (mass * from_mean - mix(K, from_mean))
        return (KernelSums(mix(K, r), repulsion, mass, K),)


FeatureMap = Callable[[Latents], Float[Tensor, "n d"]]
"""Features of clean latents, differentiable, each row from its own particle alone; in their dtype, on their device."""


@runtime_checkable
class Perceptual(Protocol):
    """A Score that also gives features in which distances are those that people see."""

    def perceptual_features(self, z: Latents) -> Float[Tensor, "n d"]:
        """A `FeatureMap`."""
        ...


@dataclass(frozen=True)
class FeatureKernel:
    """The kernel on perceptual distance of the module's text; satisfies `Kernel`. Its x are clean latents.

    Features of all particles are evaluated once, and once more one by one, with n ways back: memory does not grow with
    the number of graphs. Without `repels` they are evaluated once, and there is no repulsion.
    """

    features: FeatureMap
    bandwidth: Bandwidth = "median"
    repels: bool = True

    def __call__(self, r: Latents, x: Latents, index: Index) -> tuple[KernelSums]:
        """One band."""
        with torch.no_grad():
            f = self.features(x)
        gamma, k = _gaussian(f, self.bandwidth, sq_norm=f.square().sum(1).mean())
        K = k.to(r)
        repulsion = torch.zeros_like(x)
        if self.repels and len(x) > 1 and self.bandwidth != 0:
            for j in range(len(x)):
                repulsion += -2 * gamma * self._pulled_back(x[j : j + 1], K[:, j : j + 1] * (f[j] - f))
        return (KernelSums(mix(K, r), repulsion, K.sum(1).view(-1, 1, 1, 1), K),)

    def _pulled_back(self, x_j: Float[Tensor, "1 c h w"], v: Float[Tensor, "n d"]) -> Latents:
        """J_j^T v_i for every row i."""
        with torch.enable_grad():
            x_j = x_j.detach().requires_grad_()
            f_j = self.features(x_j)
            rows = [torch.autograd.grad(f_j, x_j, v_i[None], retain_graph=True)[0] for v_i in v]
        return torch.cat(rows)


def _gaussian(
    x: Float[Tensor, "n *d"], bandwidth: Bandwidth, *, sq_norm: float | Float[Tensor, ""]
) -> tuple[float | Float[Tensor, ""], Float[Tensor, "n n"]]:
    """gamma and exp(-gamma |x_i - x_j|^2); `sq_norm` is what |x_i|^2 is about, of which differences below `SAME_RMS`
    count as none."""
    d2 = sq_distances(x)
    gamma = median_gamma(d2, bandwidth, floor=SAME_RMS**2 * sq_norm) if isinstance(bandwidth, str) else bandwidth
    return gamma, rbf(d2, gamma)


def mix(K: Float[Tensor, "n n"], r: Latents) -> Latents:
    """sum_j K_ij r_j."""
    return (K @ r.flatten(1)).view_as(r)


def couple(bands: Sequence[KernelSums], *, normalise: Normalise, repulsion: float) -> Latents:
    """g_i of the module's first line, with lambda_rep = `repulsion`, summed over bands. For one particle it is r,
    exactly."""
    return reduce(add, (sums.update(normalise=normalise, repulsion=repulsion) for sums in bands))
