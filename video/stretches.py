"""Stretches of a clip, for editors of clips: frames of one shot under one sentence, each a clip of its own.

Latent frames of a stretch stand for its frames alone, and no window leaves one: an edit never crosses a cut, nor the
border of a sentence's time. Where sentences fade into each other stretches overlap, and frames are of both.

    rows of latents      those of all stretches, one after another
    particles of `Plan`  frames under sentences, as with frames that are moved: of them pictures are made
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.priors.families.clips import ClipCodec, ClipEncoding
from video.plan import UNEDITED, Plan


@dataclass(frozen=True)
class Stretch:
    """Frames that are edited as a clip."""

    frames: range
    sentence: int
    """Its number; `UNEDITED` for what does not move."""
    rows: range
    """Its latent frames."""


@dataclass(frozen=True)
class Window:
    """Neighbouring latent frames of a stretch, which its editor sees at once."""

    rows: range
    sentence: int
    frames: range
    """That they stand for."""


@dataclass(frozen=True, eq=False)
class Stretches:
    """All stretches of a clip, in order of their first frames. Make them with `stretches_of`."""

    plan: Plan
    codec: ClipCodec
    all: tuple[Stretch, ...]
    of: tuple[int, ...]
    """To which one each particle of the plan belongs."""

    @property
    def rows(self) -> int:
        """Latent frames of all."""
        return self.all[-1].rows.stop

    def windows(self, length: int, overlap: int) -> tuple[Window, ...]:
        """Windows of at most `length` latent frames, of which the next one of the stretch holds `overlap` too; those
        of a stretch are equally long. Raises ValueError for windows that do not move on."""
        found: list[Window] = []
        for stretch in self.all:
            for first in () if stretch.sentence == UNEDITED else starts(len(stretch.rows), length, overlap).tolist():
                last = min(first + length, len(stretch.rows))
                found.append(Window(stretch.rows[first:last], stretch.sentence, self._frames(stretch, first, last)))
        return tuple(found)

    def _frames(self, stretch: Stretch, first: int, last: int) -> range:
        """Those of some latent frames of a stretch."""
        return stretch.frames[self.codec.frames_of(first) if first else 0 : self.codec.frames_of(last)]

    def latent_plan(self) -> Plan:
        """The same clip with latent frames in place of frames as particles, each shown by its middle frame."""
        parts = [(s, k, self._frames(s, k, k + 1)) for s in self.all for k in range(len(s.rows))]
        row_of = {(i, s.sentence): s.rows[k] for s, k, frames in parts for i in frames}
        sentences = self.plan.prompt_index
        weights = tuple(
            tuple((row_of[i, sentences[particle]], weight) for particle, weight in own)
            for i, own in enumerate(self.plan.blend_weights)
        )
        middles = tuple(frames[len(frames) // 2] for _, _, frames in parts)
        return replace(
            self.plan, frames=middles, prompt_index=tuple(s.sentence for s, _, _ in parts), blend_weights=weights
        )

    def pieces(self, length: int) -> list[Int[Tensor, " _m"]]:
        """All rows in order, in pieces of at most `length` that belong to one stretch and are about equally long."""
        return [
            piece for s in self.all
            for piece in torch.arange(s.rows.start, s.rows.stop).tensor_split(-(-len(s.rows) // length))
        ]  # fmt: skip


def stretches_of(plan: Plan, shots: Sequence[int], codec: ClipCodec) -> Stretches:
    """The stretches of a plan with blend weights; `shots` says to which shot each frame belongs."""
    found: list[tuple[int, int, int]] = []
    latest, of = dict[int, int](), list[int]()
    for frame, sentence in zip(plan.frames, plan.prompt_index, strict=True):
        k = latest.get(sentence)
        if k is None or found[k][1] != frame or shots[frame] != shots[frame - 1]:
            k = latest[sentence] = len(found)
            found.append((frame, frame, sentence))
        found[k] = (found[k][0], frame + 1, sentence)
        of.append(k)
    stretches, row = list[Stretch](), 0
    for first, stop, sentence in found:
        length = codec.latents_of(stop - first)
        stretches.append(Stretch(range(first, stop), sentence, range(row, row + length)))
        row += length
    return Stretches(plan, codec, tuple(stretches), tuple(of))


def starts(length: int, window: int, overlap: int) -> Int[Tensor, " k"]:
    """Where windows of `length` latent frames begin; the last one ends with them. Raises ValueError for windows that do
    not move on."""
    if not 0 <= overlap < window:
        raise ValueError(f"overlap: expected 0 to {window - 1} latent frames, fewer than a window, got {overlap}")
    last = max(length - window, 0)
    return torch.tensor([*range(0, last, window - overlap), last], dtype=torch.int64)


class StretchEncoder:
    """The rows of latents of frames that come in order, a few at a time; memory is that of a few frames, and of the
    latents of a fade."""

    def __init__(self, stretches: Stretches, device: torch.device) -> None:
        """`device`: of the codec."""
        self._all, self._codec, self._device = stretches.all, stretches.codec, device
        self._first = 0
        self._encodings: dict[int, ClipEncoding] = {}
        self._made: dict[int, list[Tensor]] = {}

    def __call__(self, frames: range, rgb: Float[Tensor, "n 3 H W"]) -> Tensor:
        """Rows that are complete and follow those given before, on the CPU; maybe none."""
        k = self._first
        while k < len(self._all) and self._all[k].frames.start < frames.stop:
            self._encode(k, frames, rgb)
            k += 1
        found: list[Tensor] = []
        while self._first in self._made:
            found += self._made.pop(self._first)
            if self._first in self._encodings or self._all[self._first].frames.stop > frames.stop:
                break
            self._first += 1
        return torch.cat(found) if found else torch.empty(0)

    def _encode(self, k: int, frames: range, rgb: Float[Tensor, "n 3 H W"]) -> None:
        own = self._all[k].frames
        some = range(max(own.start, frames.start), min(own.stop, frames.stop))
        if not some:
            return
        encoding = self._encodings.setdefault(k, self._codec.begin())
        last = some.stop == own.stop
        part = rgb[some.start - frames.start : some.stop - frames.start].to(self._device)
        self._made.setdefault(k, []).extend(z.cpu() for z in encoding(part, last=last))
        if last:
            del self._encodings[k]


class StretchDecoder:
    """Decoded frames of the particles of a plan, asked for in order, each once; memory is that of a few frames."""

    def __init__(
        self, stretches: Stretches, latents: Callable[[slice], Float[Tensor, "n c h w"]], device: torch.device
    ) -> None:
        """`latents` gives some rows; `device`: of the codec."""
        self._stretches, self._latents, self._device = stretches, latents, device
        self._open: dict[int, tuple[Iterator[Tensor], int]] = {}

    def __call__(self, particles: slice) -> Float[Tensor, "n 3 H W"]:
        """Those of neighbouring particles, in [0, 1], on the CPU."""
        return torch.stack([self._next(self._stretches.of[p]) for p in range(particles.start, particles.stop)])

    def _next(self, k: int) -> Float[Tensor, "3 H W"]:
        stretch = self._stretches.all[k]
        frames, done = self._open.pop(k, None) or (self._frames(stretch), 0)
        frame = next(frames)
        if done + 1 < len(stretch.frames):
            self._open[k] = (frames, done + 1)
        return frame

    def _frames(self, stretch: Stretch) -> Iterator[Float[Tensor, "3 H W"]]:
        latents = (self._latents(slice(row, row + 1)).to(self._device) for row in stretch.rows)
        for some in self._stretches.codec.decode_frames(latents):
            yield from some.cpu()
