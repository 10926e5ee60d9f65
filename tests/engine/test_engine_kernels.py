"""Distances, bandwidth and kernel against loops, and where rounding or equal particles could spoil them."""

import math
import statistics
from typing import Literal

import pytest
import torch
from engine_toys import latents
from torch import Tensor

from csd3d.engine import median_gamma, rbf, sq_distances


def distances(x: Tensor) -> list[list[float]]:
    rows = x.double().flatten(1).tolist()
    return [[math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)) for b in rows] for a in rows]


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_distances_against_loops(n: int) -> None:
    x = latents(n)
    d2 = sq_distances(x)
    torch.testing.assert_close(d2, torch.tensor(distances(x)), rtol=1e-6, atol=0)
    assert torch.equal(d2, d2.T)
    assert torch.equal(d2.diagonal(), torch.zeros(n))


def test_distances_of_neighbours_far_from_the_origin_are_exact() -> None:
    x = 100 + latents(3, 1) / 1000
    torch.testing.assert_close(sq_distances(x), torch.tensor(distances(x)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_distances_are_float32_at_least(dtype: torch.dtype) -> None:
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert sq_distances(latents(2, 0, dtype)).dtype == expected


def test_distances_follow_the_order_of_particles_bit_for_bit() -> None:
    x, order = latents(6), torch.tensor([3, 5, 0, 1, 4, 2])
    assert torch.equal(sq_distances(x[order]), sq_distances(x)[order][:, order])


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_median_is_over_distinct_pairs(n: int) -> None:
    d2 = sq_distances(latents(n))
    pairs = [float(d2[i, j]) for i in range(n) for j in range(i)]
    assert float(median_gamma(d2, "median")) == pytest.approx(math.log(n + 1) / statistics.median_low(pairs))


@pytest.mark.parametrize("n", [3, 4, 8])
def test_paper_median_is_over_all_entries(n: int) -> None:
    d2 = sq_distances(latents(n))
    entries = [float(d2[i, j]) for i in range(n) for j in range(n)]
    assert float(median_gamma(d2, "paper")) == pytest.approx(math.log(n + 1) / statistics.median_low(entries))


def test_paper_bandwidth_refuses_what_would_be_nan() -> None:
    d2 = sq_distances(latents(2))
    gamma = torch.tensor(3.0).log() / d2.median()
    assert torch.exp(-gamma * d2).isnan().any(), "the published rule should be NaN here"
    with pytest.raises(ValueError, match="bandwidth: 'paper' expected 3 or more different particles, or one, got 2"):
        median_gamma(d2, "paper")
    assert float(median_gamma(sq_distances(latents(1)), "paper")) == 0


@pytest.mark.parametrize("mode", ["median", "paper"])
def test_equal_particles_all_count_the_same(mode: Literal["median", "paper"]) -> None:
    d2 = sq_distances(latents(1).expand(5, -1, -1, -1))
    assert torch.equal(rbf(d2, median_gamma(d2, mode)), torch.ones(5, 5))


@pytest.mark.parametrize("mode", ["median", "paper"])
def test_gamma_scales_as_inverse_square(mode: Literal["median", "paper"]) -> None:
    x = latents(5)
    ratio = median_gamma(sq_distances(x), mode) / median_gamma(sq_distances(3 * x), mode)
    assert float(ratio) == pytest.approx(9, rel=1e-5)


def test_median_floor_and_single_particle() -> None:
    same = torch.zeros(4, 4)
    assert median_gamma(same, "median") == 0
    assert float(median_gamma(same, "median", floor=0.5)) == pytest.approx(math.log(5) / 0.5)
    assert float(median_gamma(torch.full((2, 2), 8.0), "median", floor=0.5)) == pytest.approx(math.log(3) / 8)
    assert median_gamma(torch.zeros(1, 1), "median", floor=0.5) == 0


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_rbf_against_loops(n: int) -> None:
    d2 = sq_distances(latents(n))
    K = rbf(d2, 0.02)
    for i in range(n):
        for j in range(n):
            assert float(K[i, j]) == pytest.approx(math.exp(-0.02 * float(d2[i, j])), rel=1e-6)


def test_rbf_gradient_against_autograd() -> None:
    x = latents(2, 0, torch.float64)
    a, b = x[:1].requires_grad_(), x[1:]
    k = rbf((a - b).square().sum().view(1, 1), 0.02)
    k.sum().backward()
    torch.testing.assert_close(a.grad, -2 * 0.02 * k.item() * (a - b).detach())


def test_typical_pair_shares_one_over_n_plus_one() -> None:
    d2 = sq_distances(latents(3))
    K = rbf(d2, median_gamma(d2, "median"))
    assert float(K[tuple(torch.triu_indices(3, 3, 1))].median()) == pytest.approx(1 / 4, rel=1e-5)
