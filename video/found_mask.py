"""The mask of a clip that its prior finds: where every sentence edits the frames, followed along their motion.

The maps of a frame (`csd3d.attention`) are averaged with those of its neighbours under the same sentence
where they show the same points, so that a mask does not flicker. A frame under two sentences, at a cross-fade, has the
masks of both by their weights, so that what the mask of one keeps out does not appear when a fade begins; one that is
carried from key frames has theirs.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from csd3d.attention.masks import Found, fuse
from csd3d.engine.types import Latents
from csd3d.media.atomic import atomic_folder
from csd3d.media.clip.probe import ClipInfo
from csd3d.media.clip.source import Clip, chunk_frames
from csd3d.media.geometry import WorkingSize, from_working
from csd3d.media.pictures.levels import to_levels
from csd3d.priors.prior import Prior
from csd3d.runs.found_masks import Seeker, at_pixels, each_map, kept_maps, makes_mask, tell, tell_share
from csd3d.runs.session import Session
from video.motion import ClipMotion, ParticleMotion
from video.particles import LatentRows
from video.plan import Plan
from video.propagate import CarriedFrames
from video.render import working_frames

REACH = 4
"""Particles before and after one, in time, over which its differences are averaged."""

FrameMasks = Callable[[range, Float[Tensor, "_n 3 h w"]], Float[Tensor, "_n 1 h w"]]
"""Masks, 0 to 1, of neighbouring frames and how they look at the size at which the prior works, asked for in order of
time."""


def find_mask(
    session: Session,
    prior: Prior,
    seeker: Seeker,
    sources: LatentRows,
    plan: Plan,
    motion: ClipMotion,
    *,
    size: WorkingSize,
    clip: Clip,
    seed: int,
    parts: Sequence[Int[Tensor, " _m"]],
    most_frames: int,
) -> Path | None:
    """The folder of the masks that the run found, now or before; None: it edits the whole picture.

    Args:
        session: of the run.
        prior: of the run.
        seeker: of the particles of `plan`.
        sources: latents of the particles' sources.
        plan: which frames are particles, under which sentences.
        motion: of the clip.
        size: at which the prior works.
        clip: whose frames say where things end.
        seed: of the noise.
        parts: numbers of the particles that the prior sees at a time, from 0 in order.
        most_frames: of the clip's size that are held at a time.
    """
    maps = kept_maps(session, seeker, parts, lambda index: sources[index].to(prior.device), seed=seed)
    found, masks = find_masks(seeker, maps, plan, motion)
    if not tell(session, prior, seeker, found):
        return None
    folder = session.folder.masks
    if not folder.exists():
        chunks, chunk = working_frames(clip, size, most_frames=most_frames), chunk_frames(clip, most_frames)
        tracked = session.progress.track("mask files", chunks, total=clip.info.frames, unit=chunk)
        share = write_masks(folder, frame_masks(masks, plan, motion), tracked, size, clip.info)
        tell_share(session, share, folder)
    return folder


def find_masks(
    seeker: Seeker, maps: Float[Tensor, "n h w"], plan: Plan, motion: ClipMotion | None
) -> tuple[list[tuple[str, Found]], Float[Tensor, "n h w"]]:
    """What each sentence of a plan edits, and the mask of every particle: 0 where no sentence holds.

    Without `motion` nothing is averaged.
    """
    found, masks = list[tuple[str, Found]](), torch.zeros_like(maps)
    for k, sentence in enumerate(plan.sentences):
        members = torch.tensor([i for i, index in enumerate(plan.prompt_index) if index == k])
        found.append((sentence, seeker.found(fused(maps[members], [plan.frames[i] for i in members.tolist()], motion))))
        masks[members] = found[-1][1].mask
    return found, masks


def fused(maps: Float[Tensor, "n h w"], frames: Sequence[int], motion: ClipMotion | None) -> Float[Tensor, "n h w"]:
    """The maps of frames, in order of time, averaged with those of their neighbours along `motion`."""
    if motion is None:
        return maps
    n = len(frames)
    near = [range(max(i - REACH, 0), min(i + REACH + 1, n)) for i in range(n)]
    return fuse(maps, ParticleMotion(motion, frames), near)


@torch.no_grad()
def masks_of_frames(
    prior: Prior, seeker: Seeker, s: Latents, plan: Plan, frames: Float[Tensor, "_n 3 _h _w"], *, seed: int
) -> Float[Tensor, "_n 1 _h _w"] | None:
    """Masks of all frames of a plan, at working size, each found by itself; None: the whole pictures are edited."""
    (maps,) = each_map(seeker, [torch.arange(len(s))], lambda index: s[index].to(prior.device), seed=seed)
    found, masks = find_masks(seeker, maps, plan, None)
    if not makes_mask(found):
        return None
    return frame_masks(masks, plan, None)(range(len(frames)), frames)


def frame_masks(masks: Float[Tensor, "n h w"], plan: Plan, motion: ClipMotion | None) -> FrameMasks:
    """Masks of all frames from those found of the particles, `Found.mask`; along `motion` if those are key frames."""
    if not plan.blend_weights:
        assert motion is not None
        carried = CarriedFrames(lambda frame: masks[plan.frames.index(frame)][None], motion, plan.frames)
        return lambda frames, rgb: at_pixels(carried(frames), rgb)

    def mixed(frame: int, rgb: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 h w"]:
        particles, weights = zip(*plan.blend_weights[frame], strict=True)
        own = at_pixels(masks[list(particles), None], rgb.expand(len(particles), -1, -1, -1))
        return (torch.tensor(weights).view(-1, 1, 1, 1) * own).sum(0)

    return lambda frames, rgb: torch.stack([mixed(i, picture) for i, picture in zip(frames, rgb, strict=True)])


def write_masks(
    folder: Path,
    masks: FrameMasks,
    chunks: Iterable[tuple[range, Float[Tensor, "_n 3 _h _w"]]],
    size: WorkingSize,
    info: ClipInfo,
) -> float:
    """Write a grey PNG for each frame, as `--mask` takes them; the folder appears whole or not at all.

    `chunks` are all frames in order, with how they look at working size. Returns the mean level.
    """
    total = 0.0
    with atomic_folder(folder) as part:
        for frames, rgb in chunks:
            grey = from_working(masks(frames, rgb), size, info.height_px, info.width_px).clamp(0, 1)
            for i, picture in zip(frames, to_levels(grey), strict=True):
                Image.fromarray(picture[..., 0]).save(part / f"{i:06}.png", compress_level=1)
            total += float(grey.mean((1, 2, 3)).sum())
    return total / info.frames
