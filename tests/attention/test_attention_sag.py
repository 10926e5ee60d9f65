"""Self-Attention Guidance against its definition, written out in loops."""

import math

import pytest
import torch
from torch import Tensor

from csd3d.attention import read_maps
from csd3d.attention.attended import AttendedScore
from csd3d.attention.compositions import PlugAndPlay
from csd3d.attention.presets import Attention, parse
from csd3d.attention.sag import SelfAttentionGuidance, blurred, received
from csd3d.engine import Batch, Noised, Schedule
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from tests.priors.tiny import write_tiny_prior

T = 600


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, InstructPrior | TextToImagePrior]:
    folder = tmp_path_factory.mktemp("sag")
    t2i = write_tiny_prior(folder / "t2i", kind="text-to-image", closed=False)
    found = {
        "t2i": TextToImagePrior.load(t2i, device="cpu"),
        "instruct": InstructPrior.load(write_tiny_prior(folder / "instruct"), device="cpu"),
    }
    for prior in found.values():
        for name, module in prior.denoiser._unet.named_modules():
            if name.endswith(("to_q", "to_k")):
                module.weight.data *= 6  # random attentions look everywhere alike
    return found


def step(n: int = 3) -> Noised:
    rng = torch.Generator().manual_seed(5)
    z, s, e = (torch.randn(n, 4, 8, 8, generator=rng) for _ in range(3))
    return Schedule.scaled_linear().noised(Batch(z, s, torch.arange(n) + 4), T, e)


def by_loops(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian of 9 x 9 with reflected borders."""
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-4, 5)]
    weights = [w / sum(weights) for w in weights]

    def inside(k: int, side: int) -> int:
        return abs(k) if k < side else 2 * (side - 1) - k

    out, (height, width) = torch.zeros_like(x), x.shape[-2:]
    for r in range(height):
        for c in range(width):
            for i, a in enumerate(weights):
                for j, b in enumerate(weights):
                    out[..., r, c] += a * b * x[..., inside(r + i - 4, height), inside(c + j - 4, width)]
    return out


def test_the_blur_is_a_gaussian_of_nine_by_nine() -> None:
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(blurred(x, 1.3), by_loops(x, 1.3), atol=1e-12, rtol=1e-12)
    assert blurred(torch.randn(1, 1, 3, 2), 1.0).shape == (1, 1, 3, 2)
    torch.testing.assert_close(blurred(torch.ones(1, 2, 9, 9), 2.0), torch.ones(1, 2, 9, 9))


def test_what_is_received_is_one_in_the_mean_and_counts_own_places() -> None:
    A = torch.rand(2, 3, 4, 4).softmax(-1)
    torch.testing.assert_close(received(A), A.mean(1).sum(1))
    longer = torch.rand(2, 3, 4, 10).softmax(-1)
    torch.testing.assert_close(received(longer).mean(1), torch.ones(2))


@pytest.mark.parametrize(
    ("kind", "guidance", "base"),
    [
        ("t2i", (7.5, 1.0), "null"), ("t2i", (1.0, 1.0), "text"),
        ("instruct", (7.5, 1.5), "00"), ("instruct", (1.0, 1.0), "IT"),
    ],
)  # fmt: skip
def test_it_is_the_papers(
    priors: dict[str, InstructPrior | TextToImagePrior], kind: str, guidance: tuple[float, float], base: str
) -> None:
    prior, x = priors[kind], step()
    score = prior.score(Prompts("make it snowy" if kind == "instruct" else "a ball"), Guidance(*guidance))
    ab, places = score.schedule.alpha_bar(T), x.index.tolist()
    (mid,) = [site for site in score.sites if site.kind == "self" and site.place == "mid"]
    S = read_maps(score, x, sites=[mid]).within("target", base, places, level=mid.level)
    side = mid.size((8, 8))
    alone = score.target_branch(x, base)
    x0 = (x.z_t - (1 - ab) ** 0.5 * alone) / ab**0.5
    soft, mixed = by_loops(x0, 1.0), x0.clone()
    for i in range(len(places)):
        for r in range(8):
            for c in range(8):
                place = (r * side[0] // 8) * side[1] + c * side[1] // 8
                if sum(float(S[i, q, place]) for q in range(S.shape[1])) > 1:
                    mixed[i, :, r, c] = soft[i, :, r, c]
    assert 0.05 < (mixed != x0).float().mean() < 0.95
    degraded = Noised(x.z, x.s, x.index, x.e, T, ab**0.5 * mixed + (1 - ab) ** 0.5 * alone, x.s_t)
    expected = score.target(x) + 0.75 * (alone - score.target_branch(degraded, base))
    got = AttendedScore(score, (SelfAttentionGuidance(),)).target(x)
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)
    assert (got - score.target(x)).abs().max() > 1e-3


def test_pieces_change_nothing_and_no_scale_costs_nothing(priors: dict[str, InstructPrior | TextToImagePrior]) -> None:
    prior, x = priors["t2i"], step()
    score = prior.score(Prompts("a red ball", "a ball"), Guidance(3.0))
    before = prior.rows_done
    assert torch.equal(AttendedScore(score, (SelfAttentionGuidance(scale=0.0),)).target(x), score.target(x))
    assert prior.rows_done - before == 2 * 6
    for compositions in ((SelfAttentionGuidance(),), (PlugAndPlay(), SelfAttentionGuidance())):
        own = AttendedScore(score, compositions, shares=True).for_step(x)
        whole = own.target(x)
        torch.testing.assert_close(torch.cat([own.target(x.rows([i])) for i in range(3)]), whole, atol=1e-3, rtol=1e-3)
    before = prior.rows_done
    AttendedScore(score, (SelfAttentionGuidance(),)).target(x)
    assert prior.rows_done - before == 9, "one row more a particle"


def test_where_only_controls_act_it_has_none(priors: dict[str, InstructPrior | TextToImagePrior]) -> None:
    score = priors["t2i"].score(Prompts("a ball"), Guidance(3.0))
    with pytest.raises(ValueError, match="expected one of reweight, structure, sag"):
        Attention.of("none", ("pnp",)).alone(score, (8, 8))
    guiding = Attention.of("none", ("sag",))
    assert guiding.guides
    assert guiding.alone(score, (8, 8)) == []


def test_it_is_asked_for_by_name() -> None:
    assert parse("sag") == SelfAttentionGuidance()
    assert parse("sag:scale=1.5,blur=2") == SelfAttentionGuidance(1.5, 2.0)
    with pytest.raises(ValueError, match="scale: expected 0 to 10"):
        parse("sag:scale=11")
    with pytest.raises(ValueError, match="blur: expected more than 0"):
        parse("sag:blur=0")
