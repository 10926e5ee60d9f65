"""The two ways of editing a scene while it trains, as what each makes of a training step in which an edit is due.

Update (CSD, section on 3-D; Instruct-NeRF2NeRF with all views of a batch in one SVGD instead of one at a time): render
views that cover the scene, move their latents by CSD-Edit or another method, compared with their photographs, and let
training see the result in the place of the photographs. The first batches of a prompt follow each other at once until
it has edited every view: a field that trains on a mix of edited and other views fills with haze.

Distil (`csd3d.nerf.distil`): no picture is replaced; a few renders of every step carry the gradient to the field.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from csd3d.media.sheet import evenly
from csd3d.nerf.current_edit import CurrentEdit
from csd3d.nerf.distil import distil_loss
from csd3d.nerf.edit import edit_views, view_size
from csd3d.nerf.edit_history import SHEET_VIEWS, EditHistory
from csd3d.nerf.ranks import local_indices, ranks
from csd3d.nerf.scene import Scene
from csd3d.nerf.schedule import EditSchedule
from csd3d.nerf.views import correspond

Step = tuple[Any, dict[str, Tensor], dict[str, Any]]
"""What a training step of nerfstudio gives: outputs of the model, losses, metrics."""


@runtime_checkable
class Driver(Protocol):
    """A way of editing."""

    def views_left(self) -> bool:
        """Whether the prompt has edited some views, and the others should follow at once."""
        ...

    def loss(self, step: int, train: Callable[[], Step]) -> Step:
        """A training step with an edit; `train` makes one without."""
        ...

    def publish(self) -> None:
        """Bring pictures of the edit up to date, when a checkpoint is written."""
        ...


@dataclass
class _Parts:
    scene: Scene
    current: CurrentEdit
    schedule: EditSchedule
    history: EditHistory
    rng: torch.Generator
    """On the CPU, in the same state in every process."""
    on_progress: Callable[[str], None] = lambda _: None
    """Called with what an edit is doing, at least once a move."""

    def sources(self, views: list[int]) -> Float[Tensor, "n 3 H W"]:
        """What the current prompt edits: photographs, or what earlier prompts made of them."""
        assert self.current.prompt
        self.history.begin(self.current.prompt, self.current.source_prompt, self.current.settings.method)
        return torch.stack([self.history.source(v) for v in views])


class Update(_Parts):
    """Edited views replace training images."""

    def views_left(self) -> bool:
        """See the protocol."""
        return self.history.is_partial(self.current.prompt)

    def loss(self, step: int, train: Callable[[], Step]) -> Step:
        """Edit the next batch of views, then train."""
        with torch.autocast(self.scene.model.device.type, enabled=False):  # mixed precision is for the field
            self.edit(step)
        self.schedule.advance(step)
        return train()

    def publish(self) -> None:
        """Nothing: edited views are published when they are edited."""

    def edit(self, step: int) -> list[int]:
        """Edit the next batch of views together; returns which they were."""
        current, settings = self.current, self.current.settings
        assert current.prompt
        count = min(settings.views_per_edit, len(self.scene.photographs))
        views = self.schedule.next_views(count, self.rng)
        sources = self.sources(views)
        what = f"editing {len(views)} views ({self._done()}): {current.prompt}"
        if ranks()[0] == 0:
            CONSOLE.log(f"step {step}: {what}")
        self.on_progress(what)
        renders, distances = self.scene.render(views, current.size_px)
        correspondences = None
        if settings.by_depth and self.scene.pinholes:
            size = view_size(sources, current.prior, current.size_px)
            correspondences = partial(correspond, self.scene.cameras, views, distances, size)
        inside = self.scene.inside(views, distances)
        if inside is not None and not inside.any():
            CONSOLE.log("nothing that these views show lies where they may change (mask, box)")
        edited = edit_views(
            renders,
            sources,
            current.prior,
            current.prompt,
            current.csd(),
            rng=self.rng,
            source_prompt=current.source_prompt,
            size_px=current.size_px,
            strength=current.strength,
            detail=settings.detail,
            inside=inside,
            correspondences=correspondences,
            on_move=lambda done, total: self.on_progress(f"{what}, move {done} of {total}"),
        )
        self.replace(views, edited.rgb)
        return views

    def _done(self) -> str:
        latest = self.history.latest
        return f"{len(latest.views) if latest else 0} of {len(self.scene.photographs)} done"

    def replace(self, views: list[int], rgb: Float[Tensor, "n 3 H W"]) -> None:
        """From now on training uses these edited views; they are recorded under the current prompt."""
        for view, picture in zip(views, rgb, strict=True):
            self.history.record(view, picture)
            self.scene.data.show(view, self.history.current(view))
        self.history.publish(views)


class Distil(_Parts):
    """The gradient of a few renders arrives at the field in every step."""

    def views_left(self) -> bool:
        """Never: an edit is due in every step."""
        return False

    def loss(self, step: int, train: Callable[[], Step]) -> Step:
        """Train on the edit instead of the photographs, which hold what is outside of the region only."""
        outputs, losses, metrics = train()
        del losses["rgb_loss"]
        if self.scene.region is not None:
            losses["rgb_loss"] = self.scene.loss_outside(outputs)
        losses["csd_loss"] = self.csd_loss(step)
        return outputs, losses, metrics

    def publish(self) -> None:
        """Write the contact sheet: as no picture is edited, it shows the field."""
        if self.history.edits:
            views = evenly(len(self.scene.photographs), SHEET_VIEWS)
            renders = self.scene.render_local(views, min(self.scene.photographs.shape[-2:]))
            self.history.publish_sheet(views, renders[:, :3])

    def csd_loss(self, step: int) -> Float[Tensor, ""]:
        """The surrogate loss of the next few views."""
        current, settings = self.current, self.current.settings
        assert current.prompt
        world = ranks()[1]
        each = min(settings.distil_views, len(self.scene.photographs) // world)  # of every process
        views = self.schedule.next_views(each * world, self.rng)
        corners: list[list[float]] = torch.rand(len(views), 2, generator=self.rng).tolist()
        sources = self.sources(views)
        side_px, render_px, prior_px = None, settings.distil_px, current.size_px
        if settings.distil_patches:
            side_px, render_px, prior_px = settings.distil_px, current.size_px, settings.distil_px
        seen = [
            self.scene.render_window(views[i], render_px, side_px, (corners[i][0], corners[i][1]), sources[i])
            for i in local_indices(len(views))
        ]
        masks = [inside for _, _, inside in seen if inside is not None]
        with torch.autocast(self.scene.model.device.type, enabled=False):
            return distil_loss(
                torch.stack([rgb for rgb, _, _ in seen]).float(),
                torch.stack([source for _, source, _ in seen]),
                len(views),
                current.prior,
                current.prompt,
                current.csd(),
                rng=self.rng,
                step=step,
                size_px=prior_px,
                source_prompt=current.source_prompt,
                inside=torch.stack(masks) if masks else None,
            ).to(self.scene.model.device)
