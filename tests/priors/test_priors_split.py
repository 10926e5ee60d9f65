"""Priors of Stable Diffusion's shape give their guided predictions in two parts; runs keep one of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from csd3d.attention.presets import Attention
from csd3d.engine import Batch, CsdConfig, Objective, StepInfo, csd_step, reusing, run
from csd3d.engine.reuse import ReusingScore, SplitScore
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.stored import ReusingParticles
from tests.priors.tiny import write_tiny_prior
from video.particles import Batching, FrameParticles

CSD = CsdConfig(steps=5, s_text=7.5, s_image=1.5, guide_every=3, timesteps="descending", guide_max=450)


@pytest.fixture(scope="module")
def priors(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Prior, Prompts]]:
    path = tmp_path_factory.mktemp("priors") / "t2i"
    v = write_tiny_prior(path, kind="text-to-image", prediction="v_prediction", closed=False)
    return {
        "editor": (InstructPrior.load(tiny, device="cpu"), Prompts("make it snowy")),
        "captions": (TextToImagePrior.load(v, device="cpu"), Prompts("a ball", "a cube")),
    }


def noisy(prior: Prior) -> Any:
    z, s, e = (torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    return prior.schedule.noised(Batch(z, s, torch.arange(3)), 300, e)


@pytest.mark.parametrize("kind", ["editor", "captions"])
def test_the_parts_add_up_to_the_prediction(kind: str, priors: dict[str, tuple[Prior, Prompts]]) -> None:
    prior, prompts = priors[kind]
    x = noisy(prior)
    for guidance in (Guidance(7.5, 1.5), Guidance(1.5, 1.5), Guidance(3.0, 2.0, source=2.0)):
        score = prior.score(prompts, guidance)
        assert isinstance(score, SplitScore)
        assert score.is_guided(300)
        for side, whole in (("target", score.target(x)), ("source", score.source(x))):
            parts = score.unconditional(x, side) + score.conditional(x, side)  # pyright: ignore[reportArgumentType]
            torch.testing.assert_close(parts, whole, atol=2e-5, rtol=1e-4)
    assert not prior.score(prompts, Guidance(1.0, 1.0)).is_guided(300)  # pyright: ignore[reportAttributeAccessIssue]


def begun(prior: Prior, prompts: Prompts) -> tuple[ReusingParticles, ReusingScore]:
    s = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    score = reusing(prior.score_under(CSD, prompts), CSD)
    assert isinstance(score, ReusingScore)
    return ReusingParticles(FrameParticles(s, CSD, batching=Batching(3)), score), score


def moves(particles: ReusingParticles, score: ReusingScore, rng: torch.Generator, start: int) -> Iterator[StepInfo]:
    return run(particles, Objective(score, CSD), rng=rng, start=start)


def test_a_run_that_reuses_is_resumed_bit_for_bit(priors: dict[str, tuple[Prior, Prompts]]) -> None:
    whole, rng = begun(*priors["editor"]), torch.Generator().manual_seed(0)
    assert len(list(moves(*whole, rng, 0))) == 5
    for stop in (1, 3):
        first, rng = begun(*priors["editor"]), torch.Generator().manual_seed(0)
        steps = moves(*first, rng, 0)
        for _ in range(stop):
            next(steps)
        saved, second = {k: v.clone() for k, v in first[0].state_dict().items()}, begun(*priors["editor"])
        second[0].load_state_dict(saved)
        list(moves(*second, rng, stop))
        expected = whole[0].state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in second[0].state_dict().items())
    with pytest.raises(ValueError, match="state: expected that of a run with --guide-every above 1"):
        begun(*priors["editor"])[0].load_state_dict(whole[0].own.state_dict())


@pytest.mark.parametrize("change", [{"regulariser": "patch-nce"}, {"kernel_on": "features"}])
def test_features_are_those_of_the_prior(change: dict[str, Any], priors: dict[str, tuple[Prior, Prompts]]) -> None:
    prior, prompts = priors["captions"]
    csd = replace(CSD, nce_patches=4, **change)
    score = reusing(prior.score_under(csd, prompts), csd)
    x = noisy(prior)
    expected = csd_step(prior.score_under(replace(csd, guide_every=1), prompts), x, csd).g
    torch.testing.assert_close(csd_step(score, x, csd).g, expected, atol=2e-5, rtol=1e-3)


def test_it_is_refused_with_controlled_attention(priors: dict[str, tuple[Prior, Prompts]]) -> None:
    prior, prompts = priors["editor"]
    with pytest.raises(ValueError, match="guide-every: expected 1 with controlled attention"):
        prior.score_under(CSD, prompts, Attention(share="anchors"))
