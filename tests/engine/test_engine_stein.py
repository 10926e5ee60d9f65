"""Stein coupling against loops and autograd, its invariances, its limits, and kernels that are not the paper's."""

from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from engine_toys import latents
from torch import Tensor

from csd3d.engine import (
    FeatureKernel,
    Index,
    Kernel,
    KernelSums,
    Latents,
    RbfKernel,
    couple,
    median_gamma,
    sq_distances,
)
from csd3d.engine.kernels import Bandwidth
from csd3d.engine.stein import Normalise

NORMALISE: tuple[Normalise, ...] = get_args(Normalise)


def coupled(
    r: Tensor, x: Tensor, *, bandwidth: Bandwidth = "median", normalise: Normalise = "row-sum", repulsion: float = 1.0
) -> Tensor:
    sums = RbfKernel(bandwidth)(r, x, torch.arange(len(r)))
    return couple(sums, normalise=normalise, repulsion=repulsion)


def loops(r: Tensor, x: Tensor, gamma: float, normalise: Normalise, repulsion: float) -> Tensor:
    """The same, written from the formula: nested loops, and autograd for the gradient of the kernel."""
    n, g = len(r), torch.zeros_like(r)
    for i in range(n):
        mass = 0.0
        for j in range(n):
            x_j = x[j].clone().requires_grad_()
            k_ji = torch.exp(-gamma * (x_j - x[i]).square().sum())
            (slope,) = torch.autograd.grad(k_ji, x_j)
            g[i] += k_ji.item() * r[j] - repulsion * slope
            mass += k_ji.item()
        g[i] /= mass if normalise == "row-sum" else n
    return g


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("normalise", NORMALISE)
def test_against_loops_and_autograd(n: int, normalise: Normalise) -> None:
    r, x = latents(n, 1, torch.float64), latents(n, 2, torch.float64)
    gamma = float(median_gamma(sq_distances(x), "median"))
    got = coupled(r, x, normalise=normalise, repulsion=0.7)
    torch.testing.assert_close(got, loops(r, x, gamma, normalise, 0.7), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(coupled(r.float(), x.float(), normalise=normalise, repulsion=0.7), got.float())


@pytest.mark.parametrize("n", [3, 8])
def test_published_rule(n: int) -> None:
    r, x = latents(n, 1, torch.float64), latents(n, 2, torch.float64)
    gamma = float(median_gamma(sq_distances(x), "paper"))
    got = coupled(r, x, bandwidth="paper", normalise="count")
    torch.testing.assert_close(got, loops(r, x, gamma, "count", 1.0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalise", NORMALISE)
def test_one_particle_is_independent_exactly(normalise: Normalise) -> None:
    r, x = latents(1, 1), 50 * latents(1, 2)
    assert torch.equal(coupled(r, x, normalise=normalise, repulsion=3.0), r)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("spread", [0.0, 1e-12, 1.0, 1e4])
@pytest.mark.parametrize("normalise", NORMALISE)
def test_finite_for_any_number_and_spread(n: int, spread: float, normalise: Normalise) -> None:
    r, x = latents(n, 1), latents(1, 3) + spread * latents(n, 2)
    assert coupled(r, x, normalise=normalise).isfinite().all()


@pytest.mark.parametrize("n", [2, 8])
def test_equal_particles_share_one_update(n: int) -> None:
    r, x = latents(n, 1), latents(1, 2).expand(n, -1, -1, -1)
    torch.testing.assert_close(coupled(r, x), r.mean(0, keepdim=True).expand_as(r))


def test_rounding_between_equal_particles_is_not_amplified() -> None:
    r, x = latents(4, 1), latents(1, 2) + 1e-6 * latents(4, 3)
    torch.testing.assert_close(coupled(r, x), r.mean(0, keepdim=True).expand_as(r), atol=0.01, rtol=0)


@pytest.mark.parametrize("normalise", NORMALISE)
def test_order_of_particles_does_not_matter(normalise: Normalise) -> None:
    r, x = latents(6, 1, torch.float64), latents(6, 2, torch.float64)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    torch.testing.assert_close(
        coupled(r[order], x[order], normalise=normalise), coupled(r, x, normalise=normalise)[order]
    )


def test_shifting_all_particles_changes_nothing() -> None:
    r, x = latents(5, 1, torch.float64), latents(5, 2, torch.float64)
    torch.testing.assert_close(coupled(r, x + 7), coupled(r, x))


def test_two_particles_repel() -> None:
    x = latents(2, 1)
    moved = x - 0.1 * coupled(torch.zeros_like(x), x)
    assert float((moved[0] - moved[1]).norm()) > float((x[0] - x[1]).norm())
    torch.testing.assert_close(moved.mean(0), x.mean(0))
    assert torch.equal(coupled(torch.zeros_like(x), x, repulsion=0.0), torch.zeros_like(x))


def test_limits_of_the_width() -> None:
    r, x = latents(4, 1), latents(4, 2)
    torch.testing.assert_close(coupled(r, x, bandwidth=0.0), r.mean(0, keepdim=True).expand_as(r))
    torch.testing.assert_close(coupled(r, x, bandwidth=1e6), r)
    torch.testing.assert_close(coupled(r, x, bandwidth=1e6, normalise="count"), r / 4)


@pytest.mark.parametrize("normalise", NORMALISE)
def test_normalisations_differ_by_the_mean_weight(normalise: Normalise) -> None:
    r, x = latents(5, 1), latents(5, 2)
    (sums,) = RbfKernel()(r, x, torch.arange(5))
    scale = 5 / sums.mass if normalise == "row-sum" else torch.ones(5, 1, 1, 1)
    torch.testing.assert_close(coupled(r, x, normalise=normalise), scale * coupled(r, x, normalise="count"))


@pytest.mark.parametrize("normalise", NORMALISE)
def test_bands_are_normalised_by_their_own_mass_and_added(normalise: Normalise) -> None:
    r, x, index = latents(4, 1), latents(4, 2), torch.arange(4)
    bands = (*RbfKernel(0.01)(r, x, index), *RbfKernel(0.1)(2 * r, x, index))
    apart = [couple([sums], normalise=normalise, repulsion=0.5) for sums in bands]
    assert torch.equal(couple(bands, normalise=normalise, repulsion=0.5), apart[0] + apart[1])


@dataclass(frozen=True)
class ShiftKernel:
    """A matrix-valued kernel: what particle j has to say reaches particle i `speed` (i - j) pixels to the right.

    K_ij = k_ij W_ij, with a linear W_ij that is undefined where it comes from outside of the picture. Its divergence
    is W_ij applied to the gradient of k_ij.
    """

    speed: int

    def __call__(self, r: Latents, x: Latents, index: Index) -> tuple[KernelSums]:
        (inner,) = RbfKernel()(r, x, index)
        gamma = median_gamma(sq_distances(x), "median")
        attraction, repulsion = torch.zeros_like(r), torch.zeros_like(r)
        mass = torch.zeros(len(r), 1, *r.shape[2:], dtype=r.dtype)
        for i in range(len(r)):
            for j in range(len(r)):
                k, by = inner.weights[i, j], self.speed * int(index[i] - index[j])
                attraction[i] += k * shifted(r[j], by)
                repulsion[i] += shifted(-2 * gamma * k * (x[j] - x[i]), by)
                mass[i] += k * shifted(torch.ones_like(mass[i]), by)
        return (KernelSums(attraction, repulsion, mass, inner.weights),)


def shifted(x: Tensor, by: int) -> Tensor:
    """`x` moved to the right by `by` pixels, zeros where nothing moves in."""
    moved = x.roll(by, -1)
    moved[..., :by] = 0 if by > 0 else moved[..., :by]
    moved[..., by or x.shape[-1] :] = 0 if by < 0 else moved[..., by or x.shape[-1] :]
    return moved


@pytest.mark.parametrize("normalise", NORMALISE)
def test_kernels_along_motion_fit_in(normalise: Normalise) -> None:
    r, x, index = latents(3, 1, torch.float64), latents(3, 2, torch.float64), torch.tensor([4, 5, 6])
    assert isinstance(ShiftKernel(1), Kernel)
    still = couple(ShiftKernel(0)(r, x, index), normalise=normalise, repulsion=1.0)
    torch.testing.assert_close(still, coupled(r, x, normalise=normalise))
    alone = ShiftKernel(1)(r[:1], x[:1], index[:1])
    assert torch.equal(couple(alone, normalise=normalise, repulsion=1.0), r[:1])


def test_kernel_along_motion_averages_what_moves() -> None:
    scene = latents(1, 1, torch.float64)[0]
    r = torch.stack([scene.roll(i, -1) for i in range(3)])
    x = latents(1, 2, torch.float64).expand_as(r)
    g = couple(ShiftKernel(1)(r, x, torch.arange(3)), normalise="row-sum", repulsion=1.0)
    torch.testing.assert_close(g, r)


def bent(z: Tensor) -> Tensor:
    """A feature map that is neither linear nor one to one, with fewer features than latents."""
    return torch.cat([torch.sin(1.3 * z[:, :2]).flatten(1), (z[:, 2:] * z[:, :2]).mean((2, 3))], dim=1)


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("normalise", NORMALISE)
def test_a_kernel_on_features_against_loops_and_finite_differences(n: int, normalise: Normalise) -> None:
    r, x, h = latents(n, 1, torch.float64), latents(n, 2, torch.float64), 1e-5
    gamma = median_gamma(sq_distances(bent(x)), "median")

    def k(i: int, x_j: Tensor) -> float:
        return float(torch.exp(-gamma * (bent(x_j) - bent(x[i : i + 1])).square().sum()))

    expected = torch.zeros_like(r)
    for i in range(n):
        mass = 0.0
        for j in range(n):
            slope = torch.zeros_like(x[j])
            for place in range(slope.numel()):
                step = torch.zeros(slope.numel(), dtype=torch.float64)
                step[place] = h
                step = step.view(1, *slope.shape)
                slope.view(-1)[place] = (k(i, x[j : j + 1] + step) - k(i, x[j : j + 1] - step)) / (2 * h)
            expected[i] += k(i, x[j : j + 1]) * r[j] - 0.7 * slope
            mass += k(i, x[j : j + 1])
        expected[i] /= mass if normalise == "row-sum" else n
    got = couple(FeatureKernel(bent)(r, x, torch.arange(n)), normalise=normalise, repulsion=0.7)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-8)
    mute = couple(FeatureKernel(bent, repels=False)(r, x, torch.arange(n)), normalise=normalise, repulsion=0.0)
    pull = couple(FeatureKernel(bent)(r, x, torch.arange(n)), normalise=normalise, repulsion=0.0)
    assert torch.equal(mute, pull)


def test_latents_as_their_own_features_are_the_plain_kernel() -> None:
    r, x = latents(5, 1, torch.float64), latents(5, 2, torch.float64)
    got = couple(FeatureKernel(lambda z: z.flatten(1))(r, x, torch.arange(5)), normalise="row-sum", repulsion=0.7)
    torch.testing.assert_close(got, coupled(r, x, repulsion=0.7))


@pytest.mark.parametrize("normalise", NORMALISE)
def test_one_particle_with_features_is_independent_exactly(normalise: Normalise) -> None:
    r, x = latents(1, 1), 50 * latents(1, 2)
    assert torch.equal(couple(FeatureKernel(bent)(r, x, torch.arange(1)), normalise=normalise, repulsion=3.0), r)


def test_what_features_do_not_see_does_not_repel() -> None:
    r, x = latents(4, 1), latents(4, 2)
    sums = FeatureKernel(lambda z: z[:, :1].flatten(1))(r, x, torch.arange(4))[0]
    assert sums.repulsion[:, 0].any()
    assert not sums.repulsion[:, 1:].any()


def test_features_of_equal_particles_are_finite() -> None:
    r, x = latents(3, 1), latents(1, 2).expand(3, -1, -1, -1)
    got = couple(FeatureKernel(bent)(r, x, torch.arange(3)), normalise="row-sum", repulsion=1.0)
    torch.testing.assert_close(got, r.mean(0, keepdim=True).expand_as(r))
