"""Kernels along correspondences: against loops, autograd and a canonical frame; what is hidden moves as without."""

from dataclasses import dataclass
from math import exp, inf
from typing import get_args

import pytest
import torch
from engine_toys import FreeLatents, ToyScore, generator, latents
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine import (
    Correspondences,
    CsdConfig,
    Kernel,
    Objective,
    RbfKernel,
    TransportKernel,
    couple,
    run,
)
from csd3d.engine.stein import KernelSums, Normalise, mix
from csd3d.engine.transport import BLUR_LAT, blur, transport

NORMALISE: tuple[Normalise, ...] = get_args(Normalise)
H, W = latents(1).shape[-2:]


def centres(dtype: torch.dtype = torch.float64) -> Float[Tensor, "h w 2"]:
    y, x = torch.meshgrid(torch.arange(H, dtype=dtype) + 0.5, torch.arange(W, dtype=dtype) + 0.5, indexing="ij")
    return torch.stack([x, y], -1)


@dataclass(frozen=True)
class Pairwise:
    """Correspondences of all pairs, in memory."""

    position: Float[Tensor, "m m h w 2"]
    visible: Float[Tensor, "m m h w"]

    def __call__(self, i: int, index: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n h w 2"], Float[Tensor, "n h w"]]:
        return self.position[index[i], index], self.visible[index[i], index]


def still(n: int, dtype: torch.dtype = torch.float64) -> Pairwise:
    return Pairwise(centres(dtype).expand(n, n, H, W, 2).clone(), torch.ones(n, n, H, W, dtype=dtype))


def wild(n: int, seed: int = 5) -> Pairwise:
    """Made-up motion of up to two pixels, hidden pixels, half-sure pixels and positions outside of the picture."""
    rng = generator(seed)
    move = 2 * torch.randn(n, n, H, W, 2, generator=rng, dtype=torch.float64)
    seen = (1.5 * torch.rand(n, n, H, W, generator=rng, dtype=torch.float64) - 0.2).clamp(0, 1)
    return Pairwise(centres() + move, seen)


@dataclass(frozen=True)
class Mirrors:
    """Particle i shows the canonical frame, mirrored along some of its axes: exact, and it commutes with the blur."""

    flips: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1), (-1,))

    def __call__(self, i: int, index: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n h w 2"], Float[Tensor, "n h w"]]:
        there = torch.stack([centres().flip([a - 1 for a in self.flips[j]]) for j in index.tolist()])
        position = there.flip([a - 1 for a in self.flips[int(index[i])]])
        return position, torch.ones(len(index), H, W, dtype=torch.float64)

    def turned(self, f: Tensor) -> Tensor:
        """W_i f_i, which is W_i^T f_i too."""
        return torch.stack([x.flip(axes) for x, axes in zip(f, self.flips, strict=True)])


MIRRORS = Mirrors()


def coupled(
    r: Tensor,
    x: Tensor,
    where: Correspondences,
    bandwidth: float | str = 0.1,
    normalise: Normalise = "row-sum",
    repulsion: float = 0.7,
) -> Tensor:
    sums = TransportKernel(where, RbfKernel(bandwidth))(r, x, torch.arange(len(r)))  # pyright: ignore[reportArgumentType]
    return couple(sums, normalise=normalise, repulsion=repulsion)


def bilinear(f: Tensor, x: float, y: float) -> Tensor:
    """f (c h w) between the four centres around (x, y), the nearest centre beyond the border."""
    x, y = min(max(x - 0.5, 0), W - 1), min(max(y - 0.5, 0), H - 1)
    total = torch.zeros(len(f), dtype=f.dtype)
    for row in range(H):
        for column in range(W):
            total = total + max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row)) * f[:, row, column]
    return total


def blurred(f: Tensor) -> Tensor:
    """f (n c h w) blurred, the picture mirrored around itself and weights written out."""
    weights = [exp(-(k**2) / (2 * BLUR_LAT**2)) for k in range(-3, 4)]
    mirrored = torch.cat([f.flip(-1), f, f.flip(-1)], -1)
    mirrored = torch.cat([mirrored.flip(-2), mirrored, mirrored.flip(-2)], -2)
    total = torch.zeros_like(f)
    for a, down in enumerate(weights):
        for b, right in enumerate(weights):
            y, x = H + a - 3, W + b - 3
            total += down * right * mirrored[..., y : y + H, x : x + W]
    return total / sum(weights) ** 2


def loops(r: Tensor, x: Tensor, where: Pairwise, gamma: float, normalise: Normalise, repulsion: float) -> Tensor:
    """The module's formula, pixel by pixel."""
    n, g, coarse = len(r), torch.zeros_like(r), blurred(r)
    for i in range(n):
        k = [exp(-gamma * float((x[i] - x[j]).square().sum())) for j in range(n)]
        mixed = sum(k[j] * r[j] - repulsion * 2 * gamma * k[j] * (x[i] - x[j]) for j in range(n))
        assert isinstance(mixed, Tensor)
        low = blurred(mixed[None])[0]
        g[i] = (mixed - low) / (sum(k) if normalise == "row-sum" else n)
        for row in range(H):
            for column in range(W):
                total, mass = low[:, row, column].clone(), sum(k)
                for j in range(n):
                    px, py = where.position[i, j, row, column].tolist()
                    v = float(where.visible[i, j, row, column]) if 0 <= px <= W and 0 <= py <= H else 0.0
                    if i == j:
                        px, py, v = column + 0.5, row + 0.5, 1.0
                    total += v * bilinear(coarse[j], px, py)
                    mass += v
                g[i, :, row, column] += total / 2 / (mass / 2 if normalise == "row-sum" else n)
    return g


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("gamma", [0.0, 0.02])
def test_against_loops(n: int, normalise: Normalise, gamma: float) -> None:
    r, x, where = latents(n, 1, torch.float64), latents(n, 2, torch.float64), wild(n)
    got = coupled(r, x, where, gamma, normalise)
    torch.testing.assert_close(got, loops(r, x, where, gamma, normalise, 0.7), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        coupled(r.float(), x.float(), where, gamma, normalise), got.float(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("bandwidth", ["median", 0.05])
def test_no_motion_is_the_scalar_kernel_on_the_fine_band_and_half_of_it_constant_on_the_coarse_one(
    normalise: Normalise, bandwidth: float | str
) -> None:
    r, x, n = latents(5, 1, torch.float64), latents(5, 2, torch.float64), 5
    (sums,) = RbfKernel(bandwidth)(r, x, torch.arange(n))  # pyright: ignore[reportArgumentType]
    fine = couple([sums], normalise=normalise, repulsion=0.7)
    k = (sums.weights + 1) / 2
    mass = k.sum(1).view(-1, 1, 1, 1)
    coarse = couple([KernelSums(mix(k, r), sums.repulsion / 2, mass, k)], normalise=normalise, repulsion=0.7)
    expected = fine - blurred(fine) + blurred(coarse)
    torch.testing.assert_close(coupled(r, x, still(n), bandwidth, normalise), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("normalise", NORMALISE)
def test_no_motion_and_no_width_is_the_plain_kernel(normalise: Normalise) -> None:
    r, x = latents(5, 1, torch.float64), latents(5, 2, torch.float64)
    plain = couple(RbfKernel(0.0)(r, x, torch.arange(5)), normalise=normalise, repulsion=0.7)
    torch.testing.assert_close(coupled(r, x, still(5), 0.0, normalise), plain, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("bandwidth", ["median", 0.0, 3.0])
def test_one_particle_is_independent_bit_for_bit(normalise: Normalise, bandwidth: float | str) -> None:
    r, x = latents(1, 1), 50 * latents(1, 2)
    assert torch.equal(coupled(r, x, wild(1), bandwidth, normalise, 3.0), r)


def test_constant_kernel_is_plain_in_the_canonical_frame() -> None:
    """Between particles far apart k_ij is 0: what is left is P_ij on the coarse band."""
    r, x = latents(5, 1, torch.float64), 1e6 * latents(5, 2, torch.float64)
    low = blurred(r)
    mean = MIRRORS.turned(MIRRORS.turned(low).mean(0).expand_as(low))
    expected = r - low + (low + 5 * mean) / 6
    torch.testing.assert_close(coupled(r, x, MIRRORS, 1.0, repulsion=0.0), expected, rtol=1e-11, atol=1e-12)


def matrix(x: Tensor, where: Correspondences) -> Tensor:
    """K of all particles, rows and columns over particles and their values, one residual after the other."""
    n, d = len(x), x[0].numel()
    unit = torch.eye(d, dtype=torch.float64).view(d, *x.shape[1:])
    K = torch.zeros(n, d, n, d, dtype=torch.float64)
    for j in range(n):
        for column in range(d):
            r = torch.zeros_like(x)
            r[j] = unit[column]
            K[:, :, j, column] = n * coupled(r, x, where, 0.05, "count", 0.0).flatten(1)
    return K.view(n * d, n * d)


def test_kernel_in_a_canonical_frame_is_positive_definite_and_symmetric() -> None:
    K = matrix(latents(5, 2, torch.float64), MIRRORS)
    torch.testing.assert_close(K, K.T, rtol=0, atol=1e-14)
    assert float(torch.linalg.eigvalsh(K).min()) > 0


@pytest.mark.parametrize("where", [MIRRORS, wild(5)])
def test_repulsion_is_the_divergence_of_the_matrix_kernel_by_autograd(where: Correspondences) -> None:
    """(1 - L) grad k + L grad k / 2: P does not depend on x, whatever it is."""
    gamma, x = 0.03, latents(5, 2, torch.float64)
    slope = torch.zeros_like(x)
    for i in range(5):
        x_j = x.clone().requires_grad_()
        k = torch.exp(-gamma * (x[i] - x_j).square().sum((1, 2, 3)))
        slope[i] = torch.autograd.grad(k.sum(), x_j)[0].sum(0)
    expected = -((slope - blurred(slope)) + blurred(slope) / 2) / 5
    got = coupled(torch.zeros_like(x), x, where, gamma, "count", 1.0)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


def test_hidden_pixels_move_as_under_the_plain_kernel() -> None:
    """Where nobody else is, a path holds the pixel alone: (sum_j k_ij L r_j + L r_i) / (sum_j k_ij + 1)."""
    r, x, where = latents(3, 1), latents(3, 2), still(3, torch.float32)
    where.visible[0, 1:, 1, 2] = 0
    where.position[0, 1:, 2, 3] = torch.tensor([-0.1, 1.0])  # outside
    where.position[0, 1:, 0, 0] = torch.nan
    g, low = coupled(r, x, where, 0.0), blurred(r)
    expected = r.mean(0) - low.mean(0) + (low.sum(0) + low[0]) / 4
    for row, column in ((1, 2), (2, 3), (0, 0)):
        torch.testing.assert_close(g[0, :, row, column], expected[:, row, column])
    torch.testing.assert_close(g[0, :, 1, 1], r[:, :, 1, 1].mean(0))
    torch.testing.assert_close(g[1], r.mean(0))


def test_what_moves_is_averaged_along_its_path() -> None:
    """The noise of a scene that is seen mirrored falls along paths on the coarse band, and not in place."""
    scene = latents(1, 1, torch.float64).expand(5, -1, -1, -1)
    noise, x = latents(5, 3, torch.float64), 1e6 * latents(5, 2, torch.float64)
    r = MIRRORS.turned(scene + noise)
    error = blurred(coupled(r, x, MIRRORS, 1.0, repulsion=0.0) - MIRRORS.turned(scene))
    alone, in_place = blurred(noise), blurred(r.mean(0) - MIRRORS.turned(scene))
    assert float(error.square().mean()) < 0.5 * float(alone.square().mean())
    assert float(error.square().mean()) < 0.7 * float(in_place.square().mean())


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_blur_is_symmetric_keeps_the_mean_and_is_positive(size: int) -> None:
    f = torch.eye(size, dtype=torch.float64).view(size, 1, size, 1)
    L = blur(f).view(size, size)
    torch.testing.assert_close(L, L.T)
    torch.testing.assert_close(L.sum(0), torch.ones(size, dtype=torch.float64))
    eigenvalues = torch.linalg.eigvalsh(L)
    assert 0 < float(eigenvalues.min()) <= float(eigenvalues.max()) <= 1 + 1e-12


@pytest.mark.parametrize("normalise", NORMALISE)
def test_order_of_particles_does_not_matter(normalise: Normalise) -> None:
    r, x, where = latents(5, 1, torch.float64), latents(5, 2, torch.float64), wild(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    kernel = TransportKernel(where)
    whole = couple(kernel(r, x, torch.arange(5)), normalise=normalise, repulsion=1.0)
    mixed = couple(kernel(r[order], x[order], order), normalise=normalise, repulsion=1.0)
    torch.testing.assert_close(mixed, whole[order])


def test_bilinear_is_exact_at_centres_and_the_mean_between() -> None:
    f = latents(2, 1)
    at_centres = centres(torch.float32).expand(2, H, W, 2)
    assert torch.equal(transport(f, at_centres), f)
    between = transport(f, at_centres + 0.5)
    torch.testing.assert_close(between[:, :, 0, 0], f[:, :, :2, :2].mean((2, 3)))
    assert torch.equal(between[:, :, -1, -1], f[:, :, -1, -1])


@pytest.mark.parametrize("spread", [0.0, 1e-12, 1e4])
def test_finite_whatever_the_spread(spread: float) -> None:
    r, x = latents(4, 1), latents(1, 3) + spread * latents(4, 2)
    assert coupled(r, x, wild(4), "median").isfinite().all()


def test_drives_the_loop_and_reports_weights() -> None:
    config = CsdConfig(steps=3, lr=0.1)
    kernel = TransportKernel(wild(4))
    assert isinstance(kernel, Kernel)
    assert isinstance(kernel.correspondences, Correspondences)
    particles = FreeLatents(latents(4), config, per_step=3)
    infos = list(run(particles, Objective(ToyScore(), config, kernel), rng=generator()))
    assert all(info.kernel_mean is not None and 0 < info.kernel_mean < 1 for info in infos)
    assert all(info.gradient_rms < inf for info in infos)
    assert not torch.equal(particles.z.detach(), latents(4))
