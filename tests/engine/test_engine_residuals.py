"""The two residuals: their formulas, shared noise, and what they vanish for."""

from dataclasses import replace

import pytest
import torch
from engine_toys import SCHEDULE, MixtureScore, ToyScore, generator, latents, noised

from csd3d.engine import Latents, Noised, Score
from csd3d.engine.residuals import noise_baseline, source_baseline


def particles(n: int) -> Noised:
    return noised(latents(n, 1), latents(n, 2), torch.arange(n), t=300, e=latents(n, 3))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_noise_baseline_is_prediction_minus_noise(n: int) -> None:
    score, x = ToyScore(), particles(n)
    r = noise_baseline(score, x)
    for i in range(n):
        alone = ToyScore().target(x.rows([i]))[0]
        torch.testing.assert_close(r[i], alone - x.e[i])
    assert score.calls == ["target"], "the source is nobody's business here"


@pytest.mark.parametrize("n", [1, 2, 5])
def test_source_baseline_noises_the_source_as_its_particle(n: int) -> None:
    score, x = ToyScore(), particles(n)
    r = source_baseline(score, x)
    ab = SCHEDULE.alpha_bar(300)
    for i in range(n):
        one = slice(i, i + 1)
        s_t = ab**0.5 * x.s[one] + (1 - ab) ** 0.5 * x.e[one]
        alone = replace(x.rows(one), s_t=s_t)
        torch.testing.assert_close(r[one], ToyScore().target(alone) - ToyScore().source(alone))
    assert sorted(score.calls) == ["source", "target"], "one evaluation of each"


class Unconditional(ToyScore):
    """A prior whose target condition says no more than its source condition."""

    def source(self, x: Noised) -> Latents:
        return self.target(replace(x, z_t=x.s_t))


def test_no_edit_leaves_the_source_where_it_is() -> None:
    s, e, index = latents(3, 1), latents(3, 2), torch.arange(3)
    r = source_baseline(Unconditional(), noised(s, s, index, t=400, e=e))
    assert torch.equal(r, torch.zeros_like(r))


def test_noise_baseline_has_mean_zero_on_the_priors_own_samples() -> None:
    """E[eps(z_t) - e | z_t] = 0 for the exact prediction and clean latents from its distribution."""
    n = 20_000
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).view(2, 2, 1, 1)
    score = MixtureScore(means, torch.tensor([0.2, 0.5]), torch.tensor([0.3, 0.7]))
    rng = generator()
    which = torch.multinomial(score.shares, n, replacement=True, generator=rng)
    spread = score.variances[which].sqrt().view(-1, 1, 1, 1)
    z = means[which] + spread * torch.randn(n, 2, 1, 1, generator=rng)
    e = torch.randn(n, 2, 1, 1, generator=rng)
    x = noised(z, z, torch.arange(n), t=300, e=e)
    r = noise_baseline(score, x)
    assert r.mean(0).abs().max() < 0.03
    assert (r * x.z_t).mean(0).abs().max() < 0.06
    assert r.square().mean() > 0.1, "one residual alone is far from zero: that is the variance of SDS"


def test_order_of_particles_does_not_matter() -> None:
    order, x = [2, 0, 1], particles(3)
    r, moved = source_baseline(ToyScore(), x), source_baseline(ToyScore(), x.rows(order))
    torch.testing.assert_close(moved, r[order])


def test_toys_are_scores() -> None:
    assert isinstance(ToyScore(), Score)
    assert not isinstance(object(), Score)
