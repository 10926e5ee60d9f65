"""The step as a whole: against one written out from the formulas, split into chunks, pure, guarded."""

import math
import statistics
from dataclasses import replace
from typing import Literal

import pytest
import torch
from engine_toys import SCHEDULE, latents, noised
from engine_toys import FeatureToyScore as ToyScore
from torch import Tensor

from csd3d.engine import (
    METHODS,
    PAPER,
    CsdConfig,
    Latents,
    Noised,
    Objective,
    RbfKernel,
    StepResult,
    csd_step,
    measured,
    require_finite,
    surrogate_loss,
)

T = 350


def particles(n: int, dtype: torch.dtype = torch.float32) -> Noised:
    z, s, e = (latents(n, seed, dtype) for seed in (1, 2, 3))
    return noised(z, s, torch.arange(n), t=T, e=e)


def step(n: int, config: CsdConfig, score: ToyScore | None = None, dtype: torch.dtype = torch.float32) -> StepResult:
    return csd_step(score or ToyScore(), particles(n, dtype), config)


def written_out(n: int, config: CsdConfig) -> Tensor:
    """DESIGN's formulas from top to bottom in float64, one particle and one pair at a time."""
    z, s, e = (latents(n, seed, torch.float64) for seed in (1, 2, 3))
    ab, prior, index = float(SCHEDULE.alphas_cumprod[T]), ToyScore(), torch.arange(n)
    z_t, s_t = (ab**0.5 * x + (1 - ab) ** 0.5 * e for x in (z, s))
    r = torch.zeros_like(z)
    for i in range(n):
        one = slice(i, i + 1)
        alone = Noised(z[one], s[one], index[one], e[one], T, z_t[one], s_t[one])
        r[one] = prior.target(alone) - (e[one] if config.residual == "noise" else prior.source(alone))
    w = 1 - ab if config.weight == "variance" else 1.0
    if config.regulariser != "none":
        assert config.coupling == "independent"
        return w * r + nce_written_out(z_t, s_t, config) * ab**0.5
    if config.coupling == "independent":
        return w * r
    x = z_t if config.kernel_on == "noisy" else z
    d2 = [[float((x[i] - x[j]).square().sum()) for j in range(n)] for i in range(n)]
    pairs = [d2[i][j] for i in range(n) for j in range(n) if config.bandwidth == "paper" or i < j]
    gamma = math.log(n + 1) / statistics.median_low(pairs) if pairs else 0.0
    g = torch.zeros_like(z)
    for i in range(n):
        k = [math.exp(-gamma * d2[j][i]) for j in range(n)]
        c = n if config.normalise == "count" else sum(k)
        for j in range(n):
            grad_k = -2 * gamma * k[j] * (x[j] - x[i])
            g[i] += w / c * (k[j] * r[j] - config.repulsion * grad_k)
    return g


def nce_written_out(z_t: Tensor, s_t: Tensor, config: CsdConfig) -> Tensor:
    """Gradient of PatchNCE by the noisy latents; the toys' maps are so small that all places are compared."""
    z_t = z_t.detach().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for q_map, p_map in zip(ToyScore.maps(z_t, 1.0), ToyScore.maps(s_t, 0.7), strict=True):
        for size in config.nce_patch_sizes:
            if size > min(q_map.shape[-2:]):
                continue
            q, p = (torch.nn.functional.avg_pool2d(x, size) for x in (q_map, p_map))
            total = total + sum(nce_in_loops(q[i], p[i], config.nce_temperature) for i in range(len(q)))
    (grad,) = torch.autograd.grad(total, z_t)
    return config.nce_weight * z_t.shape[2] * z_t.shape[3] / 2000 * grad


def nce_in_loops(q: Tensor, p: Tensor, tau: float) -> Tensor:
    """CUT's loss of one map, place by place."""
    places = [(a, b) for a in range(q.shape[1]) for b in range(q.shape[2])]
    losses = []
    for a, b in places:
        query = q[:, a, b] / q[:, a, b].norm()
        similar = [torch.exp(query @ (p[:, c, d] / p[:, c, d].norm()) / tau) for c, d in places]
        losses.append(-torch.log(similar[places.index((a, b))] / torch.stack(similar).sum()))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "changes", [{}, {"kernel_on": "clean", "repulsion": 0.5}, {"normalise": "count", "weight": "one"}]
)
def test_against_formulas_written_out(n: int, method: str, changes: dict) -> None:
    config = replace(METHODS[method], **changes)
    expected = written_out(n, config)
    torch.testing.assert_close(step(n, config, dtype=torch.float64).g, expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(step(n, config).g, expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [3, 8, 24])
@pytest.mark.parametrize("preset", PAPER)
def test_published_settings_are_the_published_formula(n: int, preset: str) -> None:
    torch.testing.assert_close(step(n, PAPER[preset]).g, written_out(n, PAPER[preset]).float(), rtol=1e-4, atol=1e-5)


def test_published_settings_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ValueError, match="3 or more different particles"):
        step(2, PAPER["csd-edit-video"])


@pytest.mark.parametrize(
    "changes", [{}, {"kernel_on": "clean"}, {"bandwidth": "paper"}, {"normalise": "count"}, {"repulsion": 9.0}]
)
def test_one_particle_is_independent_exactly(changes: dict) -> None:
    coupled = replace(METHODS["csd-edit"], **changes)
    assert torch.equal(step(1, coupled).g, step(1, replace(coupled, coupling="independent")).g)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("method", METHODS)
def test_finite_and_detached(n: int, method: str) -> None:
    result = step(n, METHODS[method])
    assert result.g.isfinite().all()
    assert not result.g.requires_grad
    assert (result.weights is None) == (METHODS[method].coupling == "independent")
    require_finite(measured(result), particles(n), step=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 100])
def test_chunks_of_the_score_change_no_bit(method: str, chunk: int) -> None:
    whole, split = step(7, METHODS[method]), step(7, METHODS[method], ToyScore(chunk=chunk))
    if METHODS[method].regulariser == "none":
        assert torch.equal(whole.g, split.g)
    torch.testing.assert_close(whole.g, split.g)  # matrix products of other sizes round differently
    assert torch.equal(whole.r, split.r)


@pytest.mark.parametrize("method", METHODS)
def test_order_of_particles_does_not_matter(method: str) -> None:
    z, s, e = (latents(6, seed, torch.float64) for seed in (1, 2, 3))
    order, index = torch.tensor([3, 5, 0, 1, 4, 2]), torch.arange(6)
    config = METHODS[method]
    g = csd_step(ToyScore(), noised(z, s, index, t=T, e=e), config).g
    moved = csd_step(ToyScore(), noised(z[order], s[order], index[order], t=T, e=e[order]), config).g
    torch.testing.assert_close(moved, g[order])


def test_same_arguments_same_bits_and_arguments_untouched() -> None:
    z, s, e = (latents(4, seed) for seed in (1, 2, 3))
    before = [x.clone() for x in (z, s, e)]
    z.requires_grad_()
    results = [csd_step(ToyScore(), noised(z, s, torch.arange(4), t=T, e=e), CsdConfig()) for _ in range(2)]
    assert torch.equal(results[0].g, results[1].g)
    assert all(torch.equal(x, y) for x, y in zip((z, s, e), before, strict=True))
    assert z.grad is None


def pull(x: Noised) -> Latents:
    """Gradient, by autograd, of half the squared distance to the source."""
    with torch.enable_grad():
        z = x.z.detach().requires_grad_()
        return torch.autograd.grad((z - x.s).square().sum() / 2, z)[0]


def test_regularisers_add_their_gradients_unweighted() -> None:
    z, s, e = (latents(4, seed) for seed in (1, 2, 3))
    x = noised(z, s, torch.arange(4), t=T, e=e)
    plain = csd_step(ToyScore(), x, CsdConfig())
    two = csd_step(ToyScore(), x, CsdConfig(), regularisers=(pull, pull))
    torch.testing.assert_close(two.g, plain.g + 2 * (z - s))
    assert torch.equal(two.r, plain.r)


def test_surrogate_loss_has_gradient_g_exactly() -> None:
    z, g = latents(4, 1).requires_grad_(), latents(4, 2)
    surrogate_loss(z, g).backward()
    assert z.grad is not None
    assert torch.equal(z.grad, g)


def test_surrogate_loss_reaches_what_the_latents_are_made_of() -> None:
    field = latents(1, 1, torch.float64).requires_grad_()
    g = latents(3, 2, torch.float64)

    def views() -> Tensor:
        return torch.cat([field, 2 * field, field.square()])

    (by_loss,) = torch.autograd.grad(surrogate_loss(views(), g), field)
    views().backward(g)
    assert field.grad is not None
    torch.testing.assert_close(by_loss, field.grad)
    torch.testing.assert_close(by_loss[0], g[0] + 2 * g[1] + 2 * field.detach()[0] * g[2])


class Broken(ToyScore):
    """Predicts infinity for one particle."""

    def target(self, x: Noised) -> Latents:
        return super().target(x).where((x.index != 12).view(-1, 1, 1, 1), torch.inf)


@pytest.mark.parametrize("method", METHODS)
def test_guard_names_step_timestep_and_the_culprit_alone(method: str) -> None:
    z, s, e = (latents(3, seed) for seed in (1, 2, 3))
    x = noised(z, s, torch.tensor([7, 12, 9]), t=T, e=e)
    result = csd_step(Broken(), x, METHODS[method])
    with pytest.raises(
        FloatingPointError, match=r"residual is not finite at step 41, timestep 350, for particles \[12\]"
    ):
        require_finite(measured(result), x, step=41)


def test_guard_sees_a_broken_regulariser() -> None:
    x = particles(3)
    result = csd_step(ToyScore(), x, CsdConfig(), regularisers=[lambda x: x.z / 0])
    with pytest.raises(FloatingPointError, match=r"gradient is not finite at step 0, .* for particles \[0, 1, 2\]"):
        require_finite(measured(result), x, step=0)


@pytest.mark.parametrize("coupling", ["motion", "depth"])
def test_coupling_along_correspondences_takes_a_kernel(coupling: Literal["motion", "depth"]) -> None:
    x, config = particles(3), CsdConfig(coupling=coupling)
    with pytest.raises(ValueError, match=rf"^coupling: expected svgd or independent where .* got '{coupling}'$"):
        csd_step(ToyScore(), x, config)
    with pytest.raises(ValueError, match=r"^coupling: expected svgd or independent"):
        Objective(ToyScore(), config)
    along, plain = (csd_step(ToyScore(), x, c, kernel=RbfKernel(0.1)) for c in (config, CsdConfig()))
    assert torch.equal(along.g, plain.g)
    assert not torch.equal(along.g, csd_step(ToyScore(), x, CsdConfig()).g)


def test_the_kernel_compares_features_of_clean_latents_where_the_prior_gives_them() -> None:
    x, config = particles(3), CsdConfig(kernel_on="features", repulsion=0.5)
    with pytest.raises(ValueError, match=r"^kernel_on: expected noisy or clean, as this prior gives no features, got"):
        csd_step(ToyScore(), x, config)
    with pytest.raises(ValueError, match=r"^kernel_on: "):
        Objective(ToyScore(), config)
    plain = csd_step(ToyScore(), x, replace(config, kernel_on="clean"))
    torch.testing.assert_close(csd_step(FlatFeatures(), x, config).g, plain.g)


class FlatFeatures(ToyScore):
    """Latents are their own features."""

    def perceptual_features(self, z: Latents) -> Tensor:
        return z.flatten(1)


def test_independent_particles_ignore_a_kernel() -> None:
    x, config = particles(3), CsdConfig(coupling="independent")
    assert torch.equal(csd_step(ToyScore(), x, config, kernel=RbfKernel()).g, csd_step(ToyScore(), x, config).g)


def test_timestep_outside_the_schedule_is_refused() -> None:
    z = latents(2)
    with pytest.raises(ValueError, match="t: expected a timestep"):
        noised(z, z, torch.arange(2), t=1000, e=z)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("method", METHODS)
def test_cuda_agrees_with_the_cpu(n: int, method: str) -> None:
    z, s, e = (latents(n, seed) for seed in (1, 2, 3))
    here = csd_step(ToyScore(), particles(n), METHODS[method])
    x = noised(z.cuda(), s.cuda(), torch.arange(n).cuda(), t=T, e=e.cuda())
    there = csd_step(ToyScore(), x, METHODS[method])
    assert there.g.is_cuda
    torch.testing.assert_close(there.g.cpu(), here.g, rtol=1e-4, atol=1e-5)
    require_finite(measured(there), x, step=0)


def test_numbers_of_a_step_against_loops() -> None:
    K = torch.tensor([[1.0, 0.2, 0.4], [0.2, 1.0, 0.6], [0.4, 0.6, 1.0]])
    g, r = latents(3, 1), latents(3, 2)
    found = measured(StepResult(g, r, K))
    assert found.kernel_mean == pytest.approx(0.4)
    for x, rms in ((g, found.gradient_rms), (r, found.residual_rms)):
        assert rms == pytest.approx(math.sqrt(sum(v * v for v in x.flatten().tolist()) / x.numel()))
    assert found.wrong == (("residual", []), ("gradient", []))
    assert math.isnan(measured(StepResult(g, r, None)).kernel_mean)
    assert math.isnan(measured(StepResult(g[:1], r[:1], K[:1, :1])).kernel_mean)


def test_what_is_not_finite_is_named() -> None:
    g, r = latents(3, 1), latents(3, 2)
    g[1, 0, 0, 0], g[2, 1, 2, 1], r[0, 0, 0, 0] = torch.nan, torch.inf, -torch.inf
    assert measured(StepResult(g, r, None)).wrong == (("residual", [0]), ("gradient", [1, 2]))
