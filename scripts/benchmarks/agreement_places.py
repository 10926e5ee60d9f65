"""What is edited by sentences with several right answers: clips, views of a scene, windows of a panorama.

All answer alike: which families they leave open, what a way of editing makes of one, and how far its pictures are from
fitting each other. Pictures are frames, views, or windows of one panorama, half a window apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.priors.instruct import InstructPrior
from csd3d.world.camera import PathName
from csd3d.world.sample import Views, sample_clip, sample_scene
from scripts.benchmarks import panorama_methods, video_methods
from scripts.benchmarks.agreement import OpenEdit, open_edits
from scripts.benchmarks.clips import pairs_of
from scripts.benchmarks.panorama_methods import PanoramaKind, as_picture, assembled, in_windows, make_task, sample
from scripts.benchmarks.video_methods import Job, Method, collaboration, true_motion

What = Literal["clips", "scenes", "panoramas"]
PATHS: tuple[PathName, ...] = ("orbit", "dolly", "shake", "pan")
FIRST = 5000
"""Number of the first sample; no other benchmark uses these."""
PANORAMAS: tuple[PanoramaKind, ...] = ("turn", "strip")


@dataclass(frozen=True)
class Scales:
    """How pictures are sampled, the baseline of every table."""

    steps: int
    s_text: float
    s_image: float


class Place(Protocol):
    """Pictures of one place that are edited together."""

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the ways of editing it."""
        ...

    def open_edits(self) -> list[OpenEdit]:
        """What is left open in it."""
        ...

    def edit(self, row: str, asked: OpenEdit, prior: InstructPrior, *, seed: int) -> Float[Tensor, "n 3 h w"]:
        """What a way of editing makes of its pictures."""
        ...

    def warp(self, output: Float[Tensor, "n 3 h w"], asked: OpenEdit) -> float:
        """Mean warp error of neighbours (fraction of 1); NaN where members change the geometry, or there is none."""
        ...


@dataclass(frozen=True)
class Pictures:
    """Frames of a clip, or views of a scene: particles that meet along exact or estimated motion."""

    views: Views
    methods: Mapping[str, Method]

    @property
    def rows(self) -> tuple[str, ...]:
        """See `Place`."""
        return tuple(self.methods)

    def open_edits(self) -> list[OpenEdit]:
        """See `Place`."""
        return open_edits(self.views)

    def edit(self, row: str, asked: OpenEdit, prior: InstructPrior, *, seed: int) -> Float[Tensor, "n 3 h w"]:
        """See `Place`."""
        job = Job(prior, self.views.source(), asked.family.wordings[0], seed, self.views)
        return self.methods[row].run(job).float().cpu()

    def warp(self, output: Float[Tensor, "n 3 h w"], asked: OpenEdit) -> float:
        """See `Place`."""
        if not all(e.same_geometry for e in asked.members):
            return float("nan")
        return pairs_of(self.views, 1).error(output).mean().item()


@dataclass(frozen=True)
class Panorama:
    """Windows of one panorama: particles that share what they overlap."""

    views: Views
    kind: PanoramaKind
    window_px: int
    methods: Mapping[str, panorama_methods.Method]

    @property
    def rows(self) -> tuple[str, ...]:
        """See `Place`."""
        return tuple(self.methods)

    def open_edits(self) -> list[OpenEdit]:
        """Families that leave the panorama open, cut into windows in all of which they can be seen."""
        return [replace(asked, truths=self._cut(asked.truths)) for asked in open_edits(self.views)]

    def edit(self, row: str, asked: OpenEdit, prior: InstructPrior, *, seed: int) -> Float[Tensor, "n 3 h w"]:
        """See `Place`."""
        picture = as_picture(self.views.source()[0])
        sentence = asked.family.wordings[0]
        task = make_task(picture, self.kind, prior, sentence, window_px=self.window_px, seed=seed)
        edited = assembled(task, picture, self.methods[row](task), detail=0.0)
        return in_windows(task.surface, edited, self.window_px)

    def warp(self, output: Float[Tensor, "n 3 h w"], asked: OpenEdit) -> float:
        """Nothing moves in a panorama."""
        return float("nan")

    def _cut(self, truths: UInt8[Tensor, "k 1 3 H W"]) -> UInt8[Tensor, "k n 3 h w"]:
        starts = range(0, truths.shape[-1] - self.window_px + 1, self.window_px // 2)
        return torch.stack([truths[:, 0, :, :, x : x + self.window_px] for x in starts], dim=1)


def clip_place(k: int, *, frames: int, size_px: int, csd: CsdConfig, scales: Scales) -> Pictures:
    """Clip number k; in every second one things move."""
    clip = sample_clip(
        FIRST + k, frames=frames, height_px=size_px, width_px=size_px, path=PATHS[k % len(PATHS)], moving=k % 2 == 1
    )
    wanted = (
        "per-frame sampling", "per-frame sampling, same noise", "first frame, carried along the flow",
        "csd-edit, independent", "independent, shared noise", "csd-edit, SVGD", "csd-edit, SVGD along motion",
        "csd-edit, SVGD, paper", "SVGD, shared noise", "SVGD, no repulsion",
    )  # fmt: skip
    known = _known(csd, scales)
    return Pictures(clip, {row: known[row] for row in wanted} | _shared(csd))


def scene_place(k: int, *, views: int, size_px: int, csd: CsdConfig, scales: Scales) -> Pictures:
    """Scene number k, seen from an arc of 120 degrees; along depth is along what the world's own depth says."""
    found = sample_scene(FIRST + k, train_views=views, test_views=1, height_px=size_px, width_px=size_px).train
    wanted = (
        "per-frame sampling", "per-frame sampling, same noise", "csd-edit, independent", "independent, shared noise",
        "csd-edit, SVGD", "csd-edit, SVGD, paper", "SVGD, no repulsion",
    )  # fmt: skip
    known = _known(csd, scales)
    deep = collaboration(replace(csd, coupling="svgd"), along=true_motion)
    return Pictures(found, {row: known[row] for row in wanted} | {"SVGD along depth": deep} | _shared(csd))


def panorama_place(k: int, *, window_px: int, csd: CsdConfig, scales: Scales) -> Panorama:
    """Panorama number k: closed turns and open strips by turns."""
    kind = PANORAMAS[k % len(PANORAMAS)]
    methods = panorama_methods.standard(csd, s_text=scales.s_text, s_image=scales.s_image, sampling_steps=scales.steps)
    extra = {
        "independent, shared noise": replace(csd, coupling="independent", noise="shared"),
        "SVGD, shared noise": replace(csd, coupling="svgd", noise="shared"),
        "SVGD, no repulsion": replace(csd, coupling="svgd", repulsion=0.0),
    }
    ways = dict(methods) | {row: panorama_methods.collaboration(c) for row, c in extra.items()}
    return Panorama(sample(kind, FIRST + k, window_px), kind, window_px, ways)


def _known(csd: CsdConfig, scales: Scales) -> Mapping[str, Method]:
    return video_methods.standard(
        csd, sampling_steps=scales.steps, s_text=scales.s_text, s_image=scales.s_image, keys=2, ablation=True
    )


def _shared(csd: CsdConfig) -> dict[str, Method]:
    """Rows with attention that all share, alone and together with SVGD and one noise."""
    alone, svgd = replace(csd, coupling="independent"), replace(csd, coupling="svgd")
    return {
        "independent, shared anchors": collaboration(alone, share="anchors"),
        "SVGD, shared anchors": collaboration(svgd, share="anchors"),
        "SVGD, shared anchors and noise": collaboration(replace(svgd, noise="shared"), share="anchors"),
    }
