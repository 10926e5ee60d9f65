"""What a replay says and where it leads, against the diffusers pipelines themselves, which sample in their own way."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import hypot, sqrt
from typing import Any, NamedTuple

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from csd3d.priors.families.check import guided_like
from csd3d.priors.families.conditions import arguments_of
from csd3d.priors.families.levels import Level, edm_level, flow_level
from csd3d.priors.families.pictures import to_bytes
from csd3d.priors.families.prior import FamilyPrior
from csd3d.priors.families.replay import laid, tokens, untokens
from csd3d.priors.families.sd3_instruct import StableDiffusion3InstructPix2PixPipeline
from tests.priors.families.tiny import FAMILIES

SIDE, SENTENCE, TEXT, IMAGE, STEPS = 64, "make it snowy", 3.0, 1.5, 4


class Step(NamedTuple):
    """What a pipeline's scheduler was given, and what it made of it."""

    prediction: Tensor
    t: float
    sigma: float
    read: Tensor
    """Latents as the network reads them."""
    after: Tensor


def sample(
    pipe: Any, prior: FamilyPrior, picture: Tensor, noise: Tensor, *, references: Sequence[Tensor] = ()
) -> list[Step]:
    """The pipeline's own sampling in four steps, in its own way, but for the size of the source."""
    family, steps = prior.family, []
    shown = picture if family.kind == "instruct" else None
    call = arguments_of(family, SENTENCE, "", shown, references=references, text=TEXT, image=IMAGE)
    call |= {"height": SIDE, "width": SIDE} if family.sized else {}
    call |= {"max_area": SIDE**2} if family.max_area else {}
    theirs = pipe.scheduler.step

    def watch(prediction: Tensor, t: Any, x: Tensor, *args: Any, **more: Any) -> Any:
        scaled = getattr(pipe.scheduler, "scale_model_input", lambda x, t: x)(x, t).float()
        result = theirs(prediction, t, x, *args, **more)
        sigmas, k = getattr(pipe.scheduler, "sigmas", None), pipe.scheduler.step_index - 1
        assert sigmas is not None
        steps.append(Step(prediction.float(), float(t), float(sigmas[k]), scaled, result[0].float()))
        return result

    pipe.scheduler.step = watch
    if type(pipe).__name__.startswith("DreamLite"):
        pipe.prepare_latents = lambda *args, **more: noise.clone()
    else:
        call["latents"] = laid(noise, family.layout, channels=prior.codec.channels)
    pipe(**family.call, **call, num_inference_steps=STEPS, output_type="latent")
    return steps


def level_at(prior: FamilyPrior, step: Step) -> Level:
    """The level that a scheduler calls sigma and t."""
    ab = 1 / (1 + step.sigma**2)
    if prior.levels.noising == "edm":
        return edm_level(ab)
    if prior.levels.noising == "vp":
        return Level(ab, "epsilon", step.t)
    level = flow_level((1 - step.sigma) ** 2 / hypot(1 - step.sigma, step.sigma) ** 2)
    assert level.time == pytest.approx(step.t, abs=1e-3 if type(prior.pipe).__name__ != "SanaPipeline" else 1)
    return replace(level, time=step.t)  # which that of Sana cuts to a whole number


def stock(prior: FamilyPrior, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pipeline itself."""
    cls = StableDiffusion3InstructPix2PixPipeline if prior.family.ours else DiffusionPipeline
    pipe: Any = cls.from_pretrained(str(prior.path), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    if name == "cosxl":
        pipe.is_cosxl_edit = True
    if prior.family.sized_by:
        wide = (SIDE, SIDE) if name != "qwen-edit" else (SIDE, SIDE, None)
        monkeypatch.setattr(sys.modules[type(pipe).__module__], prior.family.sized_by, lambda area, ratio: wide)
    return pipe


@pytest.mark.parametrize("name", FAMILIES)
def test_it_predicts_and_samples_as_its_pipeline_does(
    name: str, family: Callable[[str], FamilyPrior], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = family(name)
    pipe = stock(prior, name, monkeypatch)
    picture = to_bytes(torch.rand(1, 3, SIDE, SIDE))[0]
    s = prior.encode(picture[None].permute(0, 3, 1, 2) / 255)
    noise = torch.randn(s.shape)
    steps = sample(pipe, prior, picture, noise)
    is_flow, layout, c = prior.levels.noising == "flow", prior.family.layout, prior.codec.channels
    z = noise / level_at(prior, steps[0]).scale if is_flow else noise * steps[0].sigma / sqrt(1 + steps[0].sigma ** 2)
    if name.startswith(("pixart", "sdxl")):  # begins at unit variance, and its sigmas are not at the first of them
        z = noise.clone()
    elif name == "cosxl":
        z = noise * pipe.scheduler.init_noise_sigma / sqrt(1 + steps[0].sigma ** 2)

    def said(z_in: Tensor, level: Level) -> Tensor:
        out = prior.predict(prior.learnt.branches, z_in, level.time, s, [SENTENCE], "")
        rows = dict(zip(prior.learnt.branches, [tokens(x, layout, channels=c) for x in out], strict=True))
        return untokens(guided_like(prior.family, rows, TEXT, IMAGE), layout, s.shape)

    def plain(x: Tensor) -> Tensor:
        return untokens(x, "plain" if x.ndim == 4 else "packed", s.shape)

    for k, step in enumerate(steps):
        level, theirs = level_at(prior, step), plain(step.prediction)
        error = (said(plain(step.read), level) - theirs).abs().max()
        assert error <= 1e-5 * max(1, float(theirs.abs().max())), k
        ours = said(level.scale * z, level)  # where our own sampling has come to
        epsilon = level.epsilon(ours, z)
        noise_part = step.sigma * ours if is_flow else sqrt(1 - level.ab) * epsilon
        clean = level.scale * z - noise_part if is_flow else (z - noise_part) / sqrt(level.ab)
        following = level_at(prior, steps[k + 1]).ab if k + 1 < STEPS else 1.0
        z = sqrt(following) * clean + sqrt(1 - following) * epsilon
    last = plain(steps[-1].after)
    assert (z - last).abs().max() <= 1e-4 * max(1.0, float(last.abs().max()))


@pytest.mark.parametrize("name", ["klein", "klein-distilled", "qwen-plus"])
def test_references_are_further_pictures_of_its_pipeline(
    name: str, family: Callable[[str], FamilyPrior], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = family(name)
    pictures = to_bytes(torch.rand(3, 3, SIDE, SIDE))
    s, *references = prior.encode(pictures.permute(0, 3, 1, 2) / 255)
    noise = torch.randn(1, *s.shape)
    step = sample(stock(prior, name, monkeypatch), prior, pictures[0], noise, references=list(pictures[1:]))[0]
    level, layout, c = level_at(prior, step), prior.family.layout, prior.codec.channels
    z_in = level.scale * (noise / level.scale)

    def said(*shown: Tensor) -> Tensor:
        out = prior.predict(prior.learnt.branches, z_in, level.time, s[None], [SENTENCE], "", [shown])
        rows = dict(zip(prior.learnt.branches, [tokens(x, layout, channels=c) for x in out], strict=True))
        return untokens(guided_like(prior.family, rows, TEXT, IMAGE), layout, noise.shape)

    theirs = untokens(step.prediction, "plain" if step.prediction.ndim == 4 else "packed", noise.shape)
    largest = max(1.0, float(theirs.abs().max()))
    assert (said(*references) - theirs).abs().max() <= 1e-5 * largest
    assert (said(*reversed(references)) - theirs).abs().max() > 1e-4
    assert (said() - theirs).abs().max() > 1e-4
