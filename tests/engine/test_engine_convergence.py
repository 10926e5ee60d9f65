"""Where particles end under an exact score: at its distribution if they repel as SVGD says, at its modes if not.

With zero noise drawn and the noise baseline, the residual is the exact eps(z_t) = -sigma score(z_t), and descent is
SVGD on p_t, the distribution of the noisy latents, if lambda_rep = sigma = sqrt(1 - ab_t).
"""

from functools import cache

import pytest
import torch
from engine_toys import SCHEDULE, MixtureScore, generator, noised
from torch import Tensor

from csd3d.engine import CsdConfig, Noised, csd_step
from csd3d.engine.stein import Normalise

T = 300
SIGMA = SCHEDULE.weight(T) ** 0.5
MIXTURE = MixtureScore(
    torch.tensor([[-2.0, 0.0], [1.5, 1.0], [1.0, -2.0]]).view(3, 2, 1, 1),
    torch.tensor([0.5, 0.3, 0.2]),
    torch.tensor([0.3, 0.5, 0.2]),
)
GAUSSIAN = MixtureScore(torch.tensor([[1.0, -1.0]]).view(1, 2, 1, 1), torch.tensor([0.5]), torch.tensor([1.0]))


def settle(
    score: MixtureScore, *, repulsion: float, normalise: Normalise = "row-sum", steps: int = 1500, n: int = 64
) -> Tensor:
    """Where `n` particles end, as noisy latents, that began in a heap beside the mass."""
    config = CsdConfig(residual="noise", weight="one", repulsion=repulsion, normalise=normalise)
    lr = (0.5 if normalise == "count" else 0.1) / SIGMA
    z = 3 + 0.5 * torch.randn(n, 2, 1, 1, generator=generator(1))
    index, e = torch.arange(n), torch.zeros_like(z)
    for _ in range(steps):
        z = z - lr * csd_step(score, noised(z, z, index, t=T, e=e), config).g
    return SCHEDULE.add_noise(z, e, T).flatten(1)


@pytest.mark.parametrize("normalise", ["count", "row-sum"])
def test_particles_end_with_the_moments_of_a_mixture(normalise: Normalise) -> None:
    x = settle(MIXTURE, repulsion=SIGMA, normalise=normalise)
    mean, covariance = MIXTURE.moments(T)
    torch.testing.assert_close(x.mean(0), mean, atol=0.08, rtol=0)
    torch.testing.assert_close(x.T.cov(correction=0), covariance, atol=0.1, rtol=0)
    by_component = torch.cdist(x, SCHEDULE.alpha_bar(T) ** 0.5 * MIXTURE.means.flatten(1)).argmin(1).bincount() / 64
    torch.testing.assert_close(by_component, MIXTURE.shares, atol=0.08, rtol=0)


@cache
def spread_at_sigma() -> Tensor:
    """Variances of particles that repel as SVGD says."""
    return settle(GAUSSIAN, repulsion=SIGMA, steps=400).var(0)


@pytest.mark.parametrize("repulsion", [0.5 * SIGMA, 1.0])
def test_repulsion_is_a_temperature(repulsion: float) -> None:
    """p^(sigma / lambda_rep) of a Gaussian has lambda_rep / sigma times its variance."""
    x = settle(GAUSSIAN, repulsion=repulsion, steps=400)
    torch.testing.assert_close(x.mean(0), GAUSSIAN.moments(T)[0], atol=0.02, rtol=0)
    torch.testing.assert_close(x.var(0) / spread_at_sigma(), torch.full((2,), repulsion / SIGMA), rtol=0.01, atol=0)


def test_moments_get_exact_as_particles_get_many() -> None:
    """A finite number of particles is too narrow, by less and less."""
    exact = GAUSSIAN.moments(T)[1].diagonal()
    narrow = [float((settle(GAUSSIAN, repulsion=SIGMA, steps=300, n=n).var(0) / exact).mean()) for n in (8, 32, 128)]
    assert narrow == sorted(narrow)
    assert narrow[0] > 0.6
    assert 0.92 < narrow[-1] < 1.0


def test_without_repulsion_particles_meet_at_the_mode() -> None:
    x = settle(GAUSSIAN, repulsion=0.0, steps=300)
    torch.testing.assert_close(x, GAUSSIAN.moments(T)[0].expand_as(x), atol=0.02, rtol=0)


def test_exact_prediction_is_the_gradient_of_the_log_density() -> None:
    """The oracle itself, against autograd in float64."""
    score = MixtureScore(MIXTURE.means.double(), MIXTURE.variances.double(), MIXTURE.shares.double())
    x = torch.randn(5, 2, 1, 1, generator=generator(), dtype=torch.float64).requires_grad_()
    ab, log_p = SCHEDULE.alpha_bar(T), torch.zeros((), dtype=torch.float64)
    for i in range(5):
        parts = [
            share.log() + torch.distributions.Normal(ab**0.5 * m, (ab * v + 1 - ab).sqrt()).log_prob(x[i]).sum()
            for m, v, share in zip(score.means, score.variances, score.shares, strict=True)
        ]
        log_p = log_p + torch.stack(parts).logsumexp(0)
    (slope,) = torch.autograd.grad(log_p, x)
    torch.testing.assert_close(
        score.target(Noised.from_noisy(x.detach(), T, x.detach(), torch.arange(5))), -SIGMA * slope
    )
