"""A first look: a few frames of a clip, small and with few steps, in seconds."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from csd3d.engine.loop import Objective, StepInfo, run
from csd3d.engine.residuals import Score
from csd3d.engine.reuse import reusing
from csd3d.engine.sampling import run_sampling
from csd3d.engine.types import Latents
from csd3d.media.clip.source import Clip, open_clip
from csd3d.media.geometry import WorkingSize, from_working, resize, to_working
from csd3d.media.masks import ClipMask, masked
from csd3d.media.place import require_place
from csd3d.media.sheet import contact_sheet, evenly, save_picture
from csd3d.priors.families.clip_editor import ClipEditor
from csd3d.priors.families.clips import fold
from csd3d.priors.prior import Prior
from csd3d.priors.prompts.photographs import prior_note
from csd3d.priors.store.fingerprint import files_beside, models_beside
from csd3d.runs.found_masks import mask_file, search_of
from csd3d.runs.preview import quick
from csd3d.runs.progress import RunProgress
from csd3d.runs.reference import like_files
from csd3d.runs.sampling import SampledEdit
from video.config import VideoConfig
from video.found_mask import masks_of_frames
from video.motion import Followed
from video.particles import Batching, FrameParticles, LatentRows
from video.plan import Plan, plan_frames, prompts_of, score_of, size_of_clip, spans_of, times_of
from video.render import Pictures, latents_at
from video.sampled import frames_in_memory
from video.windows import score_of_windows

FRAMES = 4
"""Frames that are shown, of the whole clip."""


@torch.no_grad()
def preview_video(
    clip: Path, prompt: str, picture: Path, config: VideoConfig, *, prior: Prior, progress: RunProgress | None = None
) -> Path:
    """Write a contact sheet: a few frames of `clip` and what they become. Nothing else is written.

    Colours and composition are those to expect; fine structure is not, and steadiness is not shown. An editor of clips
    sees a few frames around each one that is shown.

    Raises:
        ValueError, FileNotFoundError: as for `video.edit.edit_video`.
    """
    csd = quick(config.csd or prior.defaults(by=config.by, of="frames"))
    config = replace(config, csd=csd)
    progress = progress or RunProgress()
    with ExitStack() as stack:
        source = stack.enter_context(
            open_clip(clip, max_frames=config.max_frames, fps=config.fps, stream=config.stream, strict=config.strict)
        )
        mask = None
        if (file := mask_file(config.mask)) is not None:
            mask = stack.enter_context(ClipMask(file, source.info, feather_px=config.feather))
        read = (*source.info.inputs, *(mask.inputs if mask else ()), *like_files(config), *files_beside(config))
        require_place(picture, inputs=read, models=models_beside(config))
        stack.enter_context(progress)
        times = times_of(source)
        shown = evenly(len(times), FRAMES)
        plan = plan_frames(spans_of(prompt), [times[i] for i in shown], strict=False)
        if note := prior_note(prior, plan.sentences):
            progress.say(f"note: {note}")
        prior.assign_pictures([shown[i] for i in plan.frames])
        scored = _scored(prior, plan, config) if plan.groups else None  # refuses before anything is encoded
        size = size_of_clip(source, config.size or prior.native_px, prior.multiple_px)
        rgb = torch.cat([to_working(source.read(i, i + 1), size) for i in shown])
        s = around(source, shown, prior, size) if isinstance(prior, ClipEditor) else prior.encode(rgb)
        s = s[list(plan.frames)]
        z = s
        if scored is not None:
            z, moves, steps = _preview_moves(*scored, prior, plan, config, s)
            for _ in progress.track("preview", moves, total=steps):
                pass
        seen = None
        if mask is not None:
            seen = resize(torch.cat([mask(range(i, i + 1)) for i in shown]), size.height_px, size.width_px)
        elif (search := search_of(config, config.mask, prior)) is not None and plan.groups:
            seeker = search.under(prompts_of(plan, config))
            seen = masks_of_frames(prior, seeker, s, plan, rgb, seed=config.seed)
            seen = None if seen is None else from_working(seen, size, size.height_px, size.width_px)
        pictures = Pictures(
            lambda some: prior.decode(latents_at(z, s, some, config.strength)), lambda some: prior.decode(s[some]),
            size, plan, detail=config.detail, strength=config.strength,
        )  # fmt: skip
        small = from_working(rgb, size, size.height_px, size.width_px)
        edited = pictures(range(len(shown)), small)
        if seen is not None:
            edited = masked(small, edited, seen.clamp(0, 1))
    rows = {"source": small, prompt: edited}
    save_picture(contact_sheet(rows, columns=[f"{times[i]:.2f} s" for i in shown]), picture)
    return picture


def around(source: Clip, shown: Sequence[int], prior: ClipEditor, size: WorkingSize) -> Latents:
    """Windows of two latent frames, in the middle of which the shown frames are; at its ends the clip stands still."""
    reach, last, found = (prior.codec.stride + 1) // 2, source.info.frames - 1, list[Tensor]()
    for i in shown:
        numbers = torch.arange(i - reach, i - reach + prior.codec.stride + 1).clamp(0, last)
        rgb = to_working(source.read(int(numbers[0]), int(numbers[-1]) + 1), size)
        found.append(fold(prior.codec.encode_clip(rgb[numbers - numbers[0]].to(prior.device)).cpu()))
    return torch.stack(found)


def _scored(prior: Prior, plan: Plan, config: VideoConfig) -> tuple[Score, SampledEdit | None]:
    """The prior under the sentences, and how particles are sampled if they are."""
    if isinstance(prior, ClipEditor):
        return score_of_windows(prior, plan, config)
    return score_of(prior, plan, config, Followed())


def _preview_moves(
    score: Score, sampled: SampledEdit | None, prior: Prior, plan: Plan, config: VideoConfig, s: Latents
) -> tuple[LatentRows, Iterator[StepInfo], int]:
    """Latents, the steps that edit them, and how many those are."""
    if sampled is not None:
        frames = frames_in_memory(s, sampled, config, plan.groups, device=prior.device)
        steps = len(sampled.sampling.transitions) * frames.steps_per_epoch
        return frames.z, run_sampling(frames, sampled.sampling), steps
    csd = config.engine
    particles = FrameParticles(s, csd, batching=Batching(FRAMES, groups=plan.groups), device=prior.device)
    steps = csd.steps * particles.steps_per_epoch
    rng = torch.Generator().manual_seed(config.seed)
    return particles.z, run(particles, Objective(reusing(score, csd), replace(csd, steps=steps)), rng=rng), steps
