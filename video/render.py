"""From latents to the clip and the pictures of a report: decode a chunk, put detail back, write, forget."""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.media.clip.formats import Encoding
from csd3d.media.clip.output import open_output, square_size
from csd3d.media.clip.sink import even_times, write_clip
from csd3d.media.clip.source import Clip, chunk_frames
from csd3d.media.detail import restore_mapped
from csd3d.media.geometry import WorkingSize, from_working, resize, to_working
from csd3d.media.masks import masked
from csd3d.media.overlap import behind
from csd3d.media.sheet import evenly
from video.motion import ClipMotion
from video.particles import LatentRows
from video.plan import Plan
from video.propagate import CarriedFrames
from video.steady import SteadyFrames

PREVIEW_PX = 480
"""Shorter side of the report's players."""
SHEET_FRAMES = 6
"""Columns of the contact sheet."""

Decoded = Callable[[slice], Float[Tensor, "_n 3 h w"]]
"""Pictures of neighbouring particles at working size, asked for in order of time, each once."""


@dataclass
class Samples:
    """Small frames kept for the contact sheet."""

    frames: list[int]
    source: list[Float[Tensor, "3 H W"]] = field(default_factory=list)
    edited: list[Float[Tensor, "3 H W"]] = field(default_factory=list)


class Pictures:
    """The edited frames of a clip at its own size, chunk after chunk in order of time."""

    def __init__(
        self,
        edited: Decoded,
        source: Decoded | None,
        size: WorkingSize,
        plan: Plan,
        *,
        detail: float = 1.0,
        strength: float = 1.0,
        mask: Callable[[range], Float[Tensor, "n 1 H W"]] | None = None,
        motion: ClipMotion | None = None,
    ) -> None:
        """From the particles of `plan` as they are edited, and their sources through the same codec (None: no detail is
        put back).

        `detail` is how much of the source's fine detail is put back (see `csd3d.media.detail`), `strength` the share of
        the edit that the particles hold, `mask` where anything may change. Along `motion` the decoded frames are
        averaged or, if the plan has only key frames, carried to the others.
        """
        self._edited, self._source, self._size, self._plan = edited, source, size, plan
        self._detail, self._strength, self._mask = detail, strength, mask
        self._small: Callable[[range], Tensor]
        if plan.blend_weights:
            self._small = SteadyFrames(self._decoded, plan, motion)
        else:
            assert motion is not None
            self._small = CarriedFrames(self._key, motion, plan.frames)

    def __call__(self, frames: range, source: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        """The edited frames in [0, 1] that belong to `source`."""
        height, width = source.shape[-2:]
        small = self._small(frames)
        edited = restore_mapped(
            source,
            small[:, :3],
            small[:, -3:],
            lambda x: from_working(x, self._size, height, width),
            amount=self._detail,
            strength=self._strength,
        )
        return masked(source, edited, self._mask(frames)) if self._mask else edited

    def _key(self, frame: int) -> Float[Tensor, "k h w"]:
        particle = self._plan.frames.index(frame)
        return self._decoded(slice(particle, particle + 1))[0]

    def _decoded(self, particles: slice) -> Float[Tensor, "_n k h w"]:
        """The edit and, where detail is put back, the source beside it, at working size."""
        both = [self._edited(particles), *([] if self._source is None else [self._source(particles)])]
        return torch.cat(both, 1).float()


def latents_at(z: LatentRows, s: LatentRows, rows: slice, strength: float) -> Tensor:
    """Some latents, so far on their way from their sources (0) to the edit (1)."""
    return torch.lerp(s[rows], z[rows], strength) if strength < 1 else z[rows]


def render(
    clip: Clip,
    pictures: Pictures,
    *,
    output: Path,
    replaces: bool,
    before: Callable[[Path], None],
    media: Path,
    encoding: Encoding,
    tags: Mapping[str, str],
    most_frames: int,
    notes: list[str],
) -> Generator[tuple[range, Samples], None, None]:
    """Write `output` and the two players of the report chunk by chunk, yielding after each while it is written.

    All three appear when the last chunk is written; if the consumer stops earlier, none does. The samples for the
    contact sheet fill up on the way, and are whole at the end. `replaces` and `before` are those of `open_output`.
    """
    info = clip.info
    preview = square_size(info.display_aspect, min(info.width_px, info.height_px, PREVIEW_PX))
    pts, base = even_times(info)
    samples = Samples(evenly(info.frames, SHEET_FRAMES))
    with ExitStack() as stack:
        writer = stack.enter_context(
            open_output(output, info, encoding, tags=tags, notes=notes, replaces=replaces, before=before)
        )
        players = [
            stack.enter_context(
                write_clip(
                    media / name,
                    width_px=preview[1],
                    height_px=preview[0],
                    fps=info.fps,
                    pts=pts,
                    time_base=base,
                    encoding=Encoding(crf=20),
                )
            )
            for name in ("source.mp4", "edited.mp4")
        ]

        def write(frames: range, source: Tensor, edited: Tensor) -> None:
            writer.write(edited)
            small = [resize(rgb, *preview).clamp(0, 1) for rgb in (source, edited)]
            for player, rgb in zip(players, small, strict=True):
                player.write(rgb)
            for i in (i for i in samples.frames if i in frames):
                samples.source.append(small[0][i - frames.start])
                samples.edited.append(small[1][i - frames.start])

        written = stack.enter_context(behind())
        chunks = stack.enter_context(closing(clip.chunks(chunk_frames(clip, most_frames), exact=True)))
        for frames, source in chunks:
            written(partial(write, frames, source, pictures(frames, source)))
            yield frames, samples


def working_frames(
    clip: Clip, size: WorkingSize, *, most_frames: int
) -> Generator[tuple[range, Float[Tensor, "_n 3 h w"]], None, None]:
    """The clip at working size, chunk by chunk."""
    with closing(clip.chunks(chunk_frames(clip, most_frames))) as chunks:
        for frames, rgb in chunks:
            yield frames, to_working(rgb, size)
