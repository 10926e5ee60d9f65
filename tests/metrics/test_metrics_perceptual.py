"""LPIPS, self-similarity and the Frechet distance on features that are made up."""

import math

import pytest
import torch

from csd3d.metrics import frechet_distance, lpips, self_similarity_distance


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_lpips_of_equal_features_is_none_and_of_others_what_the_formula_says() -> None:
    a, b = [features(2, 3, 4, 4), features(2, 5, 2, 2)], [features(2, 3, 4, 4, seed=1), features(2, 5, 2, 2, seed=1)]
    weights = [features(3).abs(), features(5).abs()]
    assert lpips(a, a, weights).tolist() == [0, 0]
    expected = 0.0
    for x, y, w in zip(a, b, weights, strict=True):
        for place in torch.cartesian_prod(torch.arange(x.shape[2]), torch.arange(x.shape[3])).tolist():
            p, q = x[0, :, place[0], place[1]], y[0, :, place[0], place[1]]
            expected += float((w * (p / p.norm() - q / q.norm()) ** 2).sum()) / (x.shape[2] * x.shape[3])
    assert float(lpips(a, b, weights)[0]) == pytest.approx(expected)
    with pytest.raises(ValueError, match="as many layers"):
        lpips(a, b, weights[:1])


def test_self_similarity_does_not_see_a_rotation_of_all_features() -> None:
    a = features(1, 6, 4)
    turned = a @ torch.linalg.qr(features(4, 4, seed=2)).Q
    assert float(self_similarity_distance(a, turned)) == pytest.approx(0, abs=1e-12)
    moved = a[:, torch.tensor([1, 0, 2, 3, 4, 5])]
    assert float(self_similarity_distance(a, moved)) > 0.01


def test_frechet_of_a_shift_is_its_square_and_of_equal_sets_none() -> None:
    a = features(20, 5)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + torch.tensor([3.0, 4, 0, 0, 0])) == pytest.approx(25)
    assert math.isnan(frechet_distance(a[:1], a))


def test_frechet_is_that_of_the_matrices_also_where_features_outnumber_pictures() -> None:
    a, b = features(6, 9), features(8, 9, seed=3) * 2 + 1
    product = torch.cov(a.T) @ torch.cov(b.T)
    root = torch.linalg.eigvals(product).real.clamp_min(0).sqrt().sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    expected = apart + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * root
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-5)


def test_self_similarity_is_that_of_the_matrices() -> None:
    a, b = features(2, 6, 4), features(2, 6, 4, seed=1)
    u, v = (x / x.norm(dim=2, keepdim=True) for x in (a, b))
    expected = (u @ u.transpose(1, 2) - v @ v.transpose(1, 2)).square().mean((1, 2))
    torch.testing.assert_close(self_similarity_distance(a, b), expected)
    assert self_similarity_distance(a, a).tolist() == [0, 0]
