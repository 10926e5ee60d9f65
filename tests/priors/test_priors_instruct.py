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

from csd3d.engine.residuals import Score, source_baseline
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.denoiser import Denoiser
from csd3d.priors.prompts.vocabulary import UnknownPrompt
from csd3d.priors.store.silence import quiet
from tests.priors.tiny import write_tiny_prior

PROMPTS = ["make it snowy", "make it night", "make the ball red"]


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


def stock_predictions(directory: Path, rgb: Tensor, prompts: list[str], s_text: float, s_image: float) -> Spy:
    """Run diffusers' own pipeline for a few steps, watching."""
    with quiet():
        pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(str(directory))
    pipeline.set_progress_bar_config(disable=True)
    spy = Spy(pipeline.scheduler)
    pipeline.scheduler = spy
    pipeline(
        prompts,
        image=rgb,
        num_inference_steps=3,
        guidance_scale=s_text,
        image_guidance_scale=s_image,
        generator=torch.Generator().manual_seed(6),
        output_type="latent",
    )
    return spy


@pytest.mark.parametrize("kind", ["tiny", "velocity"])
@pytest.mark.parametrize(("s_text", "s_image"), [(7.5, 1.5), (2.0, 1.0), (3.0, 5.0)])
def test_the_guided_prediction_is_the_pipelines(
    kind: str, s_text: float, s_image: float, request: pytest.FixtureRequest
) -> None:
    directory: Path = request.getfixturevalue(kind)
    rgb = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    spy = stock_predictions(directory, rgb, PROMPTS, s_text, s_image)
    prior = InstructPrior.load(directory, device="cpu")
    score = prior.score(PROMPTS, s_text=s_text, s_image=s_image)
    s = prior.codec.encode(rgb)
    assert len(spy.seen) == 3
    for t, z_t, expected in spy.seen:
        if kind == "velocity":
            ab = prior.schedule.alpha_bar(t)
            expected = ab**0.5 * expected + (1 - ab) ** 0.5 * z_t
        torch.testing.assert_close(score.target(z_t, t, s, torch.arange(3)), expected, atol=1e-5, rtol=1e-5)


def test_the_source_prediction_is_the_pipelines_with_an_empty_instruction(tiny: Path, prior: InstructPrior) -> None:
    rgb = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(8))
    spy = stock_predictions(tiny, rgb, ["", ""], 7.5, 1.5)
    score = prior.score("make it snowy", s_text=7.5, s_image=1.5)
    s = prior.codec.encode(rgb)
    for t, z_t, expected in spy.seen:
        torch.testing.assert_close(score.source(z_t, t, s, torch.arange(2)), expected, atol=1e-5, rtol=1e-5)


def test_the_schedule_is_the_schedulers(tiny: Path, prior: InstructPrior) -> None:
    assert torch.equal(prior.schedule.alphas_cumprod, prior._scheduler.alphas_cumprod)
    assert isinstance(prior.score("make it snowy", s_text=1.0, s_image=1.0), Score)


def test_five_branches_are_six(prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    """CSD-Edit's residual with the source evaluated in all three branches, text included, against ours."""
    z, s, index = batch
    e = torch.randn(z.shape, generator=torch.Generator().manual_seed(9))
    t, s_text, s_image = 321, 7.5, 1.5
    score = prior.score("make it snowy", s_text=s_text, s_image=s_image)
    unet = prior._denoiser._unet
    null, text = prior._text.encode(["", "make it snowy"])

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
    five = source_baseline(score, z_t, s, index, t=t, e=e)
    torch.testing.assert_close(five, six, atol=1e-5, rtol=1e-5)


def test_a_particle_costs_three_and_two_rows(
    prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    z_t, s, index = batch
    counts: list[int] = []
    monkeypatch.setattr(prior._denoiser._unet, "forward", lambda x, *_, **__: (counts.append(len(x)), (x[:, :4],))[1])
    score = prior.score("make it snowy", s_text=7.5, s_image=1.5)
    score.target(z_t, 10, s, index)
    score.source(z_t, 10, s, index)
    assert counts == [9, 6]


@pytest.mark.parametrize("most", [1, 2, 4, 5])
def test_pieces_give_the_same_as_the_whole(
    prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor], most: int
) -> None:
    chunks = Chunks(torch.device("cpu"), max_rows=most)
    small = replace(prior, _denoiser=Denoiser(prior._denoiser._unet, chunks=chunks))
    for side in ("target", "source"):
        whole, pieces = (
            getattr(p.score(PROMPTS, s_text=7.5, s_image=1.5), side)(batch[0], 321, *batch[1:]) for p in (prior, small)
        )
        torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)


def test_running_out_of_memory_changes_nothing_but_leaves_a_note(
    tiny: Path, prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    z_t, s, index = batch
    cramped = InstructPrior.load(tiny, device="cpu")
    forward = cramped._denoiser._unet.forward

    def limited(x: Tensor, *args: Any, **settings: Any) -> Any:
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x, *args, **settings)

    monkeypatch.setattr(cramped._denoiser._unet, "forward", limited)
    ours, expected = (p.score("make it snowy", s_text=7.5, s_image=1.5) for p in (cramped, prior))
    torch.testing.assert_close(
        ours.target(z_t, 321, s, index), expected.target(z_t, 321, s, index), atol=1e-5, rtol=1e-5
    )
    assert "ran out of memory with 9 rows in one call; going on with 4" in cramped.notes[0]


def test_a_particle_depends_on_itself_alone(prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    z_t, s, index = batch
    score = prior.score(PROMPTS, s_text=7.5, s_image=1.5)
    together = score.target(z_t, 321, s, index)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        score.target(z_t[order], 321, s[order], index[order]), together[order], atol=1e-5, rtol=1e-5
    )
    for i in range(3):
        alone = score.target(z_t[i : i + 1], 321, s[i : i + 1], index[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-5, rtol=1e-5)


def test_particles_take_the_sentence_they_are_assigned(
    prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    z_t, s, _ = batch
    guidance: dict[str, Any] = {"s_text": 7.5, "s_image": 1.5}
    assign = torch.tensor([0, 0, 1, 1, 1, 0])
    several = prior.score(PROMPTS[:2], **guidance, assign=assign).target(z_t, 321, s, torch.tensor([5, 3, 0]))
    single = [prior.score(p, **guidance).target(z_t, 321, s, torch.tensor([5, 3, 0])) for p in PROMPTS[:2]]
    expected = torch.stack([single[0][0], single[1][1], single[0][2]])
    torch.testing.assert_close(several, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(single[0], single[1], atol=1e-3)


def test_particles_without_a_sentence_are_refused(prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    z_t, s, _ = batch
    with pytest.raises(ValueError, match="expected 0 to 1, the particles with a prompt, got"):
        prior.score(PROMPTS[:2], s_text=1.0, s_image=1.0).target(z_t, 1, s, torch.arange(3))
    with pytest.raises(ValueError, match="assign: expected numbers from 0 to 1"):
        prior.score(PROMPTS[:2], s_text=1.0, s_image=1.0, assign=torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="expected a sentence or more"):
        prior.score([], s_text=1.0, s_image=1.0)


def test_predictions_come_back_as_the_latents_came(prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    z_t, s, index = batch
    score = prior.score("make it snowy", s_text=7.5, s_image=1.5)
    for dtype in (torch.float32, torch.float64):
        z = z_t.to(dtype).requires_grad_()
        out = score.target(z, 321, s.to(dtype), index)
        assert out.dtype == dtype
        assert not out.requires_grad


def test_a_closed_prior_takes_its_own_wordings_and_nothing(tiny: Path, tmp_path: Path, prior: InstructPrior) -> None:
    guidance: dict[str, Any] = {"s_text": 1.0, "s_image": 1.0}
    assert torch.equal(
        prior.score("MAKE it   snowy!", **guidance).sentences.text,
        prior.score("make it snowy", **guidance).sentences.text,
    )
    assert prior.score("", **guidance).sentences.text.shape[0] == 2
    with pytest.raises(UnknownPrompt, match="does not know 'make it purple'"):
        prior.score(["make it snowy", "make it purple"], **guidance)
    free = InstructPrior.load(write_tiny_prior(tmp_path / "free", closed=False), device="cpu")
    assert free.vocabulary is None
    assert free.score("make it purple", **guidance).sentences.text.shape[0] == 2


def test_the_loaded_scheduler_is_never_changed(prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    before = copy.deepcopy(vars(prior._scheduler))
    score = prior.score("make it snowy", s_text=7.5, s_image=1.5)
    score.target(batch[0], 321, *batch[1:])
    prior.sample(torch.rand(1, 3, 16, 16), "make it snowy", s_text=7.5, s_image=1.5, rng=torch.Generator(), steps=2)
    after = vars(prior._scheduler)
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        assert same if isinstance(same, bool) else same.all(), name
