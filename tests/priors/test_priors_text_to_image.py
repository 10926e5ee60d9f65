"""The score of a text-to-image model: equal to what the diffusers pipeline computes inside its loop, in any pieces."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import Tensor

from csd3d.engine import METHODS, csd_step
from csd3d.engine.residuals import Score, noise_baseline, source_baseline
from csd3d.engine.types import Batch, Noised
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.denoiser import Denoiser
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.store.silence import quiet
from csd3d.priors.text_to_image import TextToImagePrior
from tests.priors.test_priors_instruct import Spy
from tests.priors.tiny import write_tiny_prior

CAPTIONS = ["a red ball", "a blue cube at night", "snow"]
KINDS: dict[str, dict[str, Any]] = {
    "own": {},
    "stable diffusion 1": {"stock": True},
    "stable diffusion 2": {"stock": True, "prediction": "v_prediction"},
}
SIZE = {"height": 64, "width": 96}

noisy = Noised.from_noisy


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("t2i")
    return {
        name: write_tiny_prior(folder / name, kind="text-to-image", closed=False, **settings)
        for name, settings in KINDS.items()
    }


@pytest.fixture(scope="session")
def t2i(directories: dict[str, Path]) -> TextToImagePrior:
    return TextToImagePrior.load(directories["own"], device="cpu")


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, source latents, particle numbers; neither square."""
    rng = torch.Generator().manual_seed(5)
    return torch.randn(3, 4, 8, 12, generator=rng), torch.randn(3, 4, 8, 12, generator=rng), torch.arange(3)


def pipeline_of(directory: Path) -> Any:
    with quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(str(directory))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("s_text", "negative"), [(7.5, ""), (2.0, ""), (1.0, ""), (7.5, "a red cube"), (1.0, "snow")])
def test_the_guided_prediction_is_the_pipelines(
    kind: str, s_text: float, negative: str, directories: dict[str, Path]
) -> None:
    pipeline = pipeline_of(directories[kind])
    spy = Spy(pipeline.scheduler)
    pipeline.scheduler = spy
    noise = torch.randn(3, 4, 8, 12, generator=torch.Generator().manual_seed(6))
    pipeline(
        CAPTIONS, num_inference_steps=3, guidance_scale=s_text, latents=noise, negative_prompt=[negative] * 3,
        **SIZE, output_type="latent",
    )  # fmt: skip
    prior = TextToImagePrior.load(directories[kind], device="cpu")
    score = prior.score(Prompts(CAPTIONS, CAPTIONS, negative=negative), Guidance(s_text))
    assert len(spy.seen) == 3
    for t, z_t, expected in spy.seen:
        if prior.prediction == "v_prediction":
            ab = prior.schedule.alpha_bar(t)
            expected = ab**0.5 * expected + (1 - ab) ** 0.5 * z_t
        for side in (score.target, score.source):
            error = side(noisy(z_t, t, torch.zeros_like(z_t), torch.arange(3))) - expected
            assert error.abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_the_pipelines(kind: str, directories: dict[str, Path]) -> None:
    noise = torch.randn(3, 4, 8, 12, generator=torch.Generator().manual_seed(6))
    expected = pipeline_of(directories[kind])(
        CAPTIONS, num_inference_steps=4, guidance_scale=7.5, latents=noise, **SIZE, output_type="pt"
    ).images
    prior = TextToImagePrior.load(directories[kind], device="cpu")
    ours = prior.sample(
        Prompts(CAPTIONS), Guidance(7.5), 3, size_lat=(8, 12), rng=torch.Generator(), steps=4, noise=noise
    )
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_a_seed_gives_the_same_samples(t2i: TextToImagePrior) -> None:
    a, b, c = (
        t2i.sample(
            Prompts("a red ball"), Guidance(3.0), 2, size_lat=(4, 6), rng=torch.Generator().manual_seed(k), steps=2
        )
        for k in (1, 1, 2)
    )
    assert a.shape == (2, 3, 32, 48)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_both_baselines_are_differences_of_predictions(
    t2i: TextToImagePrior, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    z, s, index = batch
    e = torch.randn(z.shape, generator=torch.Generator().manual_seed(9))
    score = t2i.score(Prompts("a red ball", "a blue cube"), Guidance(7.5))
    assert isinstance(score, Score)
    x = t2i.schedule.noised(Batch(z, s, index), 321, e)
    target = score.target(x)
    source = t2i.score(Prompts("a blue cube"), Guidance(7.5)).target(noisy(x.s_t, 321, s, index))
    torch.testing.assert_close(noise_baseline(score, x), target - e)
    torch.testing.assert_close(source_baseline(score, x), target - source)


def test_an_edit_to_what_is_there_changes_nothing(t2i: TextToImagePrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    _, s, index = batch
    e = torch.randn(s.shape, generator=torch.Generator().manual_seed(9))
    score = t2i.score(Prompts("a red ball", "a red ball"), Guidance(7.5))
    r = source_baseline(score, t2i.schedule.noised(Batch(s, s, index), 321, e))
    assert r.abs().max() < 1e-5


@pytest.mark.parametrize("method", ["sds", "csd", "dds"])
def test_named_methods_run_on_it(t2i: TextToImagePrior, batch: tuple[Tensor, Tensor, Tensor], method: str) -> None:
    z, s, index = batch
    e = torch.randn(z.shape, generator=torch.Generator().manual_seed(9))
    score = t2i.score(Prompts("a red ball", "a blue cube" if method == "dds" else None), Guidance(7.5))
    result = csd_step(score, t2i.schedule.noised(Batch(z, s, index), 321, e), METHODS[method])
    assert result.g.isfinite().all()
    assert result.r.abs().max() > 1e-3


def test_the_source_baseline_needs_a_source_prompt(t2i: TextToImagePrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    _, s, index = batch
    with pytest.raises(ValueError, match="source_prompt: expected a caption of the source"):
        t2i.score(Prompts("a red ball"), Guidance(7.5)).source(noisy(s, 321, s, index))


@pytest.mark.parametrize(("s_text", "expected"), [(7.5, [6, 6]), (1.0, [3, 3])])
def test_guidance_costs_a_second_row(
    s_text: float,
    expected: list[int],
    t2i: TextToImagePrior,
    batch: tuple[Tensor, Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(t2i.denoiser._unet, "forward", lambda x, *_, **__: (counts.append(len(x)), (x,))[1])
    score = t2i.score(Prompts("a red ball", "a cube"), Guidance(s_text))
    score.target(noisy(batch[0], 10, *batch[1:]))
    score.source(noisy(batch[0], 10, *batch[1:]))
    assert counts == expected


def test_captions_are_guided_in_an_interval(t2i: TextToImagePrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    z_t, s, index = batch
    prompts = Prompts("a red ball", "a blue cube")
    score, plain, always = (
        t2i.score(prompts, g) for g in (Guidance(7.5, source=2.0, t_min=300), Guidance(1.0), Guidance(7.5, source=2.0))
    )
    for t, other in ((299, plain), (300, always)):
        x = noisy(z_t, t, s, index)
        assert torch.equal(score.target(x), other.target(x))
        assert torch.equal(score.source(x), other.source(x))
    assert not torch.equal(score.source(x), plain.source(x))


@pytest.mark.parametrize("most", [1, 2, 5])
def test_pieces_give_the_same_as_the_whole(
    t2i: TextToImagePrior, batch: tuple[Tensor, Tensor, Tensor], most: int
) -> None:
    chunks = Chunks(torch.device("cpu"), max_rows=most)
    small = replace(t2i, denoiser=Denoiser(t2i.denoiser._unet, chunks=chunks))
    whole, pieces = (
        p.score(Prompts(CAPTIONS), Guidance(7.5)).target(noisy(batch[0], 321, *batch[1:])) for p in (t2i, small)
    )
    torch.testing.assert_close(pieces, whole, atol=5e-5, rtol=1e-5)  # guidance amplifies how batches round


def test_particles_take_the_captions_they_are_assigned(
    t2i: TextToImagePrior, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    z, s, _ = batch
    assign, index = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([5, 3, 0])
    score = t2i.score(Prompts(CAPTIONS[:2], ["snow", "a cube"], assign=assign), Guidance(7.5))
    for side, captions in ((score.target, CAPTIONS[:2]), (score.source, ["snow", "a cube"])):
        single = [t2i.score(Prompts(c), Guidance(7.5)).target(noisy(z, 321, s, index)) for c in captions]
        expected = torch.stack([single[0][0], single[1][1], single[0][2]])
        torch.testing.assert_close(side(noisy(z, 321, s, index)), expected, atol=1e-5, rtol=1e-5)
    one_source = t2i.score(Prompts(CAPTIONS[:2], "snow", assign=assign), Guidance(7.5))
    torch.testing.assert_close(
        one_source.source(noisy(z, 321, s, index)),
        t2i.score(Prompts("snow"), Guidance(7.5)).target(noisy(z, 321, s, index)),
    )


def test_the_other_kind_is_refused(tiny: Path, directories: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="expected a text-to-image model, got an instruction editor"):
        TextToImagePrior.load(tiny, device="cpu")
    with pytest.raises(ValueError, match="expected an instruction editor, got a text-to-image model"):
        InstructPrior.load(directories["own"], device="cpu")
