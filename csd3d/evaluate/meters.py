"""Meters: one or a few metrics of one result, fed chunk by chunk with frames of it and of its source.

What is found goes by the names of `csd3d.evaluate.definitions`, one number a frame or a pair of neighbours.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csd3d.metrics.background import change_outside
from csd3d.metrics.embeddings import (
    consecutive_similarity,
    direction_consistency,
    directional_similarity,
    frame_accuracy,
    pairwise_similarity,
    text_alignment,
)
from csd3d.metrics.flicker import flicker
from csd3d.metrics.perceptual import self_similarity_distance
from csd3d.metrics.ssim import WINDOW_PX, warp_ssim
from csd3d.metrics.structure import structure_distance
from csd3d.metrics.warp import warp_error

T = TypeVar("T")
LEAD = 2
"""Frames before a chunk that it brings along, for what is measured between neighbours."""
Scores = Mapping[str, Sequence[float]]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Neighbouring frames of a source: those that are new, and up to `LEAD` before them."""

    source: Float[Tensor, "n 3 H W"]
    lead: int
    """How many of them are not new."""
    mask: Float[Tensor, "m 1 H W"] | None = None
    """Where the new ones may change."""
    flow: Float[Tensor, "p 2 H W"] | None = None
    """From each new frame's predecessor to it, where there is one; None where frames do not follow one another."""
    visible: Bool[Tensor, "p H W"] | None = None
    """Where that flow is trusted."""
    memory: dict[object, Any] = field(default_factory=dict)
    """What networks made of the source: the same for all results."""

    @property
    def new(self) -> Float[Tensor, "m 3 H W"]:
        """The new frames of the source."""
        return self.source[self.lead :]

    def of_source(self, network: Callable[[Tensor], T]) -> T:
        """What a network makes of the new frames of the source, asked once."""
        if network not in self.memory:
            self.memory[network] = network(self.new)
        return self.memory[network]

    @property
    def pairs(self) -> int:
        """How many new frames have a predecessor."""
        return 0 if self.flow is None else len(self.flow)


class Meter(ABC):
    """Measures one result."""

    for_all = False
    """Whether what it keeps is also for a measure over many results."""

    @abstractmethod
    def add(self, chunk: Chunk, result: Float[Tensor, "n 3 H W"]) -> None:
        """The next frames; those of the result at the places of the chunk's."""

    @abstractmethod
    def scores(self) -> Scores:
        """What was found, by metric."""


class Pixels(Meter):
    """What needs no network: change, background, structure, warp error, WarpSSIM, flicker."""

    def __init__(self) -> None:
        self._found: dict[str, list[float]] = defaultdict(list)

    def add(self, chunk: Chunk, result: Float[Tensor, "n 3 H W"]) -> None:
        """See `Meter`."""
        new, put = result[chunk.lead :], self._put
        put("change", (new - chunk.new).abs().mean((1, 2, 3)))
        put("structure", structure_distance(new, chunk.new))
        if chunk.mask is not None:
            put("background", change_outside(new, chunk.new, chunk.mask))
        if chunk.flow is None or chunk.visible is None:
            return
        if chunk.pairs:
            first, second = result[-chunk.pairs - 1 : -1], result[-chunk.pairs :]
            put("warp error", warp_error(first, second, chunk.flow, chunk.visible))
            if min(result.shape[-2:]) >= WINDOW_PX:
                put("WarpSSIM", warp_ssim(first, second, chunk.flow))
        put("flicker", flicker(result[max(0, chunk.lead - LEAD) :]))

    def _put(self, name: str, values: Float[Tensor, " n"]) -> None:
        self._found[name] += values.tolist()

    def scores(self) -> Scores:
        """See `Meter`."""
        return self._found


class Embedded(Meter):
    """What is found in embeddings of whole frames: `pooled` keeps one a frame of source and result."""

    def __init__(self, embed: Callable[[Tensor], Tensor], *, ordered: bool) -> None:
        self.embed, self.ordered = embed, ordered
        self._frames: list[Tensor] = []
        self._sources: list[Tensor] = []

    def add(self, chunk: Chunk, result: Float[Tensor, "n 3 H W"]) -> None:
        """See `Meter`."""
        self._frames.append(self.embed(result[chunk.lead :]))
        self._sources.append(chunk.of_source(self.embed))

    @property
    def frames(self) -> Float[Tensor, "n d"]:
        """Of all frames of the result."""
        return torch.cat(self._frames)

    @property
    def sources(self) -> Float[Tensor, "n d"]:
        """Of all frames of the source."""
        return torch.cat(self._sources)


class LearnedFeatures(Meter):
    """Consistency, content and structure by features of an ImageNet classifier."""

    def __init__(self, look: Callable[[Tensor], tuple[Tensor, Tensor]], *, ordered: bool) -> None:
        """`look` gives features of places, n k d, and of whole pictures, n d."""
        self._look, self._ordered = look, ordered
        self._structure: list[float] = []
        self._content: list[float] = []
        self._whole: list[Tensor] = []

    def add(self, chunk: Chunk, result: Float[Tensor, "n 3 H W"]) -> None:
        """See `Meter`."""
        places, whole = self._look(result[chunk.lead :])
        source_places, source_whole = chunk.of_source(self._look)
        self._structure += self_similarity_distance(places, source_places).tolist()
        self._content += torch.cosine_similarity(whole, source_whole, dim=1).tolist()
        self._whole.append(whole)

    def scores(self) -> Scores:
        """See `Meter`."""
        found = {"feature content": self._content, "feature structure": self._structure}
        if self._ordered:
            found["feature consistency"] = consecutive_similarity(torch.cat(self._whole)).tolist()
        return found


class ByClip(Embedded):
    """What CLIP says of pictures and, where there are any, of the sentences' embeddings."""

    def __init__(
        self, embed: Callable[[Tensor], Tensor], text: Tensor | None, source_text: Tensor | None, *, ordered: bool
    ) -> None:
        super().__init__(embed, ordered=ordered)
        self.text, self.source_text = text, source_text

    def scores(self) -> Scores:
        """See `Meter`."""
        frames, sources = self.frames, self.sources
        found: dict[str, Tensor] = {}
        if self.text is not None:
            found["CLIP-T"] = text_alignment(frames, self.text)
        if self.text is not None and self.source_text is not None:
            found["CLIP direction"] = directional_similarity(frames, sources, self.text, self.source_text)
            found["Frame-Acc"] = frame_accuracy(frames, self.text, self.source_text)
        if self.ordered:
            found["CLIP consistency"] = consecutive_similarity(frames)
            found["CLIP direction consistency"] = direction_consistency(frames, sources)
        found["CLIP-F"] = pairwise_similarity(frames)
        return {name: values.tolist() for name, values in found.items()}


class ByDino(Meter):
    """Structure distance by DINO's keys."""

    def __init__(self, keys: Callable[[Tensor], Tensor]) -> None:
        self._keys = keys
        self._found: list[float] = []

    def add(self, chunk: Chunk, result: Float[Tensor, "n 3 H W"]) -> None:
        """See `Meter`."""
        keys = self._keys(result[chunk.lead :])
        self._found += self_similarity_distance(keys, chunk.of_source(self._keys)).tolist()

    def scores(self) -> Scores:
        """See `Meter`."""
        return {"DINO structure": self._found}


class ByLpips(Meter):
    """Perceptual distance to the source, and between neighbours."""

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._distance = distance
        self._to_source: list[float] = []
        self._neighbours: list[float] = []

    def add(self, chunk: Chunk, result: Float[Tensor, "n 3 H W"]) -> None:
        """See `Meter`."""
        self._to_source += self._distance(result[chunk.lead :], chunk.new).tolist()
        if chunk.pairs:
            first, second = result[-chunk.pairs - 1 : -1], result[-chunk.pairs :]
            self._neighbours += self._distance(first, second).tolist()

    def scores(self) -> Scores:
        """See `Meter`."""
        return {"LPIPS": self._to_source} | ({"LPIPS neighbours": self._neighbours} if self._neighbours else {})


class ForFid(Embedded):
    """Keeps Inception's features, which are compared over all results of a method together."""

    for_all = True

    def scores(self) -> Scores:
        """None of a single result."""
        return {}
