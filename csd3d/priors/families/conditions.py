"""What a pipeline makes of a sentence and a source: recorded once, kept on the CPU, found again.

An editor whose conditions, but for the latents of the source themselves, are the same for all pictures is recorded once
a sentence, size and number of references; the latents are put in at every replay. One that looks at pictures (by a
vision-language model) is recorded once a sentence, source and set of references.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd3d.priors.families.calls import Arguments
from csd3d.priors.families.clips import ClipCodec
from csd3d.priors.families.codec import FamilyCodec
from csd3d.priors.families.pictures import digest, to_bytes
from csd3d.priors.families.record import Place, Recorded, network_of, record
from csd3d.priors.families.replay import condition_part, laid, tokens
from csd3d.priors.families.table import Branch, Family
from csd3d.priors.store.silence import quiet

KEPT_BYTES = 4 << 30
"""For recorded conditions on the CPU. One of a large editor is a few MB."""
GREY = 128
TEXT, IMAGE = 2.5, 3.0
"""Guidance scales at which is recorded, different ones, so that a mistaken order of branches is seen."""

Key = tuple[str, str, tuple[int, ...], int, tuple[bytes, ...]]


class Conditions:
    """Recorded rows of a pipeline's network by sentence and source."""

    def __init__(
        self, pipe: Any, family: Family, codec: FamilyCodec, *, looks: bool, out_like: Mapping[int, int], place: Place,
        device: torch.device,
    ) -> None:  # fmt: skip
        """`looks`: rows differ between sources; `place`, `out_like`: of the network's input and output, see `check`."""
        self._pipe, self._family, self._codec = pipe, family, codec
        self.looks = looks
        self._place, self._out_like, self._device = place, out_like, device
        self._known: OrderedDict[Key, Mapping[Branch, Arguments]] = OrderedDict()
        self._bytes = 0

    def row(
        self, branch: Branch, sentence: str, negative: str, s: Float[Tensor, "c h w"],
        references: Sequence[Float[Tensor, "c h w"]] = (),
    ) -> Arguments:  # fmt: skip
        """The arguments of the network in one branch for source latents `s`, and those of further pictures. Raises what
        `record` does."""
        if branch == "00" and self._family.picture_optional:
            return self._get(negative or self._family.empty or "", negative, s, ())["IT"]
        return self._get(sentence, negative, s, (s, *references) if self._family.kind == "instruct" else ())[branch]

    def _get(
        self, sentence: str, negative: str, like: Tensor, pictures: Sequence[Tensor]
    ) -> Mapping[Branch, Arguments]:  # fmt: skip
        seen = tuple(map(digest, pictures)) if self.looks else ()
        key = (sentence, negative, tuple(like.shape), len(pictures), seen)
        if key not in self._known:
            rows = self._record(sentence, negative, like, pictures).rows
            self._known[key] = rows
            self._bytes += sum(map(size_bytes, rows.values()))
            while self._bytes > KEPT_BYTES and len(self._known) > 1:
                self._bytes -= sum(map(size_bytes, self._known.popitem(last=False)[1].values()))
        self._known.move_to_end(key)
        return self._known[key]

    def _record(self, sentence: str, negative: str, like: Tensor, pictures: Sequence[Tensor]) -> Recorded:
        height, width = (self._codec.factor * side for side in like.shape[-2:])
        shown = [self._picture(z, height, width) for z in pictures]
        call = arguments_of(self._family, sentence, negative, shown[0] if shown else None, references=shown[1:])
        latents = torch.randn(1, *like.shape, generator=torch.Generator().manual_seed(0))
        latents = laid(latents, self._family.layout, channels=self._codec.channels)
        latents = latents.to(self._device, dtype_of(self._pipe))
        with quiet():
            return record(
                self._pipe, self._family, call, latents, size_px=(height, width), stand_in=self._stand_in
            )  # fmt: skip

    def _stand_in(self, arguments: Arguments) -> Tensor:
        """Zeros in the shape of the network's output."""
        x = arguments[self._place.argument]
        return x.new_zeros([self._out_like.get(axis, side) for axis, side in enumerate(x.shape)])

    def _picture(self, s: Tensor, height: int, width: int) -> UInt8[Tensor, "*F H W 3"]:
        """The picture or clip of source latents: itself where it is known, decoded else; any, where it is not looked
        at."""
        if not self.looks:
            clip = [self._codec.frames_of(len(s) // self._codec.channels)] if isinstance(self._codec, ClipCodec) else []
            return torch.full((*clip, height, width, 3), GREY, dtype=torch.uint8)
        known = None if self._codec.pictures is None else self._codec.pictures.find(s)
        return to_bytes(self._codec.decode(s[None]))[0].cpu() if known is None else known


def arguments_of(
    family: Family, sentence: str, negative: str, picture: UInt8[Tensor, "*F H W 3"] | None,
    *, references: Sequence[UInt8[Tensor, "H W 3"]] = (), text: float = TEXT, image: float = IMAGE,
) -> dict[str, object]:  # fmt: skip
    """Arguments of a pipeline's call for a sentence, a picture and references after it; with guidance on, unless an
    editor gets no picture."""
    from PIL import Image

    call: dict[str, object] = {"prompt": sentence}
    if picture is not None:
        if family.of_clips:
            call["video"] = [Image.fromarray(frame.numpy()) for frame in picture]
        else:
            images = [Image.fromarray(p.numpy()) for p in (picture, *references)]
            call["image"] = images if references else images[0]
    guided = picture is not None or family.kind == "text-to-image"
    if family.text_scale is not None:
        call[family.text_scale] = (text if guided else 1.0) - family.text_offset
    if family.image_scale is not None:
        call[family.image_scale] = image
    said = negative or family.empty
    if guided and family.negative and said is not None:
        call["negative_prompt"] = said
    return call


def filled_with(
    rows: Mapping[Branch, Arguments], place: Place, family: Family, codec: FamilyCodec, s: Float[Tensor, "1 c h w"],
    *, tolerance: float,
) -> dict[Branch, str]:  # fmt: skip
    """What the condition part of the input holds in each branch: `latents` of the source `s`, the autoencoder's
    `own` of it, or `other`, which is left alone."""
    known = {
        name: tokens(z, family.layout, channels=codec.channels) for name, z in (("latents", s), ("own", codec.own(s)))
    }
    found: dict[Branch, str] = {}
    for branch, arguments in rows.items():
        x = arguments[place.argument]
        part = condition_part(x, place, known["latents"].shape[place.axis])
        found[branch] = "other"
        for name, values in known.items() if part is not None else ():
            assert part is not None
            if part.shape == values.shape and float((part.float() - values).abs().max()) <= tolerance * float(
                values.abs().max()
            ):
                found[branch] = name
                break
    return found


def same(a: Any, b: Any) -> bool:
    """Whether recorded arguments are equal, bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and (isinstance(a, Tensor) or a == b)


def size_bytes(value: Any) -> int:
    """Memory of all tensors in recorded arguments."""
    return sum(x.numel() * x.element_size() for x in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def dtype_of(pipe: Any) -> torch.dtype:
    """Precision in which a pipeline's network computes, however its weights are stored."""
    return network_of(pipe).dtype
