"""The two residuals: their formulas, shared noise, and what they vanish for."""

import pytest
import torch
from engine_toys import SCHEDULE, MixtureScore, ToyScore, generator, latents

from csd3d.engine import Score
from csd3d.engine.residuals import noise_baseline, source_baseline


@pytest.mark.parametrize("n", [1, 2, 5])
def test_noise_baseline_is_prediction_minus_noise(n: int) -> None:
    score, index = ToyScore(), torch.arange(n)
    z_t, s, e = latents(n, 1), latents(n, 2), latents(n, 3)
    r = noise_baseline(score, z_t, s, index, t=300, e=e)
    for i in range(n):
        alone = ToyScore().target(z_t[i : i + 1], 300, s[i : i + 1], index[i : i + 1])[0]
        torch.testing.assert_close(r[i], alone - e[i])
    assert score.calls == ["target"], "the source is nobody's business here"


@pytest.mark.parametrize("n", [1, 2, 5])
def test_source_baseline_noises_the_source_as_its_particle(n: int) -> None:
    score, index = ToyScore(), torch.arange(n)
    z_t, s, e = latents(n, 1), latents(n, 2), latents(n, 3)
    r = source_baseline(score, z_t, s, index, t=300, e=e)
    ab = SCHEDULE.alpha_bar(300)
    for i in range(n):
        one = slice(i, i + 1)
        s_t = ab**0.5 * s[one] + (1 - ab) ** 0.5 * e[one]
        target = ToyScore().target(z_t[one], 300, s[one], index[one])
        torch.testing.assert_close(r[one], target - ToyScore().source(s_t, 300, s[one], index[one]))
    assert sorted(score.calls) == ["source", "target"], "one evaluation of each"


class Unconditional(ToyScore):
    """A prior whose target condition says no more than its source condition."""

    def source(self, s_t, t, s, index):  # type: ignore[override]
        return self.target(s_t, t, s, index)


def test_no_edit_leaves_the_source_where_it_is() -> None:
    s, e, index = latents(3, 1), latents(3, 2), torch.arange(3)
    z_t = SCHEDULE.add_noise(s, e, 400)
    r = source_baseline(Unconditional(), z_t, s, index, t=400, e=e)
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
    z_t = SCHEDULE.add_noise(z, e, 300)
    r = noise_baseline(score, z_t, z, torch.arange(n), t=300, e=e)
    assert r.mean(0).abs().max() < 0.03
    assert (r * z_t).mean(0).abs().max() < 0.06
    assert r.square().mean() > 0.1, "one residual alone is far from zero: that is the variance of SDS"


def test_order_of_particles_does_not_matter() -> None:
    order, index = torch.tensor([2, 0, 1]), torch.arange(3)
    z_t, s, e = latents(3, 1), latents(3, 2), latents(3, 3)
    r = source_baseline(ToyScore(), z_t, s, index, t=300, e=e)
    moved = source_baseline(ToyScore(), z_t[order], s[order], index[order], t=300, e=e[order])
    torch.testing.assert_close(moved, r[order])


def test_toys_are_scores() -> None:
    assert isinstance(ToyScore(), Score)
    assert not isinstance(object(), Score)
