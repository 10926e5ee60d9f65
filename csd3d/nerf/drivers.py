"""The two ways of editing a scene while it trains, as what each makes of a training step in which an edit is due.

Update (CSD, section on 3-D; Instruct-NeRF2NeRF with all views of a batch in one SVGD instead of one at a time): render
views that cover the scene, move their latents by CSD-Edit or another method, compared with their photographs, and let
training see the result in the place of the photographs. The first batches of a prompt follow each other at once until
it has edited every view: a field that trains on a mix of edited and other views fills with haze.

Distil (`csd3d.nerf.distil`): no picture is replaced; a few renders of every step carry the gradient to the field.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape
from torch import Tensor

from csd3d.media.sheet import evenly
from csd3d.metrics.change import change_note, change_of, move_note
from csd3d.nerf.current_edit import CurrentEdit
from csd3d.nerf.distil import distil_loss
from csd3d.nerf.edit import edit_views, view_size
from csd3d.nerf.edit_history import SHEET_VIEWS, EditHistory
from csd3d.nerf.found_masks import near_views, view_masks
from csd3d.nerf.scene import Scene
from csd3d.nerf.schedule import EditSchedule
from csd3d.nerf.views import correspond
from csd3d.priors.prior import Prompts
from csd3d.runs.estimate import Work, measure
from csd3d.runs.found_masks import NOT_MEASURED, MaskSearch
from csd3d.runs.progress import LONG_S, Eta, words
from csd3d.runs.ranks import gather, local_indices, ranks

SHORTER = "fewer --pipeline.edit-steps are shorter; a run that is stopped goes on with --load-dir"
Step = tuple[Any, dict[str, Tensor], dict[str, Any]]
"""What a training step of nerfstudio gives: outputs of the model, losses, metrics."""


@runtime_checkable
class Driver(Protocol):
    """A way of editing."""

    def views_left(self) -> bool:
        """Whether the prompt has edited some views, and the others should follow at once."""
        ...

    def batches_left(self, step: int, end: int) -> int:
        """Batches of views that are edited between training step `step` and the end."""
        ...

    edit_s: float
    """Seconds that batches of views took, summed until somebody takes them."""
    expected_s: float
    """Seconds that a batch is expected to take; 0 where none was foreseen."""

    def foresee(self) -> None:
        """Measure how long edits by the current prompt, which begins, will take, and say so if that is long."""
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
    edit_s: float = 0.0
    expected_s: float = 0.0
    _read: tuple[object, Bool[Tensor, "n 1 H W"] | None] = (None, None)

    def sources(self, views: list[int]) -> Float[Tensor, "n 3 H W"]:
        """What the current prompt edits: photographs, or what earlier prompts made of them."""
        self.begin()
        return torch.stack([self.history.source(v) for v in views])

    def begin(self) -> None:
        """From now on edits are of the current prompt, within its masks, which are sought when it begins."""
        current = self.current
        assert current.prompt
        self.history.begin(current.prompt, current.source_prompt, current.settings.method)
        search, latest = current.mask_search(), self.history.latest
        assert latest is not None
        if search is not None and latest.masks is None:
            with torch.autocast(self.scene.model.device.type, enabled=False):
                self._seek(search)
        self.scene.found = None if search is None else self._masks()

    def _seek(self, search: MaskSearch) -> None:
        """Find the masks of all views for the prompt that begins."""
        current, scene, views = self.current, self.scene, list(range(len(self.scene.photographs)))
        assert current.prompt
        self.on_progress(f"looking for the mask of {len(views)} views: {current.prompt}")
        sources = torch.stack([self.history.source(v) for v in views])
        size = view_size(sources, current.prior, current.size_px)
        _, distances = scene.render(views, current.size_px)
        correspondences = None
        if scene.perspective:
            correspondences = correspond(scene.cameras, views, distances, size, current.prior.codec.factor)
        masks = view_masks(
            sources, current.prior, search.under(Prompts(current.prompt, current.source_prompt)), current.prompt, size,
            seed=current.settings.seed, correspondences=correspondences,
            near=near_views(scene.cameras.camera_to_worlds), say=_say,
        )  # fmt: skip
        if not current.prior.builtin:
            _say(NOT_MEASURED)
        self.history.record_masks(masks)

    def _masks(self) -> Bool[Tensor, "n 1 H W"] | None:
        """Those of the current prompt, read once."""
        masks = self.history.latest and self.history.latest.masks
        if masks is not self._read[0]:
            self._read = (masks, self.history.masks)
        return self._read[1]


class Update(_Parts):
    """Edited views replace training images."""

    def views_left(self) -> bool:
        """See the protocol."""
        return self.history.is_partial(self.current.prompt)

    def batches_left(self, step: int, end: int) -> int:
        """See the protocol."""
        latest, prompt = self.history.latest, self.current.prompt
        if prompt is None:
            return 0
        done = len(latest.views) if latest and latest.prompt == prompt else 0
        first = -(-(len(self.scene.photographs) - done) // self.current.settings.views_per_edit)
        return self.schedule.batches_left(step, end, at_once=first)

    def loss(self, step: int, train: Callable[[], Step]) -> Step:
        """Edit the next batch of views, then train."""
        since = time.monotonic()
        with torch.autocast(self.scene.model.device.type, enabled=False):  # mixed precision is for the field
            self.edit(step)
        self.edit_s += time.monotonic() - since
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
        renders, distances = self.scene.render(
            views, current.size_px, lambda done: self.on_progress(f"{what}, rendered {done} of {len(views)}")
        )
        correspondences = None
        if settings.by_depth and self.scene.perspective:
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
            attention=settings.attending,
            size_px=current.size_px,
            strength=current.strength,
            detail=settings.detail,
            inside=inside,
            correspondences=correspondences,
            distances=distances,
            on_move=partial(self._moved, what, MoveTimer()),
        )
        change = change_of(sources, edited.rgb, None if inside is None else inside.float())
        note = change_note(change, [current.prompt], current.prior.kinds_of([current.prompt]))
        csd = current.csd()
        far = move_note(max((info.move_rms(csd) for info in edited.curves), default=0.0), csd.lr)
        if self.history.latest and not self.history.latest.views:  # of the first batch
            for text in filter(None, [note, far]):
                _say(text)
        self.replace(views, edited.rgb)
        return views

    def foresee(self) -> None:
        """See the protocol; of a prompt that has edited nothing yet, on a view and a few predictions."""
        current, latest, photographs = self.current, self.history.latest, self.scene.photographs
        begun = latest is not None and bool(latest.views) and latest.prompt == current.prompt
        if ranks()[0] != 0 or not current.prompt or begun:
            return
        csd, size = current.csd(), view_size(photographs, current.prior, current.size_px)
        height, width = (side // current.prior.codec.factor for side in size.padded)
        prompts = Prompts(current.prompt, current.source_prompt)
        score = current.prior.score_under(csd, prompts, current.settings.attending)
        each, render_s = min(current.settings.views_per_edit, len(photographs)), self.scene.render_s(current.size_px)
        batches = -(-len(photographs) // each)
        self.expected_s = each * render_s
        with torch.autocast(self.scene.model.device.type, enabled=False):
            estimate = measure(current.prior, Work(score, csd, batches * each, (height, width), together=each))
        if estimate:
            estimate = replace(estimate, codec_s=estimate.codec_s + render_s)
            self.expected_s = estimate.total_s / batches
            estimate.announce(lambda line: CONSOLE.log(f"editing every view once: {line}"), SHORTER)

    def _moved(self, what: str, timer: "MoveTimer", done: int, total: int) -> None:
        """Show how far a batch is; a long one says so on the console too."""
        left = timer.left(done, total)
        self.on_progress(f"{what}, move {done} of {total}" + (f", {words(left)}" if left else ""))
        if left is not None and left >= LONG_S and not timer.announced and ranks()[0] == 0:
            timer.announced = True
            CONSOLE.log(f"this batch: {words(left)}")

    def _done(self) -> str:
        latest = self.history.latest
        return f"{len(latest.views) if latest else 0} of {len(self.scene.photographs)} done"

    def replace(self, views: list[int], rgb: Float[Tensor, "n 3 H W"]) -> None:
        """From now on training uses these edited views; they are recorded under the current prompt."""
        for view, picture in zip(views, rgb, strict=True):
            self.history.record(view, picture)
            self.scene.data.show(view, self.history.current(view))
        self.history.publish(views)


def _say(text: str) -> None:
    """On the console, once."""
    if ranks()[0] == 0:
        CONSOLE.log(f"note: {escape(text)}")


class MoveTimer:
    """Times the moves of a batch."""

    def __init__(self) -> None:
        self.announced = False
        self._eta: Eta | None = None
        self._since = 0.0

    def left(self, done: int, total: int) -> float | None:
        """Seconds to the end of the batch after `done` moves, or None while too few were timed."""
        now = time.monotonic()
        if self._eta is None:
            self._eta = Eta(total - done)
        else:
            self._eta.add(now - self._since)
        self._since = now
        return self._eta.remaining()


class Distil(_Parts):
    """The gradient of a few renders arrives at the field in every step."""

    def views_left(self) -> bool:
        """Never: an edit is due in every step."""
        return False

    def foresee(self) -> None:
        """Nothing: what an edit takes is in the time of every step."""

    def batches_left(self, step: int, end: int) -> int:
        """None: every step is one."""
        return 0

    def loss(self, step: int, train: Callable[[], Step]) -> Step:
        """Train on the edit instead of the photographs, which hold what is outside of the region only."""
        self.begin()
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
        masks = [window.inside for window in seen if window.inside is not None]
        correspondences = None
        if settings.by_depth and self.scene.perspective:
            distances = gather(torch.stack([window.distance for window in seen]), len(views))
            corner_px = gather(torch.tensor([window.corner_px for window in seen]).float(), len(views))
            correspondences = partial(
                correspond, self.scene.cameras, views, distances, whole_px=seen[0].whole_px, corner_px=corner_px
            )
        with torch.autocast(self.scene.model.device.type, enabled=False):
            return distil_loss(
                torch.stack([window.rgb for window in seen]).float(),
                torch.stack([window.source for window in seen]),
                len(views),
                current.prior,
                Prompts(current.prompt, current.source_prompt),
                current.csd(),
                rng=self.rng,
                step=step,
                size_px=prior_px,
                attention=settings.attending,
                inside=torch.stack(masks) if masks else None,
                correspondences=correspondences,
            ).to(self.scene.model.device)
