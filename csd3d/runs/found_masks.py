"""Masks that are found (`--mask auto`, `--mask-words`): what all editors do alike. How is in `csd3d.attention`.

differences.npy     maps of every particle, written once: a resumed run finds the same mask
mask.png or mask/   what was found, as `--mask` takes it
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, pad

from csd3d.attention.masks import Found, difference, found_in, levels
from csd3d.attention.score import Controllable
from csd3d.attention.word_masks import word_in, word_map
from csd3d.engine.residuals import Score
from csd3d.engine.types import Index, Latents
from csd3d.media.guided import guided_filter
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.runs.config import AUTO, EditConfig
from csd3d.runs.crew import SharedPrior
from csd3d.runs.mask_words import Reading, read_words, reader_of
from csd3d.runs.rows import Rows, writing_rows
from csd3d.runs.session import Session

LatentsOf = Callable[[Index], Latents]
"""Latents of the particles of some numbers."""
REACH_LAT = 2.5
"""Latents in each direction from which a pixel of a mask takes its value, from what has its colour most."""
FLAT = 1e-3
"""Variance of colours below which a source has no edges there: 8 levels of 255, squared."""
OWN = 0.4
"""Of its own value a place keeps at least so much, so that what is new where the source is flat is not averaged away.
"""
NOT_MEASURED = (
    "the levels by which masks are found were measured on the built-in priors: look at the mask before you trust it"
)


def mask_file(mask: str | None) -> Path | None:
    """The file that a setting names; None: there is no mask, or it is found."""
    return None if mask in (None, AUTO) else Path(mask)


@runtime_checkable
class Seeker(Protocol):
    """What finds a mask, under the sentences of an edit."""

    def maps(self, s: Latents, index: Index, *, rng: torch.Generator) -> Float[Tensor, "_n h w"]:
        """How much the places of some particles are what is sought, from their sources where the prior computes."""
        ...

    def found(self, maps: Float[Tensor, "n h w"], shown: Bool[Tensor, "n h w"] | None = None) -> Found:
        """Where the edit of one sentence is, from the maps of its particles; `shown`: where it holds."""
        ...

    def why_none(self, sentence: str, found: Found) -> str:
        """Why nothing is masked."""
        ...


@dataclass(frozen=True, eq=False)
class ByDifference:
    """Where predictions differ under a sentence and without it; a `Seeker`."""

    score: Score

    def maps(self, s: Latents, index: Index, *, rng: torch.Generator) -> Float[Tensor, "_n h w"]:
        """See the protocol."""
        return difference(self.score, s, index, rng=rng)

    def found(self, maps: Float[Tensor, "n h w"], shown: Bool[Tensor, "n h w"] | None = None) -> Found:
        """See the protocol."""
        return found_in(maps, shown)

    def why_none(self, sentence: str, found: Found) -> str:
        """See the protocol."""
        if found.extent == "nowhere":
            return f"no place is found that {sentence!r} edits"
        measured = f"predictions differ by {found.lowest:.3f} where they differ least, {found.spread:.0%} of the peak"
        return f"{sentence!r} edits the whole picture ({measured} on the average)"


@dataclass(frozen=True, eq=False)
class ByWords:
    """Where places look at words; a `Seeker`."""

    score: Controllable
    reading: Reading

    def maps(self, s: Latents, index: Index, *, rng: torch.Generator) -> Float[Tensor, "_n h w"]:
        """See the protocol."""
        return word_map(self.score, s, index, self.reading.places(index), rng=rng)

    def found(self, maps: Float[Tensor, "n h w"], shown: Bool[Tensor, "n h w"] | None = None) -> Found:
        """See the protocol. Raises ValueError where nothing is found: an edit of something must not go everywhere."""
        edit = word_in(maps, shown)
        if edit.extent == "nowhere":
            raise ValueError(f"mask-words: expected something that shows {self.reading.named}, found nothing")
        return edit

    def why_none(self, sentence: str, found: Found) -> str:
        """See the protocol."""
        return f"no place is found that shows {self.reading.named}"


@dataclass(frozen=True, eq=False)
class MaskSearch:
    """How the mask of a run is sought. Make one with `search_of`."""

    prior: Prior
    words: str | None
    """What the mask shows; None: it is where the sentences edit."""

    def under(self, prompts: Prompts) -> Seeker:
        """Of the particles of an edit, without guidance or negative prompt, neither of which says where an edit is.

        Raises:
            ValueError: a text-to-image prior without a caption of the source; words that are not known, or a prior
                whose attention cannot be read.
        """
        if self.words is not None:
            reading = read_words(self.words, prompts, self._reader, editor=self._own)
            return ByWords(reading.score, reading)
        if self.prior.kind == "text-to-image" and prompts.source is None:
            raise ValueError("source-prompt: expected what the source shows, with which --mask auto compares, got none")
        return ByDifference(self.prior.score(replace(prompts, negative=""), Guidance(1.0)))

    @property
    def _own(self) -> Prior:
        """This process' copy of the prior: attention is read by one process alone."""
        return self.prior.own if isinstance(self.prior, SharedPrior) else self.prior

    @cached_property
    def _reader(self) -> Prior:
        return reader_of(self._own)


def search_of(config: EditConfig, mask: str | None, prior: Prior) -> MaskSearch | None:
    """How the mask of these settings is sought; None: there is none, or it is a file."""
    return MaskSearch(prior, config.mask_words) if is_found(config, mask) else None


def is_found(config: EditConfig, mask: str | None) -> bool:
    """Whether the mask of these settings is found."""
    return mask == AUTO or config.mask_words is not None


def each_map(
    seeker: Seeker, parts: Iterable[Int[Tensor, " _m"]], latents: LatentsOf, *, seed: int
) -> Iterator[Float[Tensor, "_n _h _w"]]:
    """The maps of particles, on the CPU, one of `parts` after the other.

    Args:
        seeker: of a `MaskSearch`.
        parts: numbers of particles, from 0 in order.
        latents: of the sources of some of them, where the prior computes.
        seed: of the noise.
    """
    rng = torch.Generator().manual_seed(seed)
    for index in parts:
        s = latents(index)
        yield seeker.maps(s, index.to(s.device), rng=rng).cpu()


def kept_maps(
    session: Session, seeker: Seeker, parts: Sequence[Int[Tensor, " _m"]], latents: LatentsOf, *, seed: int
) -> Float[Tensor, "_n h w"]:
    """Those of all particles, or what the run found before; its folder keeps them. Arguments as for `each_map`.

    Raises:
        RunInterrupted: the run was asked to stop.
    """
    path, count = session.folder.differences, sum(map(len, parts))
    if not path.exists():
        tracked = session.progress.track("mask", parts, total=count, unit=max(map(len, parts)))
        with session.manifest.timed("mask"), writing_rows(path, count) as append:
            for maps in each_map(seeker, tracked, latents, seed=seed):
                append(maps)
                session.stop_if_asked("the mask is not found yet, which the next start does again")
    rows = Rows(path).of((count, None, None))
    try:
        return rows[:]
    finally:
        rows.close()


def at_pixels(values: Float[Tensor, "n 1 h w"], source: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 1 H W"]:
    """The masks, 0 to 1, of `Found.mask` at the pixels of the sources, rgb in [0, 1], from which it was found."""
    large = interpolate(values, source.shape[-2:], mode="bilinear")
    return along_edges(large, source, lat_px=source.shape[-1] // values.shape[-1])


def along_edges(
    values: Float[Tensor, "n 1 H W"], source: Float[Tensor, "n 3 H W"], *, lat_px: int, closed: bool = False
) -> Float[Tensor, "n 1 H W"]:
    """The same from values that were brought to pixels, `lat_px` of which a latent has, and are blurred so.

    A guided filter gives them the edges of the source, so that a mask ends where a thing does. Of `closed` pictures the
    right end meets the left one.
    """
    radius = round(REACH_LAT * lat_px)
    over = min(2 * radius, values.shape[-1]) if closed else 0  # what the filter sees from a pixel
    around = [pad(x, (over, over, 0, 0), mode="circular") for x in (values, source)]
    edged = guided_filter(*around, radius=radius, eps=FLAT)[..., over : over + values.shape[-1]]
    return levels(torch.maximum(edged, OWN * values))


def makes_mask(found: Sequence[tuple[str, Found]]) -> bool:
    """Whether some sentence edits a part of the picture; otherwise there is no mask."""
    return any(edit.extent == "part" for _, edit in found)


def tell(session: Session, prior: Prior, seeker: Seeker, found: Sequence[tuple[str, Found]]) -> bool:
    """Note what was found under each sentence; whether it makes a mask: some sentence edits a part of the picture."""
    if not prior.builtin:
        session.note(NOT_MEASURED)
    for sentence, edit in found:
        if edit.extent != "part":
            session.note(f"mask: none, as {seeker.why_none(sentence, edit)}")
    return makes_mask(found)


def tell_share(session: Session, share: float, place: Path) -> None:
    """Note how much of the picture the mask at `place` lets change, and measure it."""
    session.note(f"mask: {share:.0%} of the picture may change; --mask {place} gives the same mask back")
    session.manifest.numbers["part of the picture that the mask lets change"] = round(share, 4)
