"""An editor of clips in Wan's layout: as its pipeline, and windows of a longer clip that agree."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.lucy import pipeline_lucy_edit
from diffusers.pipelines.lucy.pipeline_lucy_edit import LucyEditPipeline
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.types import Batch
from csd3d.priors.families.check import guided_like
from csd3d.priors.families.clip_editor import ClipEditor
from csd3d.priors.families.clips import ClipCodec, fold, unfold
from csd3d.priors.families.conditions import arguments_of
from csd3d.priors.families.levels import Level
from csd3d.priors.families.load import load_family
from csd3d.priors.families.pictures import to_bytes
from csd3d.priors.families.replay import layout_of, tokens, untokens
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.prior import Guidance, Prompts
from tests.priors.families.test_families_stock import IMAGE, SENTENCE, STEPS, TEXT, Step, level_at
from video import windows
from video.config import VideoConfig
from video.windows import edit_clip

SIDE, FRAMES = 64, 9


@pytest.fixture(scope="module")
def lucy(family_path: Callable[[str], Path]) -> ClipEditor:
    prior = load_family(family_path("lucy"), device="cpu")
    assert isinstance(prior, ClipEditor)
    return prior


def sampled(prior: ClipEditor, clip: Tensor, noise: Tensor) -> list[Step]:
    """Four steps of the pipeline itself, which wants ftfy to mend sentences."""
    pipe: Any = LucyEditPipeline.from_pretrained(str(prior.path), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    steps, theirs = list[Step](), pipe.scheduler.step

    def watch(prediction: Tensor, t: Any, x: Tensor, **more: Any) -> Any:
        before = x.float()
        result = theirs(prediction, t, x, **more)
        sigma = float(pipe.scheduler.sigmas[pipe.scheduler.step_index - 1])
        steps.append(Step(prediction.float(), float(t), sigma, before, result[0].float()))
        return result

    pipe.scheduler.step = watch
    call = arguments_of(prior.family, SENTENCE, "", clip, text=TEXT, image=IMAGE)
    call |= {"height": SIDE, "width": SIDE, "num_frames": FRAMES, "num_inference_steps": STEPS}
    latents = tokens(noise, "clip", channels=prior.codec.channels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_lucy_edit, "ftfy", SimpleNamespace(fix_text=str), raising=False)
        pipe(**call, latents=latents, output_type="latent")
    return steps


def test_it_predicts_and_samples_as_its_pipeline_does(lucy: ClipEditor) -> None:
    codec = lucy.codec
    clip = to_bytes(torch.rand(FRAMES, 3, SIDE, SIDE))
    s = fold(codec.encode_clip(clip.permute(0, 3, 1, 2) / 255))[None]
    noise = torch.randn(s.shape)
    steps = sampled(lucy, clip, noise)
    z = noise / level_at(lucy, steps[0]).scale

    def said(z_in: Tensor, level: Level) -> Tensor:
        out = lucy.predict(lucy.learnt.branches, z_in, level.time, s, [SENTENCE], "")
        rows = dict(zip(lucy.learnt.branches, [tokens(x, "clip", channels=codec.channels) for x in out], strict=True))
        return untokens(guided_like(lucy.family, rows, TEXT, IMAGE), "clip", s.shape)

    for k, step in enumerate(steps):
        level, theirs = level_at(lucy, step), untokens(step.prediction, layout_of(step.prediction), s.shape)
        read = untokens(step.read, layout_of(step.read), s.shape)
        assert (said(read, level) - theirs).abs().max() <= 1e-5 * max(1, float(theirs.abs().max())), k
        ours = said(level.scale * z, level)
        clean, epsilon = level.scale * z - step.sigma * ours, level.epsilon(ours, z)
        following = level_at(lucy, steps[k + 1]).ab if k + 1 < STEPS else 1.0
        z = following**0.5 * clean + (1 - following) ** 0.5 * epsilon
    last = untokens(steps[-1].after, "clip", s.shape)
    assert (z - last).abs().max() <= 1e-4 * max(1.0, float(last.abs().max()))


def test_windows_are_particles_like_others(lucy: ClipEditor) -> None:
    codec = lucy.codec
    s = torch.stack([fold(codec.encode_clip(torch.rand(FRAMES, 3, SIDE, SIDE))) for _ in range(3)])
    x = lucy.schedule.noised(Batch(s, s, torch.arange(3)), 300, torch.randn(s.shape))
    score = lucy.score(Prompts(SENTENCE), Guidance(3.0))
    together = score.target(x)
    for i in range(3):
        torch.testing.assert_close(score.target(x.rows([i])), together[i : i + 1], atol=1e-5, rtol=1e-5)
    nothing = lucy.score(Prompts(""), Guidance(3.0))
    assert torch.equal(nothing.target(x), nothing.source(x))
    assert (together - score.source(x)).abs().max() > 1e-5


def test_a_clip_comes_back_from_its_latents_in_the_same_length(lucy: ClipEditor) -> None:
    codec = lucy.codec
    z = codec.encode_clip(torch.rand(FRAMES, 3, SIDE, SIDE))
    assert z.shape == (3, codec.channels, SIDE // codec.factor, SIDE // codec.factor)
    assert codec.decode_clip(z).shape == (FRAMES, 3, SIDE, SIDE)
    assert torch.equal(unfold(fold(z), codec.channels), z)
    rgb = torch.rand(7, 3, SIDE, SIDE)
    held = torch.cat([rgb, rgb[-1:].expand(2, -1, -1, -1)])
    assert torch.equal(codec.encode_clip(rgb), codec.encode_clip(held)), "the last frame is repeated"
    with pytest.raises(ValueError, match="rgb: expected sides that are multiples of 16 px, got 64x24"):
        codec.encode_clip(torch.rand(5, 3, 24, SIDE))


@pytest.mark.parametrize(
    "more", [{}, {"patch_size": 2, "in_channels": 12, "out_channels": 12, "is_residual": True}], ids=["2.1", "2.2"]
)
def test_pieces_of_a_clip_are_those_of_the_whole(more: dict[str, Any]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae: Any = diffusers.AutoencoderKLWan(
            base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1] * 4,
            latents_std=[1.3] * 4, **more,
        )  # fmt: skip
    vae = vae.requires_grad_(False).eval()
    codec = ClipCodec(vae, factor=8 * more.get("patch_size", 1), multiple_px=16, chunks=Chunks(torch.device("cpu")))
    rgb = torch.rand(13, 3, 32, SIDE)
    theirs = vae.encode((2 * rgb - 1).transpose(0, 1)[None]).latent_dist.mode()
    z = codec.encode_clip(rgb)
    torch.testing.assert_close(1.3 * z.transpose(0, 1)[None] + 0.1, theirs, atol=1e-6, rtol=1e-5)
    encoding = codec.begin()
    parts = [encoding(rgb[:3]), encoding(rgb[3:4]), encoding(rgb[4:12]), encoding(rgb[12:], last=True)]
    assert [len(part) for part in parts] == [1, 0, 2, 1]
    assert torch.equal(torch.cat([latent for part in parts for latent in part]), z)
    back = (vae.decode(theirs).sample[0].transpose(0, 1) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(codec.decode_clip(z), back, atol=2e-5, rtol=0)
    lengths = [len(frames) for frames in codec.decode_frames(z.split(1))]
    assert lengths == [1, 4, 4, 4]


def test_a_long_clip_is_edited_as_one(lucy: ClipEditor) -> None:
    rgb, csd = torch.rand(16, 3, SIDE, SIDE), CsdConfig(steps=2, s_text=3.0)
    edit = edit_clip(lucy, rgb, SENTENCE, csd, window=3, overlap=1)
    assert len(edit.windows) == 2, "5 latent frames"
    assert edit.decode().shape == rgb.shape
    assert torch.equal(edit.windows.z[:], edit.windows.s[:])
    assert [info.index for info in edit.moves] == [(0, 1), (0, 1)]
    assert not torch.equal(edit.windows.z[:], edit.windows.s[:])
    again = edit_clip(lucy, rgb, SENTENCE, csd, window=3, overlap=1)
    for _ in again.moves:
        pass
    assert torch.equal(edit.decode(), again.decode()), "same seed, same bytes"


def test_windows_in_memory_are_as_long_as_those_of_runs(lucy: ClipEditor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "VideoConfig", partial(VideoConfig, window_frames=9, overlap_frames=4))
    edit = edit_clip(lucy, torch.rand(16, 3, SIDE, SIDE), SENTENCE, CsdConfig(steps=1))
    assert len(edit.windows) == 2, "windows of 3 latent frames, of which the next holds 1"


def test_editors_of_pictures_and_of_clips_are_told_apart(lucy: ClipEditor, family_path: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="prior: expected an editor of pictures, got Lucy Edit, which edits clips"):
        lucy.score_under(CsdConfig(), Prompts(SENTENCE))
    klein = load_family(family_path("klein"), device="cpu")
    with pytest.raises(ValueError, match=r"prior: expected an editor of clips, got .*klein, which edits pictures"):
        edit_clip(klein, torch.rand(5, 3, SIDE, SIDE), SENTENCE, CsdConfig())
