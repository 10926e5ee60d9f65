"""The score of an instruction editor: equal to what the diffusers pipeline computes inside its loop, in any pieces."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.residuals import Score, source_baseline
from csd3d.engine.types import Batch, Noised
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.denoiser import Denoiser
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.prompts.vocabulary import UnknownPrompt
from csd3d.priors.store.silence import quiet
from tests.priors.tiny import write_tiny_prior

PROMPTS = ["make it snowy", "make it night", "make the ball red"]

noisy = Noised.from_noisy


@pytest.fixture(scope="session")
def velocity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a prior that predicts v."""
    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "velocity", prediction="v_prediction")


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, source latents, particle numbers."""
    rng = torch.Generator().manual_seed(5)
    return torch.randn(3, 4, 8, 8, generator=rng), torch.randn(3, 4, 8, 8, generator=rng), torch.arange(3)


class Spy:
    """Stands before a scheduler and keeps what the pipeline hands to its step."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.seen: list[tuple[int, Tensor, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def step(self, noise_pred: Tensor, t: Tensor, latents: Tensor, **settings: Any) -> Any:
        self.seen.append((int(t), latents.clone(), noise_pred.clone()))
        return self._scheduler.step(noise_pred, t, latents, **settings)


def stock_predictions(
    directory: Path, rgb: Tensor, prompts: list[str], s_text: float, s_image: float, negative: str = ""
) -> Spy:
    """Run diffusers' own pipeline for a few steps, watching."""
    with quiet():
        pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(str(directory))
    pipeline.set_progress_bar_config(disable=True)
    spy = Spy(pipeline.scheduler)
    pipeline.scheduler = spy
    pipeline(
        prompts,
        image=rgb,
        negative_prompt=[negative] * len(prompts),
        num_inference_steps=3,
        guidance_scale=s_text,
        image_guidance_scale=s_image,
        generator=torch.Generator().manual_seed(6),
        output_type="latent",
    )
    return spy


@pytest.mark.parametrize("kind", ["tiny", "velocity"])
@pytest.mark.parametrize("negative", ["", "make it night"])
@pytest.mark.parametrize(("s_text", "s_image"), [(7.5, 1.5), (2.0, 1.0), (3.0, 5.0), (1.5, 1.5)])
def test_the_guided_prediction_is_the_pipelines(
    kind: str, s_text: float, s_image: float, negative: str, request: pytest.FixtureRequest
) -> None:
    directory: Path = request.getfixturevalue(kind)
    rgb = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    spy = stock_predictions(directory, rgb, PROMPTS, s_text, s_image, negative)
    prior = InstructPrior.load(directory, device="cpu")
    score = prior.score(Prompts(PROMPTS, negative=negative), Guidance(s_text, s_image))
    s = prior.codec.encode(rgb)
    assert len(spy.seen) == 3
    for t, z_t, expected in spy.seen:
        if kind == "velocity":
            ab = prior.schedule.alpha_bar(t)
            expected = ab**0.5 * expected + (1 - ab) ** 0.5 * z_t
        error = (score.target(noisy(z_t, t, s, torch.arange(3))) - expected).abs().max()
        assert error <= 1e-5 * max(1, float(expected.abs().max()))  # guidance multiplies rounding as it does the rest


def test_the_source_prediction_is_the_pipelines_with_an_empty_instruction(tiny: Path, prior: InstructPrior) -> None:
    rgb = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(8))
    spy = stock_predictions(tiny, rgb, ["", ""], 7.5, 1.5)
    score = prior.score(Prompts("make it snowy"), Guidance(7.5, 1.5))
    s = prior.codec.encode(rgb)
    for t, z_t, expected in spy.seen:
        torch.testing.assert_close(score.source(noisy(z_t, t, s, torch.arange(2))), expected, atol=1e-5, rtol=1e-5)


def test_the_schedule_is_the_schedulers(tiny: Path, prior: InstructPrior) -> None:
    alphas: Any = prior.scheduler
    assert torch.equal(prior.schedule.alphas_cumprod, alphas.alphas_cumprod)
    assert isinstance(prior.score(Prompts("make it snowy"), Guidance(1.0, 1.0)), Score)


def test_no_negative_prompt_is_the_empty_one(prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    plain, empty, other = (
        prior.score(p, Guidance(7.5, 1.5)).target(noisy(batch[0], 321, *batch[1:]))
        for p in (Prompts(PROMPTS), Prompts(PROMPTS, negative=" "), Prompts(PROMPTS, negative="make it night"))
    )
    assert torch.equal(plain, empty)
    assert not torch.allclose(plain, other, atol=1e-3)


def test_what_is_asked_for_and_avoided_at_once_changes_nothing(
    prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    _, s, index = batch
    e = torch.randn(s.shape, generator=torch.Generator().manual_seed(9))
    score = prior.score(Prompts("make it night", negative="make it night"), Guidance(7.5, 1.5))
    r = source_baseline(score, prior.schedule.noised(Batch(s, s, index), 321, e))
    assert r.abs().max() < 1e-5


@pytest.mark.parametrize(("s_text", "s_image"), [(7.5, 1.5), (1.5, 1.5), (7.5, 1.0), (1.0, 1.0)])
def test_fewer_branches_are_six(
    prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor], s_text: float, s_image: float
) -> None:
    """CSD-Edit's residual with the source evaluated in all three branches, text included, against ours."""
    z, s, index = batch
    e = torch.randn(z.shape, generator=torch.Generator().manual_seed(9))
    t = 321
    score = prior.score(Prompts("make it snowy"), Guidance(s_text, s_image))
    unet = prior.denoiser._unet
    null, text = prior.text.encode(["", "make it snowy"])

    def guided(x_t: Tensor, sentence: Tensor) -> Tensor:
        image = s / prior.codec.scaling

        def call(condition: Tensor, hidden: Tensor) -> Tensor:
            return unet(
                torch.cat([x_t, condition], 1), torch.tensor(t), encoder_hidden_states=hidden.repeat(3, 1, 1)
            ).sample

        e_00, e_I0, e_IT = call(0 * image, null), call(image, null), call(image, sentence)
        return e_00 + s_image * (e_I0 - e_00) + s_text * (e_IT - e_I0)

    z_t, s_t = prior.schedule.add_noise(z, e, t), prior.schedule.add_noise(s, e, t)
    six = guided(z_t, text) - guided(s_t, null)
    ours = source_baseline(score, prior.schedule.noised(Batch(z, s, index), t, e))
    torch.testing.assert_close(ours, six, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("s_text", "s_image", "target", "source"),
    [(7.5, 1.5, 3, 2), (1.5, 1.5, 2, 2), (7.5, 1.0, 2, 1), (1.0, 1.0, 1, 1), (0.0, 1.0, 1, 1)],
)
def test_rows_of_a_particle_are_the_branches_that_count(
    prior: InstructPrior,
    batch: tuple[Tensor, Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    s_text: float,
    s_image: float,
    target: int,
    source: int,
) -> None:
    z_t, s, index = batch
    counts: list[int] = []
    monkeypatch.setattr(prior.denoiser._unet, "forward", lambda x, *_, **__: (counts.append(len(x)), (x[:, :4],))[1])
    score = prior.score(Prompts("make it snowy"), Guidance(s_text, s_image))
    score.target(noisy(z_t, 10, s, index))
    score.source(noisy(z_t, 10, s, index))
    assert counts == [3 * target, 3 * source]


@pytest.mark.parametrize(("t", "inside"), [(199, False), (200, True), (599, True), (600, False)])
def test_outside_its_interval_guidance_is_none_and_costs_no_rows(
    prior: InstructPrior,
    batch: tuple[Tensor, Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    t: int,
    inside: bool,
) -> None:
    z_t, s, index = batch
    x = noisy(z_t, t, s, index)
    csd = CsdConfig(s_text=7.5, s_image=1.5, guide_min=200, guide_max=600)
    score, plain, always = (
        prior.score(Prompts("make it snowy"), g)
        for g in (Guidance.of(csd), Guidance(1.0), Guidance(csd.s_text, csd.s_image))
    )
    other = always if inside else plain
    assert torch.equal(score.target(x), other.target(x))
    assert torch.equal(score.source(x), other.source(x))
    counts: list[int] = []
    monkeypatch.setattr(prior.denoiser._unet, "forward", lambda x, *_, **__: (counts.append(len(x)), (x[:, :4],))[1])
    score.target(x)
    score.source(x)
    assert counts == ([9, 6] if inside else [3, 3])


@pytest.mark.parametrize("most", [1, 2, 4, 5])
def test_pieces_give_the_same_as_the_whole(
    prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor], most: int
) -> None:
    chunks = Chunks(torch.device("cpu"), max_rows=most)
    small = replace(prior, denoiser=Denoiser(prior.denoiser._unet, chunks=chunks))
    for side in ("target", "source"):
        whole, pieces = (
            getattr(p.score(Prompts(PROMPTS), Guidance(7.5, 1.5)), side)(noisy(batch[0], 321, *batch[1:]))
            for p in (prior, small)
        )
        torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)


def test_running_out_of_memory_changes_nothing_but_leaves_a_note(
    tiny: Path, prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    z_t, s, index = batch
    cramped = InstructPrior.load(tiny, device="cpu")
    forward = cramped.denoiser._unet.forward

    def limited(x: Tensor, *args: Any, **settings: Any) -> Any:
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x, *args, **settings)

    monkeypatch.setattr(cramped.denoiser._unet, "forward", limited)
    ours, expected = (p.score(Prompts("make it snowy"), Guidance(7.5, 1.5)) for p in (cramped, prior))
    torch.testing.assert_close(
        ours.target(noisy(z_t, 321, s, index)),
        expected.target(noisy(z_t, 321, s, index)),
        atol=1e-5,
        rtol=1e-5,
    )
    assert "ran out of memory with 9 rows in one call; going on with 4" in cramped.notes[0]


def test_a_particle_depends_on_itself_alone(prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    z_t, s, index = batch
    score = prior.score(Prompts(PROMPTS), Guidance(7.5, 1.5))
    together = score.target(noisy(z_t, 321, s, index))
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        score.target(noisy(z_t[order], 321, s[order], index[order])), together[order], atol=1e-5, rtol=1e-5
    )
    for i in range(3):
        alone = score.target(noisy(z_t[i : i + 1], 321, s[i : i + 1], index[i : i + 1]))
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-5, rtol=1e-5)


def test_particles_take_the_sentence_they_are_assigned(
    prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    z_t, s, _ = batch
    guidance = Guidance(7.5, 1.5)
    assign = torch.tensor([0, 0, 1, 1, 1, 0])
    several = prior.score(Prompts(PROMPTS[:2], assign=assign), guidance).target(
        noisy(z_t, 321, s, torch.tensor([5, 3, 0]))
    )
    single = [
        prior.score(Prompts(p), guidance).target(noisy(z_t, 321, s, torch.tensor([5, 3, 0]))) for p in PROMPTS[:2]
    ]
    expected = torch.stack([single[0][0], single[1][1], single[0][2]])
    torch.testing.assert_close(several, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(single[0], single[1], atol=1e-3)


def test_particles_without_a_sentence_are_refused(prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    z_t, s, _ = batch
    with pytest.raises(ValueError, match="expected 0 to 1, the particles with a prompt, got"):
        prior.score(Prompts(PROMPTS[:2]), Guidance(1.0, 1.0)).target(noisy(z_t, 1, s, torch.arange(3)))
    with pytest.raises(ValueError, match="assign: expected numbers from 0 to 1"):
        prior.score(Prompts(PROMPTS[:2], assign=torch.tensor([0, 2])), Guidance(1.0, 1.0))
    with pytest.raises(ValueError, match="expected a sentence or more"):
        prior.score(Prompts([]), Guidance(1.0, 1.0))


def test_predictions_come_back_as_the_latents_came(prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    z_t, s, index = batch
    score = prior.score(Prompts("make it snowy"), Guidance(7.5, 1.5))
    for dtype in (torch.float32, torch.float64):
        z = z_t.to(dtype).requires_grad_()
        out = score.target(noisy(z, 321, s.to(dtype), index))
        assert out.dtype == dtype
        assert not out.requires_grad


def test_a_closed_prior_takes_its_own_wordings_and_nothing(tiny: Path, tmp_path: Path, prior: InstructPrior) -> None:
    guidance = Guidance(1.0, 1.0)
    assert torch.equal(
        prior.score(Prompts("MAKE it   snowy!"), guidance).sentences.text,
        prior.score(Prompts("make it snowy"), guidance).sentences.text,
    )
    assert prior.score(Prompts(""), guidance).sentences.text.shape[0] == 2
    with pytest.raises(UnknownPrompt, match="does not know 'make it purple'"):
        prior.score(Prompts(["make it snowy", "make it purple"]), guidance)
    with pytest.raises(UnknownPrompt, match="does not know 'ugly'"):
        prior.score(Prompts("make it snowy", negative="ugly"), guidance)
    free = InstructPrior.load(write_tiny_prior(tmp_path / "free", closed=False), device="cpu")
    assert free.vocabulary is None
    assert free.score(Prompts("make it purple"), guidance).sentences.text.shape[0] == 2


def test_the_loaded_scheduler_is_never_changed(prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    before = copy.deepcopy(vars(prior.scheduler))
    score = prior.score(Prompts("make it snowy"), Guidance(7.5, 1.5))
    score.target(noisy(batch[0], 321, *batch[1:]))
    prior.sample(torch.rand(1, 3, 16, 16), Prompts("make it snowy"), Guidance(7.5, 1.5), rng=torch.Generator(), steps=2)
    after = vars(prior.scheduler)
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        assert same if isinstance(same, bool) else same.all(), name
