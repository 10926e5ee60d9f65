"""Posed scenes of the world with all the truth that measuring an edited radiance field takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd3d.metrics import (
    agreement,
    background_change,
    is_any_nearest,
    is_nearest,
    mean,
    nearest,
    psnr,
    structure_distance,
)
from csd3d.world.edits import Edit
from csd3d.world.families import FEWEST, Family
from csd3d.world.sample import PosedScene, Views, changed_share, least_share, sample_scene
from scripts.benchmarks.clips import Pairs
from scripts.training.pictures import edited_pictures


@dataclass(frozen=True)
class Place:
    """A scene that no prior was trained on, and what every edit that can be seen in it exactly gives."""

    posed: PosedScene
    edits: tuple[Edit, ...]
    """Those that can be seen from the held-out cameras, then further members of families."""
    truths: UInt8[Tensor, "k m 3 H W"]
    """At the held-out cameras: the unedited scene, then what each of `edits` gives."""


@torch.no_grad()
def place(seed: int, *, train_views: int, test_views: int, size_px: int, families: Sequence[Family] = ()) -> Place:
    """Sample scene number `seed` with all its truths, those of members of `families` among them."""
    posed = sample_scene(seed, train_views=train_views, test_views=test_views, height_px=size_px, width_px=size_px)
    edits = posed.test.edits()
    edits += [e for family in families for e in family.open_in(posed.scene) if e not in edits]
    pictures = [edited_pictures(posed.scene, camera, edits) for camera in posed.test.cameras]
    return Place(posed, tuple(edits), (torch.stack(pictures, dim=1) * 255).round().to(torch.uint8))


class Judge:
    """Measures an edit of a place that has one right answer."""

    def __init__(self, place: Place, edit: Edit, *, gap: int) -> None:
        self._place, self._right = place, 1 + place.edits.index(edit)
        self.held_out: Float[Tensor, "m 3 H W"] = place.truths[self._right].float() / 255
        """The true edited scene at the held-out cameras."""
        self.unedited: Float[Tensor, "m 3 H W"] = place.truths[0].float() / 255
        """The scene as it is, there."""
        self.train: Float[Tensor, "n 3 H W"] = place.posed.train.truth(edit)
        """The true edited scene at the training cameras."""
        train = place.posed.train
        seen = train if edit.same_geometry else replace(train, scene=edit.scene(train.scene))
        self._near, self._far = (reprojections(seen, step) for step in (1, gap))

    def __call__(self, held_out: Float[Tensor, "m 3 H W"], train: Float[Tensor, "n 3 H W"]) -> dict[str, float]:
        """What is measured (`csd3d.metrics`), of renders at the held-out cameras and of edited training views."""
        truths = self._place.truths.float() / 255
        return {
            "accuracy": is_nearest(held_out, truths, self._right).float().mean().item(),
            "psnr": psnr(held_out, self.held_out).mean().item(),
            "warp": mean(self._near.error(train).tolist()).value,
            "warp_far": mean(self._far.error(train).tolist()).value,
            "background": mean(background_change(held_out, self.unedited, self.held_out).tolist()).value,
            "psnr_train": psnr(train, self.train).mean().item(),
            "structure": structure_distance(held_out, self.unedited).mean().item(),
        }


class OpenJudge:
    """Measures an edit of a place that has several right answers: by that which most training views are nearest to."""

    def __init__(self, place: Place, family: Family, *, gap: int) -> None:
        """Raises `ValueError` for a family that leaves nothing open in this place."""
        least = least_share(place.posed.test.cameras[0])
        truths = place.truths.float() / 255
        shown = [e for e in family.open_in(place.posed.scene) if _shows(truths, 1 + place.edits.index(e), least)]
        if len(shown) < FEWEST:
            raise ValueError(f"sentences: expected {FEWEST} answers or more that show, got {len(shown)}: {family.name}")
        self._place, self._judges = place, [Judge(place, edit, gap=gap) for edit in shown]
        self._right = [1 + place.edits.index(edit) for edit in shown]
        self.held_out, self.train = self._judges[0].held_out, self._judges[0].train
        self.unedited = self._judges[0].unedited

    def __call__(self, held_out: Float[Tensor, "m 3 H W"], train: Float[Tensor, "n 3 H W"]) -> dict[str, float]:
        """As `Judge`, and `agreement`: the share of the training views nearest to that answer."""
        chosen = nearest(train, torch.stack([judge.train for judge in self._judges]))
        right = is_any_nearest(held_out, self._place.truths.float() / 255, self._right)
        return self._judges[int(chosen.mode().values)](held_out, train) | {
            "accuracy": right.float().mean().item(),
            "agreement": agreement(chosen),
        }


def _shows(truths: Float[Tensor, "k m 3 H W"], number: int, least: float) -> bool:
    return bool((changed_share(truths[0], truths[number]) > least).all())


@torch.no_grad()
def reprojections(views: Views, step: int) -> Pairs:
    """Where the points of view i are in view i + `step`, exactly, for all i: depth reprojection."""
    first = torch.arange(len(views) - step)
    flows = [views.flow(i, i + step) for i in first.tolist()]
    return Pairs(first, first + step, torch.stack([f.flow for f in flows]), torch.stack([f.visible for f in flows]))
