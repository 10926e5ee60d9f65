"""The pipeline: nerfstudio trains the field, and in some of its steps the training views are edited.

What happens in such a step is the driver's (`csd3d.nerf.drivers`), when it happens the schedule's. The prior lives
outside the module and never reaches a checkpoint.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape

from csd3d.nerf.backends import EditedModel, for_ranks
from csd3d.nerf.checkpoints import fitting_weights
from csd3d.nerf.cover import Cover
from csd3d.nerf.current_edit import CurrentEdit
from csd3d.nerf.drivers import Distil, Driver, Update
from csd3d.nerf.edit_history import EditHistory
from csd3d.nerf.host import CsdDataManager, CsdFullImageDataManager, mask_names, view_names
from csd3d.nerf.masks import read_region
from csd3d.nerf.scene import Scene
from csd3d.nerf.schedule import EditSchedule
from csd3d.nerf.settings import EditSettings
from csd3d.nerf.viewer import ChangePrompt, Controls, Pause, Reset, SetScale, Undo, ViewerCommand
from csd3d.priors.prompts.photographs import prior_note
from csd3d.priors.store.resolve import Resolved
from csd3d.runs.ranks import broadcast


@dataclass
class CsdEditPipelineConfig(EditSettings):
    """How a scene is edited. `pipeline.prompt` is the sentence."""

    _target: type = field(default_factory=lambda: CsdEditPipeline)


class CsdEditPipeline(VanillaPipeline):
    """nerfstudio's pipeline, whose training views are edited as it goes."""

    config: EditSettings
    # narrower than nerfstudio's own annotation
    datamanager: CsdDataManager | CsdFullImageDataManager  # pyright: ignore[reportIncompatibleVariableOverride]
    # narrower than nerfstudio's own annotation, a property there
    model: EditedModel  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]

    def __init__(
        self,
        config: EditSettings,
        device: str,
        test_mode: str = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        resolved = config.check() if test_mode == "val" else None  # training
        # nerfstudio lists the modes as literals
        super().__init__(config, device, test_mode, 1, local_rank, grad_scaler)  # pyright: ignore[reportArgumentType]
        self.world_size = world_size
        if world_size > 1:
            # nn.Module does not type its submodules
            self._model = for_ranks(self._model, local_rank)  # pyright: ignore[reportAttributeAccessIssue]
        if resolved is not None:
            self._prepare(resolved)

    def _prepare(self, resolved: Resolved) -> None:
        """What training takes; raises `ValueError` or `FileNotFoundError` for settings that cannot be used."""
        config, data = self.config, self.datamanager
        names, (height, width) = view_names(data.train_dataset), data.photographs.shape[-2:]
        region = read_region(config.mask_dir, config.box, mask_names(data.train_dataset), height, width)
        self.scene = Scene(self.model, data, region)
        self.current = CurrentEdit(config, resolved, str(self.device))
        if config.by_depth and not self.scene.perspective:
            if config.coupling == "depth":
                raise ValueError(
                    "coupling: expected svgd, paper or independent for fisheye and panoramic cameras, got depth"
                )
            CONSOLE.log("views are coupled pixel by pixel, not by depth: their cameras are fisheyes or panoramic")
        cover = Cover(self.scene.cameras.camera_to_worlds)
        self.schedule = EditSchedule(cover, first_edit=config.scene_steps, edit_every=config.edit_every)
        self.history = EditHistory(data.photographs, names, mask_names(data.train_dataset))
        self.rng = torch.Generator().manual_seed(config.seed)
        self.driver = self.make_driver(config.driver)
        current = self.current
        self.controls = Controls(
            current.prompt,
            current.source_prompt,
            scales=current.scales_in_use(),
            needs_source=current.needs_source_prompt,
            refusal_of=current.refusal_of,
            show_before=lambda shown: setattr(self.model, "show_before", shown),
        )
        if current.prompt or current.source_prompt is not None:
            current.require(current.prompt or "", current.source_prompt)
        self._say_of_prior(current.prompt)
        for i, element in enumerate(self.controls.elements):  # the viewer looks for attributes, and sorts their names
            setattr(self, f"control_{i:02}", element)

    def _say_of_prior(self, prompt: str | None) -> None:
        """What a person should know of the prior before it edits by a prompt."""
        if prompt and (note := prior_note(self.current.prior, [prompt])):
            CONSOLE.log(f"note: {escape(note)}")

    def make_driver(self, name: str) -> Driver:
        """The driver of that name."""
        kind = Update if name == "update" else Distil
        return kind(self.scene, self.current, self.schedule, self.history, self.rng, self._show_progress)

    def get_train_loss_dict(self, step: int) -> Any:
        """The loss of a training step, in which an edit may be due."""
        self.carry_out(broadcast(self.controls.take()))
        self.show_status(step)
        train = partial(super().get_train_loss_dict, step)
        if self.current.prompt is None or not self.schedule.is_due(step, views_left=self.driver.views_left()):
            return train()
        self.model.remember()
        return self.driver.loss(step, train)

    # --- the viewer's commands ----------------------------------------------------------------------------------------

    def carry_out(self, commands: Iterable[ViewerCommand]) -> None:
        """Do what a person asked for in the viewer; in the same order in all processes."""
        for command in commands:
            match command:
                case ChangePrompt(prompt, source_prompt):
                    self._change_prompt(prompt, source_prompt)
                case SetScale(name, value):
                    self.current.scales[name] = value
                case Pause(paused):
                    self.schedule.paused = paused
                case Undo():
                    latest = self.history.latest
                    pending = latest is None or latest.prompt != self.current.prompt  # it has edited nothing yet
                    self._go_back(set() if pending else self.history.undo())
                case Reset():
                    self._go_back(self.history.reset())

    def _change_prompt(self, prompt: str, source_prompt: str | None) -> None:
        """Take sentences, unless the prior cannot serve them, which the page and the console say."""
        reason = self.current.refusal_of(prompt, source_prompt)
        self.controls.refuse(reason)
        if reason:
            CONSOLE.print(f"[bold yellow]{escape(reason)}")
            return
        if (prompt, source_prompt) != (self.current.prompt, self.current.source_prompt):
            self.current.prompt, self.current.source_prompt = prompt, source_prompt
            self._say_of_prior(prompt)
            self.driver.foresee()
        self.schedule.request_edit()

    def _go_back(self, changed: set[int]) -> None:
        """Edits of these views were taken back; go on with the prompt that is the latest now, if there is one."""
        for view in changed:
            self.datamanager.show(view, self.history.current(view))
        self.history.publish(sorted(changed))
        latest, current = self.history.latest, self.current
        current.prompt = latest.prompt if latest else None
        current.source_prompt = latest.source_prompt if latest else current.given["source_prompt"]
        self.controls.show(current.prompt, current.source_prompt, {})

    # --- what the viewer shows ----------------------------------------------------------------------------------------

    def show_status(self, step: int) -> None:
        """Show in the viewer what comes next, and let only those controls be used that do something."""
        prompt, done, count = self.current.prompt, len(self.history.edited()), len(self.history.photographs)
        if prompt is None:
            text = "Training the scene. Type a prompt to edit it."
        elif self.schedule.paused:
            text = f"Edits are paused: {prompt}"
        elif step < self.schedule.next_edit:
            due = self.schedule.next_edit
            ends = self.end_step is not None and due >= self.end_step
            further = f"no more edits until the end, step {self.end_step}" if ends else f"next edit at step {due}"
            text = f"Training. {done} of {count} views are edited; {further}: {prompt}"
        else:
            text = f"Editing: {prompt}"
        self.controls.status.show(f"**{text}**")
        undo = bool(self.history.edits) or prompt is not None
        self.controls.enable(edits=True, undo=undo, before=self.model.before is not None)

    def show_end(self, text: str) -> None:
        """Show in the viewer, in Markdown, that training has ended: nothing can be edited any more."""
        self.controls.status.show(text)
        self.controls.refuse("")
        self.controls.enable(edits=False, undo=False, before=self.model.before is not None)

    def _show_progress(self, text: str) -> None:
        self.controls.status.show(f"**{text[:1].upper()}{text[1:]}**")
        self.between_moves()

    between_moves: Callable[[], None] = staticmethod(lambda: None)
    """Called during an edit, when the field is not in use; the trainer lets the viewer render then."""

    end_step: int | None = None
    """The step before which training ends, once it has begun."""

    @property
    def shown_cameras(self) -> Cameras:
        """As one of which the viewer looks first."""
        return self.scene.cameras

    def publish_in(self, folder: Path) -> None:
        """From now on edited views are in `folder`/edited_views."""
        self.history.publish_in(folder / "edited_views")

    def publish(self) -> None:
        """Bring pictures of the edit up to date, when a checkpoint is written."""
        self.driver.publish()

    # --- going on from a checkpoint -----------------------------------------------------------------------------------

    def begin(self, step: int, edits: dict[str, Any] | None) -> None:
        """Training begins at `step` from a checkpoint: of the plain method (None: edit at once), or with edits.

        Raises:
            ValueError: the edits are of other views, or their sentences are none that the prior can serve.
            KeyError: something is missing.
        """
        if edits is None:
            self.schedule.request_edit(step)
            return
        self.history.require_same_views(edits["views"])
        self.current.load(edits["current"], edits["given"])
        self.controls.show(self.current.prompt, self.current.source_prompt, self.current.scales_in_use())
        self.history.load(edits["edits"])
        self.rng.set_state(edits["rng"])
        self.schedule.cover.left = list(edits["left"])
        same = self.current.prompt == edits["current"]["prompt"]
        self.schedule.request_edit(edits["next_edit"] if same else step)
        self.schedule.paused = self.controls.pause.value = edits["paused"]
        self.model.before = edits["before"]
        for view in self.history.edited():
            self.datamanager.show(view, self.history.current(view))
        if (sampler := getattr(self.model, "proposal_sampler", None)) is not None:
            sampler._steps_since_update, sampler._step = edits["steps_since_update"], step - 1

    def is_as_in(self, edits: Mapping[str, Any]) -> bool:
        """Whether sentences and scales are those of a checkpoint."""
        return self.current.state() == edits["current"]

    def edit_state(self) -> dict[str, Any]:
        """All that `begin` needs, in plain containers and tensors."""
        sampler = getattr(self.model, "proposal_sampler", None)
        return {
            "edits": self.history.state(),
            "views": self.history.identities(),
            "rng": self.rng.get_state(),
            "left": list(self.schedule.cover.left),
            "next_edit": self.schedule.next_edit,
            "paused": self.schedule.paused,
            "current": self.current.state(),
            "given": self.current.given,
            "before": self.model.before,
            "steps_since_update": 0 if sampler is None else sampler._steps_since_update,
        }

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint's weights.

        Raises:
            ValueError: it is of another backend or of other sizes.
        """
        self.model.update_to_step(step)
        self.load_state_dict(fitting_weights(loaded_state, self.state_dict()))
