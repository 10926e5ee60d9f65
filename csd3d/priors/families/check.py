"""Does a replay say what the pipeline itself says? Found out when a prior is loaded, on one small picture.

Two recordings with other pictures, latents and times: the first, replayed with the latents, the source and the time of
the second, must give what the pipeline handed to its scheduler in the second. A wrong row of the table, a network that
says minus the velocity or reads another function of the time, and one whose other arguments depend on noise or time,
all fail, and are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from csd3d.engine.guidance import instruct_coefficients, text_coefficients
from csd3d.engine.types import Latents
from csd3d.priors.families.calls import Arguments
from csd3d.priors.families.clips import ClipCodec, fold
from csd3d.priors.families.codec import FamilyCodec
from csd3d.priors.families.conditions import IMAGE, TEXT, arguments_of, dtype_of, filled_with, same
from csd3d.priors.families.pictures import to_bytes
from csd3d.priors.families.record import RECORDED_AT, Place, Recorded, network_of, record
from csd3d.priors.families.replay import laid, layout_of, replay, tokens, untokens
from csd3d.priors.families.table import Branch, Family

LEAST_PX = 64
"""Side of the picture that is checked with, unless the network's multiples ask for more."""
CLIP_LAT = 3
"""Latent frames of the clip that is checked with."""
OTHER_TIME = 231.0
SENTENCE = "make it snowy"


@dataclass(frozen=True, eq=False)
class Learnt:
    """What a check found out about a pipeline."""

    branches: tuple[Branch, ...]
    """That it makes in a step; a distilled one only IT."""
    place: Place
    """Of the noisy latents in its network's input."""
    filled: Mapping[Branch, str]
    """What the condition part holds, see `filled_with`."""
    looks: bool
    """Whether conditions depend on the picture in other ways than by its latents."""
    out_like: Mapping[int, int]
    """Axes of the network's output that are not as long as those of its input, with their lengths."""
    error: float
    """Largest difference of the replay, relative to the largest prediction."""


def guided_like(family: Family, outputs: Mapping[Branch, Tensor], text: float, image: float) -> Tensor:
    """The guided prediction, as the pipeline makes it of its network's rows (as its input holds them)."""
    if len(outputs) == 1:
        return outputs["IT"]
    if "00" in outputs and "I0" in outputs:
        weights: dict[Branch, float] = instruct_coefficients(text, image)
    else:
        plain = text_coefficients(text)
        weights = {"I0" if "I0" in outputs else "00": plain["null"], "IT": plain["text"]}
    total = torch.stack([c * outputs[name] for name, c in weights.items()]).sum(0)
    if family.renormed:
        total = total * (outputs["IT"].norm(dim=-1, keepdim=True) / total.norm(dim=-1, keepdim=True))
    return total


@torch.no_grad()
def check(pipe: Any, family: Family, codec: FamilyCodec, *, device: torch.device) -> Learnt:
    """Record and replay; raises ValueError in one line where they do not agree."""
    dtype = dtype_of(pipe)
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    side = -(-LEAST_PX // codec.multiple_px) * codec.multiple_px
    rng = torch.Generator().manual_seed(0)
    pictures, sources = zip(*(_random(codec, side, rng) for _ in range(2)), strict=True)
    noisy = [torch.randn(sources[0].shape, generator=rng) for _ in range(2)]
    editor, name = family.kind == "instruct", type(pipe).__name__
    _require_numbers(sources, f"{name}: expected its autoencoder to make numbers of a picture", dtype)

    def step(picture: int, latents: int, t: float) -> Recorded:
        call = arguments_of(family, SENTENCE, "", pictures[picture] if editor else None, text=TEXT, image=IMAGE)
        x = laid(noisy[latents], family.layout, channels=codec.channels).to(device, dtype)
        return record(pipe, family, call, x, size_px=(side, side), t=t)

    first, second, wanted = step(0, 0, RECORDED_AT), step(1, 0, RECORDED_AT), step(1, 1, OTHER_TIME)
    _require_numbers([wanted.prediction], f"{name}: expected its network to predict numbers", dtype)
    place, rows = first.place, first.rows
    filled = filled_with(rows, place, family, codec, sources[0], tolerance=10 * tolerance) if editor else {}
    looks = editor and not all(
        same(_rest(rows[b], place, b, filled), _rest(second.rows[b], place, b, filled)) for b in rows
    )
    used = second.rows if looks else rows
    x = tokens(noisy[1].to(dtype), family.layout, channels=codec.channels)
    outputs: dict[Branch, Tensor] = {
        branch: replay(
            network_of(pipe), [arguments], place, x, time=OTHER_TIME, device=device,
            condition=fill(filled.get(branch), [sources[1]], family, codec, axis=place.axis),
        )
        for branch, arguments in used.items()
    }  # fmt: skip
    said = guided_like(family, outputs, TEXT, IMAGE)
    shape = noisy[1].shape
    theirs = untokens(wanted.prediction.float(), layout_of(wanted.prediction), shape)
    ours = untokens(said, family.layout, shape)
    error = float((ours - theirs.to(ours)).abs().max() / theirs.abs().max().clamp(min=1e-9))
    if not error <= tolerance:
        raise ValueError(
            f"{name}: a replay of its network is off by {error:.1e} of what the pipeline predicts "
            f"(expected at most {tolerance:.0e}), so it cannot serve as a prior"
        )
    held, out = rows["IT"][place.argument].shape, wanted.outputs[0].shape
    out_like = {axis: b for axis, (a, b) in enumerate(zip(held, out, strict=True)) if axis and a != b}
    return Learnt(tuple(rows), place, filled, looks, out_like, error)


def fill(
    what: str | None, pictures: Sequence[Latents], family: Family, codec: FamilyCodec, *, axis: int
) -> Tensor | None:  # fmt: skip
    """What is put into the condition part for the latents of the source and of references, which are joined along an
    axis of the network's input; None: nothing."""
    if what in (None, "other"):
        return None
    own = [codec.own(s) if what == "own" else s for s in pictures]
    return torch.cat([tokens(s, family.layout, channels=codec.channels) for s in own], axis)


def _require_numbers(values: Sequence[Tensor], expected: str, dtype: torch.dtype) -> None:
    """Raises ValueError where some are NaN or infinite, as everything would be that is made of them."""
    if not all(bool(value.isfinite().all()) for value in values):
        where = "" if dtype == torch.float32 else f" in {str(dtype).removeprefix('torch.')}; --precision takes others"
        raise ValueError(f"{expected}, got NaN or infinity{where}")


def _random(codec: FamilyCodec, side: int, rng: torch.Generator) -> tuple[UInt8[Tensor, "*F H W 3"], Latents]:
    """A picture of noise, or a clip of it, and its latents."""
    if not isinstance(codec, ClipCodec):
        picture = to_bytes(torch.rand(1, 3, side, side, generator=rng))
        return picture[0], codec.encode(picture.permute(0, 3, 1, 2).float() / 255)
    clip = to_bytes(torch.rand(codec.frames_of(CLIP_LAT), 3, side, side, generator=rng))
    return clip, fold(codec.encode_clip(clip.permute(0, 3, 1, 2).float() / 255))[None]


def _rest(arguments: Arguments, place: Place, branch: Branch, filled: Mapping[Branch, str]) -> Arguments:
    """Arguments without the input, if its condition part is replaced in every replay."""
    keep = filled.get(branch, "other") == "other"
    return {k: v for k, v in arguments.items() if keep or k != place.argument}
