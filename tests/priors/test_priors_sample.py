"""Editing each picture for itself: the same as the diffusers pipeline from the same noise."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from torch import Tensor

from csd3d.priors.instruct import InstructPrior
from csd3d.priors.networks.sampler import fresh_scheduler
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.store.load import load_parts
from csd3d.priors.store.save import save_prior
from csd3d.priors.store.silence import quiet
from tests.priors.tiny import write_tiny_prior

PROMPTS = ["make it snowy", "make it night"]


@pytest.fixture
def rgb() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))


def stock(directory: Path, rgb: Tensor, noise: Tensor, *, ddim: bool = False) -> Tensor:
    """What diffusers' own pipeline makes of it, random steps drawn from seed 3."""
    with quiet():
        pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(str(directory))
    pipeline.set_progress_bar_config(disable=True)
    if ddim:
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    made: Any = pipeline(
        PROMPTS,
        image=rgb,
        num_inference_steps=4,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        latents=noise,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    )
    return made.images


@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler]
)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_it_is_the_pipelines_output(
    tmp_path: Path, rgb: Tensor, noise: Tensor, scheduler: type, prediction: str
) -> None:
    first = write_tiny_prior(tmp_path / "first", prediction=prediction)  # pyright: ignore[reportArgumentType]
    parts = load_parts(first, device=torch.device("cpu"), dtype=torch.float32)
    own = scheduler.from_config(parts.scheduler.config)  # pyright: ignore[reportAttributeAccessIssue]
    models = (parts.vae, parts.text_encoder, parts.tokenizer, parts.unet)
    directory = save_prior(tmp_path / "second", *models, own, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = InstructPrior.load(directory, device="cpu").sample(
            rgb, Prompts(PROMPTS), Guidance(7.5, 1.5), rng=torch.Generator().manual_seed(3), steps=4, noise=noise
        )
    torch.testing.assert_close(ours, stock(directory, rgb, noise), atol=1e-4, rtol=0)


def test_ddim_can_stand_in_for_the_directorys_own(tmp_path: Path, rgb: Tensor, noise: Tensor) -> None:
    first = write_tiny_prior(tmp_path / "first")
    parts = load_parts(first, device=torch.device("cpu"), dtype=torch.float32)
    own: Any = PNDMScheduler.from_config(parts.scheduler.config)  # pyright: ignore[reportAttributeAccessIssue]
    models = (parts.vae, parts.text_encoder, parts.tokenizer, parts.unet)
    directory = save_prior(tmp_path / "second", *models, own, dtype=torch.float32)
    prior = InstructPrior.load(directory, device="cpu")
    made = {
        sampler: prior.sample(
            rgb, Prompts(PROMPTS), Guidance(7.5, 1.5), rng=torch.Generator(), steps=4, noise=noise, sampler=sampler
        )
        for sampler in ("own", "ddim")
    }
    torch.testing.assert_close(made["ddim"], stock(directory, rgb, noise, ddim=True), atol=1e-4, rtol=0)
    assert not torch.allclose(made["own"], made["ddim"], atol=1e-3)


def test_ddim_does_not_clip_latents_as_if_they_were_pixels(tmp_path: Path) -> None:
    """A config of another class says nothing of it, and DDIM's default is to clip."""
    parts = load_parts(write_tiny_prior(tmp_path / "first"), device=torch.device("cpu"), dtype=torch.float32)
    models = (parts.vae, parts.text_encoder, parts.tokenizer, parts.unet)
    for name, kind in (("ancestral", EulerAncestralDiscreteScheduler), ("pndm", PNDMScheduler)):
        directory = save_prior(tmp_path / name, *models, kind(), dtype=torch.float32)
        scheduler = fresh_scheduler(InstructPrior.load(directory, device="cpu").scheduler, "ddim")
        assert (scheduler.config.clip_sample, scheduler.config.thresholding) == (False, False)
        assert scheduler.config.set_alpha_to_one is False


def sample(prior: InstructPrior, rgb: Tensor, seed: int, noise: Tensor | None = None) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return prior.sample(rgb, Prompts("make it snowy"), Guidance(3.0, 1.2), rng=rng, steps=3, noise=noise)


def test_same_seed_same_pictures(prior: InstructPrior, rgb: Tensor) -> None:
    out = sample(prior, rgb, 0)
    assert torch.equal(out, sample(prior, rgb, 0))
    assert not torch.equal(out, sample(prior, rgb, 1))
    assert out.shape == rgb.shape
    assert out.dtype == torch.float32
    assert 0 <= float(out.min()) <= float(out.max()) <= 1


def test_one_row_of_noise_serves_all_pictures(prior: InstructPrior, rgb: Tensor, noise: Tensor) -> None:
    same = rgb[:1].repeat(2, 1, 1, 1)
    shared = sample(prior, same, 0, noise[:1])
    torch.testing.assert_close(shared[0], shared[1], atol=1e-5, rtol=0)
    own = sample(prior, same, 0, noise)
    torch.testing.assert_close(own[0], shared[0], atol=1e-5, rtol=0)
    assert not torch.allclose(own[1], shared[1], atol=1e-4)


def test_noise_of_another_shape_is_refused(prior: InstructPrior, rgb: Tensor) -> None:
    for shape in ((3, 4, 8, 8), (2, 4, 8, 4)):
        with pytest.raises(ValueError, match=r"noise: expected shape \(2, 4, 8, 8\) or one row of it"):
            sample(prior, rgb, 0, torch.zeros(shape))
