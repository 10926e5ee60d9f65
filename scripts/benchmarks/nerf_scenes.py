"""Posed scenes of the world with all the truth that measuring an edited radiance field takes."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd3d.metrics import background_change, is_nearest, mean, psnr
from csd3d.world.edits import Edit
from csd3d.world.sample import PosedScene, Views, sample_scene
from scripts.benchmarks.clips import Pairs
from scripts.training.pictures import edited_pictures


@dataclass(frozen=True)
class Place:
    """A scene that no prior was trained on, and what every edit that can be seen in it exactly gives."""

    posed: PosedScene
    edits: tuple[Edit, ...]
    """Those that can be seen from the held-out cameras."""
    truths: UInt8[Tensor, "k m 3 H W"]
    """At the held-out cameras: the unedited scene, then what each of `edits` gives."""


@torch.no_grad()
def place(seed: int, *, train_views: int, test_views: int, size_px: int) -> Place:
    """Sample scene number `seed` with all its truths."""
    posed = sample_scene(seed, train_views=train_views, test_views=test_views, height_px=size_px, width_px=size_px)
    edits = posed.test.edits()
    pictures = [edited_pictures(posed.scene, camera, edits) for camera in posed.test.cameras]
    return Place(posed, tuple(edits), (torch.stack(pictures, dim=1) * 255).round().to(torch.uint8))


class Judge:
    """Measures one edit of a place."""

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
        }


@torch.no_grad()
def reprojections(views: Views, step: int) -> Pairs:
    """Where the points of view i are in view i + `step`, exactly, for all i: depth reprojection."""
    first = torch.arange(len(views) - step)
    flows = [views.flow(i, i + step) for i in first.tolist()]
    return Pairs(first, first + step, torch.stack([f.flow for f in flows]), torch.stack([f.visible for f in flows]))
