"""Kernels along correspondences: against loops, autograd and a canonical frame; what is hidden is left alone."""

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
    PairwiseCorrespondences,
    RbfKernel,
    TransportKernel,
    couple,
    run,
)
from csd3d.engine.stein import Normalise
from csd3d.engine.transport import transport

NORMALISE: tuple[Normalise, ...] = get_args(Normalise)
H, W = latents(1).shape[-2:]


def centres(dtype: torch.dtype = torch.float64) -> Float[Tensor, "h w 2"]:
    y, x = torch.meshgrid(torch.arange(H, dtype=dtype) + 0.5, torch.arange(W, dtype=dtype) + 0.5, indexing="ij")
    return torch.stack([x, y], -1)


def still(n: int, dtype: torch.dtype = torch.float64) -> PairwiseCorrespondences:
    return PairwiseCorrespondences(centres(dtype).expand(n, n, H, W, 2).clone(), torch.ones(n, n, H, W, dtype=dtype))


def wild(n: int, seed: int = 5) -> PairwiseCorrespondences:
    """Made-up motion of up to two pixels, hidden pixels, half-sure pixels and positions outside of the picture."""
    rng = generator(seed)
    move = 2 * torch.randn(n, n, H, W, 2, generator=rng, dtype=torch.float64)
    seen = (1.5 * torch.rand(n, n, H, W, generator=rng, dtype=torch.float64) - 0.2).clamp(0, 1)
    return PairwiseCorrespondences(centres() + move, seen)


@dataclass(frozen=True)
class Torus:
    """Particle i shows the canonical frame shifted by `shifts[i]` (dx, dy) whole pixels around a torus."""

    shifts: tuple[tuple[int, int], ...]

    def __call__(self, i: int, index: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n h w 2"], Float[Tensor, "n h w"]]:
        move = torch.tensor([self.shifts[j] for j in index.tolist()]) - torch.tensor(self.shifts[int(index[i])])
        position = (centres() - 0.5 + move[:, None, None]) % torch.tensor([W, H]) + 0.5
        return position, torch.ones(len(index), H, W, dtype=torch.float64)

    def to_canonical(self, f: Tensor) -> Tensor:
        """W_i^T f_i."""
        return torch.stack([x.roll((-dy, -dx), (-2, -1)) for x, (dx, dy) in zip(f, self.shifts, strict=True)])

    def from_canonical(self, f: Tensor) -> Tensor:
        """W_i f_i."""
        return torch.stack([x.roll((dy, dx), (-2, -1)) for x, (dx, dy) in zip(f, self.shifts, strict=True)])


TORUS = Torus(((0, 0), (1, 0), (3, 2), (2, 1), (4, 1)))


def coupled(
    r: Tensor, x: Tensor, where: Correspondences, bandwidth: float | str = 0.1, normalise: Normalise = "row-sum",
    repulsion: float = 0.7,
) -> Tensor:  # fmt: skip
    sums = TransportKernel(where, bandwidth)(r, x, torch.arange(len(r)))  # pyright: ignore[reportArgumentType]
    return couple(sums, normalise=normalise, repulsion=repulsion)


def bilinear(f: Tensor, x: float, y: float) -> Tensor:
    """f (c h w) between the four centres around (x, y), the nearest centre beyond the border."""
    x, y = min(max(x - 0.5, 0), W - 1), min(max(y - 0.5, 0), H - 1)
    total = torch.zeros(len(f), dtype=f.dtype)
    for row in range(H):
        for column in range(W):
            total = total + max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row)) * f[:, row, column]
    return total


def loops(
    r: Tensor, x: Tensor, where: PairwiseCorrespondences, gamma: float, normalise: Normalise, repulsion: float
) -> Tensor:
    """The module's formula, pixel by pixel."""
    n, g = len(r), torch.zeros_like(r)
    v = torch.zeros(n, n, H, W, dtype=r.dtype)
    moved_r, moved_x = torch.zeros(n, *r.shape, dtype=r.dtype), torch.zeros(n, *r.shape, dtype=r.dtype)
    for i in range(n):
        for j in range(n):
            for row in range(H):
                for column in range(W):
                    px, py = where.position[i, j, row, column].tolist()
                    if i == j:
                        px, py = column + 0.5, row + 0.5
                    inside = 0 <= px <= W and 0 <= py <= H
                    v[i, j, row, column] = 1.0 if i == j else where.visible[i, j, row, column] if inside else 0.0
                    moved_r[i, j, :, row, column] = bilinear(r[j], px, py)
                    moved_x[i, j, :, row, column] = bilinear(x[j], px, py)
    apart = torch.zeros(n, n, dtype=r.dtype)
    for i in range(n):
        for j in range(n):
            apart[i, j] = (v[i, j] * (x[i] - moved_x[i, j]).square()).sum() * H * W / v[i, j].sum()
    for i in range(n):
        mass = torch.zeros(H, W, dtype=r.dtype)
        for j in range(n):
            k = exp(-gamma * float(apart[i, j] + apart[j, i]) / 2)
            g[i] += k * v[i, j] * (moved_r[i, j] - repulsion * 2 * gamma * (x[i] - moved_x[i, j]))
            mass += k * v[i, j]
        g[i] /= mass if normalise == "row-sum" else n
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
@pytest.mark.parametrize("bandwidth", ["median", 0.0, 0.05])
def test_no_motion_is_the_scalar_kernel(normalise: Normalise, bandwidth: float | str) -> None:
    r, x = latents(5, 1, torch.float64), latents(5, 2, torch.float64)
    plain = RbfKernel(bandwidth)(r, x, torch.arange(5))  # pyright: ignore[reportArgumentType]
    along = TransportKernel(still(5), bandwidth)(r, x, torch.arange(5))  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(along.weights, plain.weights, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(along.mass, plain.mass.expand_as(along.mass), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        couple(along, normalise=normalise, repulsion=0.7),
        couple(plain, normalise=normalise, repulsion=0.7),
        rtol=1e-11,
        atol=1e-13,
    )


@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("bandwidth", ["median", 0.0, 3.0])
def test_one_particle_is_independent_bit_for_bit(normalise: Normalise, bandwidth: float | str) -> None:
    r, x = latents(1, 1), 50 * latents(1, 2)
    assert torch.equal(coupled(r, x, wild(1), bandwidth, normalise, 3.0), r)


@pytest.mark.parametrize("bandwidth", ["median", 0.0, 0.05])
@pytest.mark.parametrize("normalise", NORMALISE)
def test_is_plain_svgd_in_the_canonical_frame(normalise: Normalise, bandwidth: float | str) -> None:
    r, x = latents(5, 1, torch.float64), latents(5, 2, torch.float64)
    kernel = RbfKernel(bandwidth)  # pyright: ignore[reportArgumentType]
    plain = kernel(TORUS.to_canonical(r), TORUS.to_canonical(x), torch.arange(5))
    expected = TORUS.from_canonical(couple(plain, normalise=normalise, repulsion=0.7))
    torch.testing.assert_close(coupled(r, x, TORUS, bandwidth, normalise), expected, rtol=1e-11, atol=1e-12)


def test_kernel_in_a_canonical_frame_is_positive_definite_and_symmetric() -> None:
    x, n, d = latents(5, 2, torch.float64), 5, 4 * H * W
    unit = torch.eye(d, dtype=torch.float64).view(d, 4, H, W)
    K = torch.zeros(n, d, n, d, dtype=torch.float64)
    for j in range(n):
        for column in range(d):
            r = torch.zeros_like(x)
            r[j] = unit[column]
            K[:, :, j, column] = TransportKernel(TORUS, 0.05)(r, x, torch.arange(n)).attraction.flatten(1)
    K = K.view(n * d, n * d)
    torch.testing.assert_close(K, K.T, rtol=0, atol=1e-14)
    assert float(torch.linalg.eigvalsh(K).min()) > 0


def test_repulsion_is_the_divergence_of_the_matrix_kernel_by_autograd() -> None:
    """In a canonical frame: sum_j sum_b d K_ij[a, b] / d x_j[b] = sum_j P_ij grad_{x_j} k_ij."""
    gamma, x = 0.03, latents(5, 2, torch.float64)
    expected = torch.zeros_like(x)
    for i in range(5):
        position, _ = TORUS(i, torch.arange(5))
        for j in range(5):
            x_j = x[j : j + 1].clone().requires_grad_()
            k = torch.exp(-gamma * (x[i] - transport(x_j, position[j : j + 1])).square().sum())
            (slope,) = torch.autograd.grad(k, x_j)
            expected[i] += transport(slope, position[j : j + 1])[0]
    got = TransportKernel(TORUS, gamma)(torch.zeros_like(x), x, torch.arange(5)).repulsion
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


def test_repulsion_is_minus_the_slope_by_what_is_seen_for_any_motion() -> None:
    gamma, n, x, where = 0.02, 4, latents(4, 2, torch.float64), wild(4)
    kernel = TransportKernel(where, gamma)
    weights = kernel._scalar_kernel(x, torch.arange(n))[1]
    expected = torch.zeros_like(x)
    for i in range(n):
        position, v = kernel._looking(i, torch.arange(n), like=x)
        x_i = x[i].clone().requires_grad_()
        seen = (v[:, None] * (x_i - transport(x, position)).square()).sum((1, 2, 3))
        k = weights[i] * torch.exp(-gamma * (seen - seen.detach()))  # the unseen rest of the distance is held fixed
        others = sum(k[j] for j in range(n) if j != i)
        assert isinstance(others, Tensor)
        expected[i] = -torch.autograd.grad(others, x_i)[0]
    got = kernel(torch.zeros_like(x), x, torch.arange(n)).repulsion
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


def test_hidden_pixels_keep_their_own_residual() -> None:
    r, x, where = latents(3, 1), latents(3, 2), still(3, torch.float32)
    where.visible[0, 1:, 1, 2] = 0
    where.position[0, 1:, 2, 3] = torch.tensor([-0.1, 1.0])  # outside
    where.position[0, 1:, 0, 0] = torch.nan
    g = coupled(r, x, where, 0.0)
    for row, column in ((1, 2), (2, 3), (0, 0)):
        assert torch.equal(g[0, :, row, column], r[0, :, row, column])
    torch.testing.assert_close(g[0, :, 1, 1], r[:, :, 1, 1].mean(0))
    torch.testing.assert_close(g[1], r.mean(0))


@pytest.mark.parametrize("bandwidth", ["median", 0.0, 0.1])
def test_strangers_are_left_alone(bandwidth: float | str) -> None:
    r, x, where = latents(4, 1), latents(4, 2), still(4, torch.float32)
    where.visible.zero_()
    torch.testing.assert_close(coupled(r, x, where, bandwidth), r)
    where.visible[:2, :2] = 1
    assert torch.equal(coupled(r, x, where, bandwidth)[2:], r[2:])
    assert not torch.allclose(coupled(r, x, where, bandwidth)[:2], r[:2])


def test_what_moves_is_averaged_along_its_path() -> None:
    scene, x = latents(1, 1, torch.float64).expand(5, -1, -1, -1), latents(5, 2, torch.float64)
    noise = latents(5, 3, torch.float64)
    r = TORUS.from_canonical(scene + noise)
    got = coupled(r, x, TORUS, 0.0)
    torch.testing.assert_close(got, TORUS.from_canonical((scene + noise.mean(0)).contiguous()))


def test_never_exceeds_the_largest_residual() -> None:
    r, x = latents(6, 1, torch.float64), latents(6, 2, torch.float64)
    assert float(coupled(r, x, wild(6), repulsion=0.0).abs().max()) <= float(r.abs().max())


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


def test_published_bandwidth_is_refused() -> None:
    with pytest.raises(ValueError, match="median or a number"):
        TransportKernel(still(3), "paper")


def test_drives_the_loop_and_reports_weights() -> None:
    config = CsdConfig(steps=3, lr=0.1)
    kernel = TransportKernel(wild(4))
    assert isinstance(kernel, Kernel)
    assert isinstance(kernel.correspondences, Correspondences)
    particles = FreeLatents(latents(4), config, per_step=3)
    infos = list(run(particles, ToyScore(), config, rng=generator(), kernel=kernel))
    assert all(info.kernel_mean is not None and 0 < info.kernel_mean < 1 for info in infos)
    assert all(info.gradient_rms < inf for info in infos)
    assert not torch.equal(particles.z.detach(), latents(4))
