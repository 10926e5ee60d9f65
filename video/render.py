"""From latents to the clip and the pictures of a report: decode a chunk, put detail back, write, forget."""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.priors.detail import restore_mapped
from csd3d.priors.geometry import WorkingSize, from_working, resize
from csd3d.runs.sheet import evenly
from video.sink import even_times, write_clip
from video.source import Clip

PREVIEW_PX = 480
"""Shorter side of the report's players."""
SHEET_FRAMES = 6
"""Columns of the contact sheet."""
_CHUNK_PX = 4_000_000  # full-size pixels held at a time, a few copies of each: about half a GB

Decode = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n 3 H W"]]


@dataclass
class Samples:
    """Small frames kept for the contact sheet."""

    frames: list[int]
    source: list[Float[Tensor, "3 H W"]] = field(default_factory=list)
    edited: list[Float[Tensor, "3 H W"]] = field(default_factory=list)


def chunk_frames(clip: Clip, most: int) -> int:
    """How many full-size frames are held at a time."""
    return max(1, min(most, _CHUNK_PX // (clip.info.width_px * clip.info.height_px)))


def edited_frames(
    source: Float[Tensor, "n 3 H W"],
    z: Float[Tensor, "n c h w"],
    s: Float[Tensor, "n c h w"],
    decode: Decode,
    size: WorkingSize,
    *,
    detail: float,
) -> Float[Tensor, "n 3 H W"]:
    """The edited frames at the clip's own size, in [0, 1]; see `csd3d.priors.detail` for what `detail` puts back."""
    height, width = source.shape[-2:]
    small = decode(z).to(source)
    plain = decode(s).to(source) if detail else small
    return restore_mapped(source, small, plain, lambda x: from_working(x, size, height, width), amount=detail)


def render(
    clip: Clip,
    z: Float[Tensor, "n c h w"],
    s: Float[Tensor, "n c h w"],
    decode: Decode,
    size: WorkingSize,
    *,
    output: Path,
    media: Path,
    detail: float,
    crf: int,
    most_frames: int,
    notes: list[str],
) -> Generator[tuple[range, Samples], None, None]:
    """Write `output` and the two players of the report chunk by chunk, yielding after each.

    All three appear when the last chunk is written; if the consumer stops earlier, none does. The samples for the
    contact sheet fill up on the way.
    """
    info = clip.info
    preview = preview_size(info.display_aspect, min(info.width_px, info.height_px))
    pts, base = even_times(info)
    samples = Samples(evenly(info.frames, SHEET_FRAMES))
    audio = info.path if info.has_audio else None
    with ExitStack() as stack:
        shared = {"fps": info.fps, "pts": pts, "time_base": base}
        writer = stack.enter_context(
            write_clip(
                output, width_px=info.width_px, height_px=info.height_px, sample_aspect=info.sample_aspect,
                audio_from=audio, crf=crf, notes=notes, **shared,
            )
        )  # fmt: skip
        players = [
            stack.enter_context(write_clip(media / name, width_px=preview[1], height_px=preview[0], crf=20, **shared))
            for name in ("source.mp4", "edited.mp4")
        ]
        for frames, source in clip.chunks(chunk_frames(clip, most_frames), exact=True):
            rows = slice(frames.start, frames.stop)
            edited = edited_frames(source, z[rows], s[rows], decode, size, detail=detail)
            writer.write(edited)
            small = [resize(rgb, *preview).clamp(0, 1) for rgb in (source, edited)]
            for player, rgb in zip(players, small, strict=True):
                player.write(rgb)
            for i in (i for i in samples.frames if i in frames):
                samples.source.append(small[0][i - frames.start])
                samples.edited.append(small[1][i - frames.start])
            yield frames, samples


def preview_size(display_aspect: Fraction, short_px: int) -> tuple[int, int]:
    """(height, width) of the report's players: square pixels, even sides, never larger than the clip needs."""
    short = min(short_px, PREVIEW_PX)
    height, width = (short, short * display_aspect) if display_aspect >= 1 else (short / display_aspect, short)
    return max(round(height / 2) * 2, 2), max(round(width / 2) * 2, 2)


def encode_clip(
    clip: Clip,
    encode: Callable[[Float[Tensor, "n 3 H W"]], Float[Tensor, "n c h w"]],
    to_size: Callable[[Float[Tensor, "n 3 H W"]], Float[Tensor, "n 3 h w"]],
    *,
    most_frames: int,
) -> Generator[tuple[range, Float[Tensor, "_n c h w"]], None, None]:
    """Latents of the clip chunk by chunk, on the CPU."""
    for frames, rgb in clip.chunks(chunk_frames(clip, most_frames)):
        yield frames, encode(to_size(rgb)).detach().to("cpu", torch.float32).contiguous()
