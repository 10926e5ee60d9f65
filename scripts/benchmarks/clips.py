"""Held-out clips of the world with all the truth that measuring an edited clip takes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from csd3d.media.sheet import evenly
from csd3d.metrics import warp_error
from csd3d.world.camera import PathName
from csd3d.world.edits import Edit, Kind
from csd3d.world.sample import Clip, Views, sample_clip
from scripts.training.pictures import edited_pictures


@dataclass(frozen=True)
class Pairs:
    """Pairs of frames of a clip, with where the points of the first are in the second."""

    first: Int64[Tensor, " p"]
    second: Int64[Tensor, " p"]
    flow: Float[Tensor, "p 2 H W"]
    visible: Bool[Tensor, "p H W"]

    def error(self, clip: Float[Tensor, "n 3 H W"]) -> Float[Tensor, " p"]:
        """Warp error of every pair."""
        return warp_error(clip[self.first], clip[self.second], self.flow, self.visible)


@dataclass(frozen=True)
class Material:
    """A clip, and the truth of every edit that can be seen in it."""

    name: str
    clip: Clip
    source: Float[Tensor, "n 3 H W"]
    edits: tuple[Edit, ...]
    """Those that can be seen in it from the first frame to the last."""
    judged: tuple[int, ...]
    """Frames on which accuracy is judged."""
    truths: UInt8[Tensor, "k m 3 H W"]
    """At the judged frames: the unedited clip, then what each of `edits` exactly gives."""
    _pairs: dict[tuple[str, int], Pairs] = field(default_factory=dict, repr=False)
    """Found so far, by geometry and gap."""

    def pairs(self, edit: Edit | None, gap: int) -> Pairs:
        """All frames `gap` apart, in the edited scene (None: the source); none if the clip is no longer than that."""
        key = ("" if edit is None or edit.same_geometry else edit.name, gap)
        if key not in self._pairs:
            clip = self.clip if edit is None else replace(self.clip, scene=edit.scene(self.clip.scene))
            self._pairs[key] = pairs_of(clip, gap)
        return self._pairs[key]


@torch.no_grad()
def pairs_of(clip: Views, gap: int) -> Pairs:
    """All frames of a clip that are `gap` apart; none if it is no longer than that."""
    first = torch.arange(max(0, len(clip) - gap))
    if len(first) == 0:
        size = (clip.height_px, clip.width_px)
        return Pairs(first, first, torch.zeros(0, 2, *size), torch.zeros(0, *size, dtype=torch.bool))
    flows = [clip.flow(i, i + gap) for i in first.tolist()]
    return Pairs(first, first + gap, torch.stack([f.flow for f in flows]), torch.stack([f.visible for f in flows]))


@torch.no_grad()
def material(
    seed: int, path: PathName, *, frames: int, height_px: int, width_px: int, judged: int, moving: bool
) -> Material:
    """Clip number `seed` of the world's samples, none of which a built-in prior was trained on."""
    clip = sample_clip(seed, frames=frames, height_px=height_px, width_px=width_px, path=path, moving=moving)
    edits, shown = clip.edits(), evenly(frames, judged)
    at_shown = [edited_pictures(clip.scene.at(clip.seconds[i]), clip.cameras[i], edits) for i in shown]
    levels = (torch.stack(at_shown, dim=1) * 255).round().to(torch.uint8)
    name = f"{path} {seed}" + (" moving" if moving else "")
    return Material(name, clip, clip.source(), tuple(edits), tuple(shown), levels)


def pick_edits(found: Material, kinds: Sequence[Kind], *, seed: int) -> list[Edit]:
    """One edit of each kind, the strongest of three drawn; none where the clip has none of the kind."""
    rng = random.Random(f"edits-{seed}")
    source = found.truths[0].float()
    picked: list[Edit] = []
    for kind in kinds:
        group = [k for k, e in enumerate(found.edits) if e.kind == kind and e not in picked]
        drawn = rng.sample(group, min(3, len(group)))
        strength = {k: float((found.truths[1 + k].float() - source).abs().mean()) for k in drawn}
        picked += [found.edits[k] for k in sorted(drawn, key=lambda k: -strength[k])[:1]]
    return picked
