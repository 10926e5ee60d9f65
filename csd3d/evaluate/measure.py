"""One pass over a source and all of its results, chunk by chunk."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csd3d.evaluate.cases import Case
from csd3d.evaluate.config import EvaluateConfig
from csd3d.evaluate.frames import Frames, Mask, measured_size, require_same_shape
from csd3d.evaluate.meters import LEAD, Chunk, Meter, Scores
from csd3d.media.geometry import resize
from csd3d.metrics.embeddings import edit_quality
from video.motion import FLOW_PX, both_ways, flow_at, grey_levels

SOURCE = "source"
"""What the unedited source is called among the methods."""
Meters = Callable[[Case], Sequence[Meter]]
"""New meters for a result of a case."""
Watch = Callable[[Sequence[range]], Iterable[range]]
"""Is handed the chunks of a case and yields them, for a progress bar."""


@dataclass(frozen=True)
class Measured:
    """What was found in one result of one case."""

    case: str
    method: str
    frames: int
    scores: Scores
    meters: Sequence[Meter] = field(default=(), repr=False)
    """Those that keep something for what is measured over many results together."""


def measure(
    case: Case, meters: Meters, config: EvaluateConfig, *, watch: Watch = lambda chunks: chunks
) -> tuple[list[Measured], list[str]]:
    """Measure all results of a case, and its source as if it were one; notes say what was left out.

    Raises:
        FileNotFoundError: something of the case does not exist.
        ValueError: something cannot be read, or has another shape than the source.
    """
    with ExitStack() as stack:
        source = stack.enter_context(Frames(case.source, max_frames=config.max_frames, stream=case.stream))
        results = {m: stack.enter_context(Frames(p, max_frames=config.max_frames)) for m, p in case.results.items()}
        mask = None
        if case.mask is not None:
            mask = Mask(case.mask, source)
            stack.callback(mask.close)
        count, notes = _common(source, results)
        one_size = all(f.one_size for f in (source, *results.values()))
        ordered = config.ordered and one_size and count > 1
        for index in (0,) if one_size else range(count):
            for result in results.values():
                require_same_shape(source, result, index)
        working = {m: [*meters(case)] for m in (SOURCE, *results)}
        tails: dict[str, Tensor] = {}
        for numbers in watch(_chunks(count, config.chunk_frames if one_size else 1)):
            size = measured_size(*source.size(numbers.start), config.size)
            new = {m: torch.stack([f.read(i, size) for i in numbers]) for m, f in ((SOURCE, source), *results.items())}
            here = {m: torch.cat([tails[m], frames]) if m in tails else frames for m, frames in new.items()}
            tails = {m: frames[-LEAD:] for m, frames in here.items()} if ordered else {}
            chunk = _chunk(here[SOURCE], len(numbers), ordered=ordered, mask=mask, numbers=numbers)
            for method, some in working.items():
                for meter in some:
                    meter.add(chunk, here[method])
    found = [
        Measured(case.name, m, count, _scores(some), [g for g in some if g.for_all]) for m, some in working.items()
    ]
    return found, notes


def _scores(meters: Sequence[Meter]) -> Scores:
    """What all meters found, and what follows from that."""
    found = {name: values for meter in meters for name, values in meter.scores().items()}
    if found.get("WarpSSIM") and "CLIP-T" in found:
        found["Q_edit"] = [edit_quality(found["WarpSSIM"], found["CLIP-T"])]
    return found


def _common(source: Frames, results: Mapping[str, Frames]) -> tuple[int, list[str]]:
    """How many frames all have, and a note on each result that has another number than the source."""
    notes = [
        f"{f.path}: {len(f)} frames, its source has {len(source)}: the first {min(len(f), len(source))} are measured"
        for f in results.values()
        if len(f) != len(source)
    ]
    return min(len(f) for f in (source, *results.values())), notes


def _chunks(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _chunk(frames: Float[Tensor, "n 3 H W"], new: int, *, ordered: bool, mask: Mask | None, numbers: range) -> Chunk:
    size = (frames.shape[-2], frames.shape[-1])
    masks = None if mask is None else torch.stack([mask.read(i, size) for i in numbers])
    lead = len(frames) - new
    if not ordered:
        return Chunk(frames, lead, masks)
    flow, visible = flows(frames[max(0, lead - 1) :])
    return Chunk(frames, lead, masks, flow, visible)


def flows(frames: Float[Tensor, "n 3 H W"]) -> tuple[Float[Tensor, "p 2 H W"], Bool[Tensor, "p H W"]]:
    """Flow from each frame to the next, p = n - 1, and where it is trusted; found where the shorter side is at most
    `video.motion.FLOW_PX`."""
    height, width = frames.shape[-2:]
    scale = min(1.0, FLOW_PX / min(height, width))
    greys = grey_levels(resize(frames, round(height * scale), round(width * scale)).clamp(0, 1)).numpy()
    found = [flow_at(both_ways(a, b)[0], height, width) for a, b in pairwise(greys)]
    if not found:
        return torch.zeros(0, 2, height, width), torch.zeros(0, height, width, dtype=torch.bool)
    return torch.stack([flow for flow, _ in found]), torch.stack([visible for _, visible in found])
