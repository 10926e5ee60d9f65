"""PatchNCE: against nested loops, its gradient against differences, chosen places, pieces, and who cannot serve it."""

import math
from dataclasses import replace

import pytest
import torch
from engine_toys import SCHEDULE, FeatureToyScore, FreeLatents, ToyScore, generator, latents, noised
from jaxtyping import Float
from torch import Tensor

from csd3d.engine import METHODS, Features, Objective, PatchNce, csd_step, run
from csd3d.engine.regularisers import patch_nce, seed_of

T = 350


def maps(n: int, seed: int, d: int = 6) -> Float[Tensor, "n d 4 5"]:
    return torch.randn(n, d, 4, 5, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("places", [[0], [3, 7], [19, 0, 4, 11], list(range(20))])
def test_against_loops(n: int, places: list[int]) -> None:
    q, p, tau = maps(n, 1), maps(n, 2), 0.07
    got = patch_nce(q, p, torch.tensor(places), temperature=tau)
    for i in range(n):
        losses = []
        for k in places:
            query = q[i, :, k // 5, k % 5]
            keys = [p[i, :, m // 5, m % 5] for m in places]
            cosines = [float(query @ key / (query.norm() * key.norm())) for key in keys]
            weights = [math.exp(c / tau) for c in cosines]
            losses.append(-math.log(weights[places.index(k)] / sum(weights)))
        assert float(got[i]) == pytest.approx(sum(losses) / len(losses), rel=1e-9, abs=1e-12)


def test_its_gradient_by_differences() -> None:
    places = torch.tensor([1, 2, 9, 14])
    q = maps(2, 1).requires_grad_()
    p = maps(2, 2)
    torch.autograd.gradcheck(lambda x: patch_nce(x, p, places, temperature=0.5), (q,))


def test_no_gradient_goes_to_the_source() -> None:
    q, p = maps(1, 1).requires_grad_(), maps(1, 2).requires_grad_()
    patch_nce(q, p, torch.arange(20), temperature=0.07).sum().backward()
    assert q.grad is not None
    assert p.grad is None


def test_scale_of_features_does_not_matter_and_equal_ones_are_best() -> None:
    q, places = maps(2, 1), torch.arange(20)
    same = patch_nce(q, 3 * q, places, temperature=0.07)
    torch.testing.assert_close(same, patch_nce(q, q, places, temperature=0.07))
    moved = patch_nce(q, q.roll(1, 3), places, temperature=0.07)
    assert (moved > same + 1).all()
    flat = torch.ones(1, 6, 4, 5)
    assert float(patch_nce(flat, flat, places, temperature=0.07)) == pytest.approx(math.log(20), rel=1e-5)


class LinearFeatures(FeatureToyScore):
    """One map, the latents themselves, so that the gradient is known where it is not zero."""

    @staticmethod
    def maps(x_t: Float[Tensor, "n c h w"], a: float) -> list[Tensor]:
        return [x_t]


def test_as_many_places_as_asked_for_the_same_for_all_particles_and_anew_with_other_noise() -> None:
    z, s = latents(3, 1), latents(3, 2)
    term = PatchNce(LinearFeatures(), patches=4, patch_sizes=(1,))
    touched = []
    for seed in (3, 4):
        g = term(noised(z, s, torch.arange(3), t=T, e=latents(3, seed)))
        where = g.abs().amax(1) > 0
        assert where.sum((1, 2)).tolist() == [4, 4, 4]
        assert torch.equal(where[0], where[1])
        touched.append(where[0])
    assert not torch.equal(*touched)


def test_a_patch_size_beyond_the_map_is_left_out() -> None:
    x = noised(latents(2, 1), latents(2, 2), torch.arange(2), t=T, e=latents(2, 3))
    few, more = (PatchNce(FeatureToyScore(), patch_sizes=sizes)(x) for sizes in ((1,), (1, 4)))
    assert torch.equal(few, more)  # 3 x 5 latents hold no 4 x 4 patch
    pooled = PatchNce(FeatureToyScore(), patch_sizes=(1, 2))(x)
    assert not torch.allclose(few, pooled)


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_pieces_take_the_same_places(chunk: int) -> None:
    z, s, e = (latents(5, seed) for seed in (1, 2, 3))
    x = noised(z, s, torch.arange(5), t=T, e=e)
    whole, split = (PatchNce(score, patches=5)(x) for score in (FeatureToyScore(), FeatureToyScore(chunk=chunk)))
    torch.testing.assert_close(split, whole)


def test_the_published_ratio_holds_at_every_size() -> None:
    """2000 / (h w) <r, z> + 3 L, divided by what stands before the residual."""
    z, s, e, index = (*(latents(1, seed) for seed in (1, 2, 3)), torch.arange(1))
    term = PatchNce(FeatureToyScore(), patch_sizes=(1,))
    ab = SCHEDULE.alpha_bar(T)
    zd = z.clone().requires_grad_()
    z_t, s_t = SCHEDULE.add_noise(zd, e, T), SCHEDULE.add_noise(s, e, T)
    total = torch.zeros(())
    for q, p in zip(FeatureToyScore.maps(z_t, 1.0), FeatureToyScore.maps(s_t, 0.7), strict=True):
        total = total + patch_nce(q, p, torch.arange(q[0, 0].numel()), temperature=0.07).sum()
    (grad,) = torch.autograd.grad(3 * total, zd)
    assert 0 < ab < 1
    torch.testing.assert_close(term(noised(z, s, index, t=T, e=e)) * 2000 / (3 * 5), grad)


def test_it_holds_a_particle_to_its_source() -> None:
    """Free latents under the term alone come back from a shifted start to what their source shows."""
    s = latents(1, 1)
    z = s.roll(1, 3)
    term = PatchNce(LinearFeatures(), patch_sizes=(1,), weight=400.0)
    zero, index = torch.zeros_like(s), torch.arange(1)

    def cosine(x: Tensor) -> float:
        return float(torch.nn.functional.cosine_similarity(x, s, dim=1).mean())

    before = cosine(z)
    for _ in range(100):
        z = z - 0.1 * term(noised(z, s, index, t=10, e=zero))
    assert before < 0.5
    assert cosine(z) > before + 0.3


def test_seed_of_noise_forgets_the_order_of_particles() -> None:
    e = latents(4, 1)
    assert seed_of(e) == seed_of(e.flip(0)) == seed_of(e.double())
    assert seed_of(e) != seed_of(latents(4, 2))


def test_with_coupling_it_comes_on_top_unmixed() -> None:
    z, s, e, index = (*(latents(4, seed) for seed in (1, 2, 3)), torch.arange(4))
    config = replace(METHODS["csd-edit"], regulariser="patch-nce")
    plain = csd_step(FeatureToyScore(), noised(z, s, index, t=T, e=e), METHODS["csd-edit"])
    both = csd_step(FeatureToyScore(), noised(z, s, index, t=T, e=e), config)
    term = PatchNce(FeatureToyScore())(noised(z, s, index, t=T, e=e))
    torch.testing.assert_close(both.g, plain.g + term)
    assert torch.equal(both.r, plain.r)


def test_a_score_without_features_is_refused_at_the_door() -> None:
    assert isinstance(FeatureToyScore(), Features)
    assert not isinstance(ToyScore(), Features)
    with pytest.raises(ValueError, match="regulariser: expected none, as this prior gives no features"):
        Objective(ToyScore(), METHODS["cds"])


def test_a_run_with_it_repeats_bit_by_bit() -> None:
    config = replace(METHODS["cds"], steps=5, nce_patches=3)
    ends = []
    for _ in range(2):
        particles = FreeLatents(latents(3), config, per_step=2)
        for _info in run(particles, Objective(FeatureToyScore(), config), rng=generator(4)):
            pass
        ends.append(particles.z.clone())
    assert torch.equal(*ends)
