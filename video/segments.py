"""Segments of a clip or a picture as a folder of masks to choose from; see `csd3d.attention.segments`.

labels/00000.png ...    number of each pixel's segment, from 1, as a palette picture (labels.png of a picture)
1/00000.png ...         the mask of segment 1, and so on, as `--mask FOLDER/1` takes it (1.png of a picture)
segments.png            some frames, and their segments in colours
"""

import colorsys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from csd3d.attention.score import Controllable
from csd3d.attention.segments import labels, linked, proposals, self_attention, winners
from csd3d.engine.validate import require_int, require_number, require_seed
from csd3d.media.atomic import atomic_folder
from csd3d.media.clip.source import Clip, open_clip
from csd3d.media.geometry import WorkingSize, from_working, to_working
from csd3d.media.sheet import contact_sheet, evenly
from csd3d.priors.defaults import segment_threshold
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.runs.estimate import measure_frames
from csd3d.runs.progress import RunProgress
from video.motion import ClipMotion, grey_px, greys_at
from video.plan import size_of_clip
from video.render import working_frames
from video.shots import changes, shots_of

MOST = 255
"""Segments, as many as a palette picture has numbers."""
SHOWN = 6
"""Frames on the sheet."""
AT_ONCE = 8
"""Frames in a call."""


@dataclass(frozen=True)
class SegmentConfig:
    """How segments are found."""

    threshold: float | None = None
    """Divergence of attention below which places belong together: larger merges more. None: what suits the prior, 0.9
    as published."""
    seed: int = 0
    """Of the noise."""
    max_frames: int | None = None
    """Only the first frames of a clip. None: all."""

    def __post_init__(self) -> None:
        require_number(self, 0, 100, "threshold")
        require_seed(self)
        require_int(self, 1, None, "max_frames")


@dataclass(frozen=True)
class Segmented:
    """What was found."""

    folder: Path
    shares: tuple[float, ...]
    """Of segments 1, 2, ...: the share of all pixels."""


def segment(
    source: Path, folder: Path, prior: Prior, config: SegmentConfig, *, progress: RunProgress | None = None
) -> Segmented:
    """Write the segments of a clip or a picture into a new folder.

    Raises:
        ValueError, FileNotFoundError: the source cannot be read, the prior's attention cannot, the folder is there
            already, or there are more than `MOST` segments.
    """
    score = prior.score(Prompts(""), Guidance(1.0))
    if not isinstance(score, Controllable):
        raise ValueError(f"segments: expected a prior of Stable Diffusion's kind, got {prior.name}")
    progress = progress or RunProgress()
    with open_clip(source, max_frames=config.max_frames) as clip, progress:
        found = _look(clip, prior, score, config, progress)
        with atomic_folder(folder) as part:
            return replace(_write(clip, found, part, progress), folder=folder)


@dataclass(frozen=True)
class _Found:
    """Of each frame, its proposals over the latents of a working size, and the numbers of these in the clip, from 0."""

    size: WorkingSize
    size_lat: tuple[int, int]
    merged: list[Tensor]
    numbers: list[Tensor]

    def labels(self, frame: int, height_px: int, width_px: int) -> Int[Tensor, "h w"]:
        """Numbers of the segments of a frame at its own size."""
        working = interpolate(self.merged[frame].view(1, -1, *self.size_lat), self.size.padded, mode="bilinear")
        return self.numbers[frame][from_working(working, self.size, height_px, width_px)[0].argmax(0)]


def _look(clip: Clip, prior: Prior, score: Controllable, config: SegmentConfig, progress: RunProgress) -> _Found:
    size, factor = size_of_clip(clip, prior.native_px, prior.multiple_px), prior.codec.factor
    size_lat = (size.padded[0] // factor, size.padded[1] // factor)
    merged, greys = list[Tensor](), list[Tensor]()
    chunks = working_frames(clip, size, most_frames=AT_ONCE)
    threshold = config.threshold
    if threshold is None:
        threshold = segment_threshold(prior.kind, builtin=prior.builtin)

    def look(rgb: Float[Tensor, "n 3 H W"], index: Int[Tensor, " n"]) -> list[Tensor]:
        s = prior.encode(rgb).to(prior.device)
        maps = self_attention(score, s, index, seed=config.seed).cpu()
        return [winners(proposals(A, size_lat, threshold=threshold), size_lat) for A in maps]

    if clip.info.frames > AT_ONCE:
        first = to_working(clip.read(0, 1), size)
        estimate = measure_frames(clip.info.frames, lambda: look(first, torch.zeros(1, dtype=torch.int64)))
        estimate.announce(progress.say, "--max-frames takes only the first ones")
    for frames, rgb in progress.track("look", chunks, total=clip.info.frames, unit=AT_ONCE):
        merged += look(rgb, torch.arange(frames.start, frames.stop))
        greys.append(greys_at(rgb, size, factor))
    numbers = [torch.arange(len(merged[0]))]
    if len(merged) > 1:
        grey = torch.cat(greys)
        motion = ClipMotion(grey, grey_px(size, factor), shots_of(changes([grey])))
        numbers = linked([labels(own, size_lat, size_lat) for own in merged], motion)
    if (count := 1 + max(int(own.max()) for own in numbers)) > MOST:
        raise ValueError(f"segments: expected at most {MOST}, got {count}; a larger --threshold merges more")
    return _Found(size, size_lat, merged, numbers)


def _write(clip: Clip, found: _Found, folder: Path, progress: RunProgress) -> Segmented:
    info, frames = clip.info, range(clip.info.frames)
    count = 1 + max(int(own.max()) for own in found.numbers)
    colours = torch.tensor([colorsys.hsv_to_rgb(k * 0.618 % 1, 0.75, 0.95) for k in range(count)])
    palette = [0, 0, 0, *(colours * 255).round().int().flatten().tolist()]
    area, shown, wanted = torch.zeros(count), dict[str, list[Tensor]](), evenly(len(frames), SHOWN)
    for frame in progress.track("write", frames, total=len(frames)):
        own = found.labels(frame, info.height_px, info.width_px)
        area += own.flatten().bincount(minlength=count)
        places = Image.fromarray((own + 1).to(torch.uint8).numpy(), "P")
        places.putpalette(palette)
        name = "" if len(frames) == 1 else f"/{frame:05d}"
        pictures = {"labels": places} | {
            str(k + 1): Image.fromarray(((own == k) * 255).to(torch.uint8).numpy()) for k in range(count)
        }
        for place, picture in pictures.items():
            path = folder / f"{place}{name}.png"
            path.parent.mkdir(exist_ok=True)
            picture.save(path)
        if frame in wanted:
            rgb = clip.read(frame, frame + 1)[0]
            shown.setdefault("source", []).append(rgb)
            shown.setdefault("segments", []).append(0.35 * rgb + 0.65 * colours[own].permute(2, 0, 1))
    sheet = contact_sheet({label: torch.stack(row) for label, row in shown.items()})
    sheet.save(folder / "segments.png")
    return Segmented(folder, tuple((area / area.sum()).tolist()))
