"""Whatever touches nerfstudio's insides (1.1.5), besides its models: trainer and data managers that edits can use.

What the stock classes do that we cannot have: their checkpoints hold numpy scalars, which torch refuses to load without
unpickling classes; their data managers hand images to worker processes, where they cannot be replaced.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
import yaml
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer import Viewer
from torch import Tensor

from csd3d.media.atomic import atomic_path, remove_leftovers, write_bytes
from csd3d.nerf import viewer_page
from csd3d.nerf.backends import require_device
from csd3d.nerf.checkpoints import checkpoint_path, load_checkpoint, plain, random_state, restore_random_state
from csd3d.nerf.eta import SceneEta
from csd3d.nerf.refusals import folder_unless_refused, mistakes_in_one_line
from csd3d.nerf.starts import (
    data_errors,
    has_viewer,
    require_data,
    require_pictures,
    require_steps,
    require_views,
    require_way_to_edit,
)
from csd3d.runs.interrupt import StopRequest, stoppable
from csd3d.runs.progress import LONG_S, words
from csd3d.runs.ranks import ranks

SECONDS_BETWEEN_STEPS_SHOWN = 0.5


# --- data -------------------------------------------------------------------------------------------------------------


class CsdDataset(InputDataset):
    """Transparent pictures are composited on black, as nerfstudio's fields are trained with them, unless the data say
    on what. Cameras are in 32 bits, where nerfstudio reads Blender's focal length in 64."""

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        super().__init__(dataparser_outputs, scale_factor)
        if self._dataparser_outputs.alpha_color is None:
            self._dataparser_outputs.alpha_color = torch.zeros(3)
        self.cameras.fx, self.cameras.fy = self.cameras.fx.float(), self.cameras.fy.float()


@dataclass
class CsdDataManagerConfig(VanillaDataManagerConfig):
    """All training images in memory, where edited views replace them."""

    _target: type = field(default_factory=lambda: CsdDataManager)


class CsdDataManager(VanillaDataManager[CsdDataset]):
    """Rays from all training images, any of which can be replaced by an edited one."""

    def __init__(self, config: CsdDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        with data_errors(config):
            super().__init__(config, *args, **kwargs)
            require_views(self.train_dataset)  # of no views at all nerfstudio sets up nothing

    def setup_eval(self) -> None:
        """Load the held-out images; raises `ValueError` for those that are not what their cameras say."""
        require_pictures(self.eval_dataset)
        super().setup_eval()

    def setup_train(self) -> None:
        """Load all images, in the order of the data set.

        Raises:
            ValueError: there are too few views, or they differ in size, or are not what their cameras say.
        """
        require_views(self.train_dataset)
        require_pictures(self.train_dataset)
        super().setup_train()
        batch = self.train_image_dataloader.cached_collated_batch
        if batch is None:
            raise ValueError("train-num-images-to-sample-from: expected -1, all images, which edits replace")
        count = len(self.train_dataset)
        order = batch["image_idx"].argsort()
        for name, value in batch.items():
            if isinstance(value, Tensor) and len(value) == count:
                batch[name] = value[order.to(value.device)]
        self._images: Tensor = batch["image"]
        self.photographs: Float[Tensor, "n 3 H W"] = self._images[..., :3].permute(0, 3, 1, 2).cpu().clone()
        """What the cameras saw, in [0, 1]."""

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Tensor]]:
        """The rays of the next step and the pixels along them, held until the step after."""
        self.rays, self.seen = super().next_train(step)
        return self.rays, self.seen

    def show(self, view: int, rgb: Float[Tensor, "3 H W"]) -> None:
        """From now on training sees `rgb` there."""
        self._images[view, ..., :3] = rgb.permute(1, 2, 0).to(self._images)


@dataclass
class CsdFullImageDataManagerConfig(FullImageDatamanagerConfig):
    """The same for backends that train on whole images."""

    _target: type = field(default_factory=lambda: CsdFullImageDataManager)


class CsdFullImageDataManager(FullImageDatamanager[CsdDataset]):
    """Whole training images, any of which can be replaced by an edited one."""

    def __init__(self, config: CsdFullImageDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        with data_errors(config):
            super().__init__(config, *args, **kwargs)

    def setup_train(self) -> None:
        """Load all images; raises as `CsdDataManager.setup_train` does."""
        require_pictures(self.train_dataset)
        super().setup_train()
        entries = self.cached_train
        require_views(self.train_dataset)  # whose sizes taking out distortion may have changed
        seen = torch.stack([entry["image"][..., :3].cpu() for entry in entries]).permute(0, 3, 1, 2)
        self.photographs: Float[Tensor, "n 3 H W"] = seen / 255 if seen.dtype == torch.uint8 else seen.clone()
        """What the cameras saw, without their distortion, in [0, 1]."""

    def show(self, view: int, rgb: Float[Tensor, "3 H W"]) -> None:
        """From now on training sees `rgb` there."""
        image, picture = self.cached_train[view]["image"], rgb.permute(1, 2, 0)
        image[..., :3] = (picture * 255).round().to(image) if image.dtype == torch.uint8 else picture.to(image)


def view_names(dataset: InputDataset) -> list[str]:
    """File names of the images without suffix; with their number where they are not unique."""
    names = [Path(p).stem for p in dataset.image_filenames]
    return names if len(set(names)) == len(names) else [f"{i:05d}_{name}" for i, name in enumerate(names)]


def mask_names(dataset: InputDataset) -> list[str]:
    """What masks of the images are called, without suffix: as the images; where names are not unique, with as many of
    their folders as all images need."""
    stems = [Path(p).with_suffix("") for p in dataset.image_filenames]
    if len({p.name for p in stems}) == len(stems):
        return [p.name for p in stems]
    common = Path(os.path.commonpath(stems))
    return [p.relative_to(common).as_posix() for p in stems]


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass
class CsdTrainerConfig(TrainerConfig):
    """nerfstudio's trainer, with checkpoints that hold the edits and load safely."""

    _target: type = field(default_factory=lambda: CsdTrainer)

    def save_config(self) -> None:
        """Nothing yet: `CsdTrainer.setup` writes config.yml, so that a start that is refused leaves nothing."""

    def refuse(self) -> None:
        """Raises `ValueError` or `FileNotFoundError` for what can be refused before anything is made."""
        require_device(self, on_cpu="csd-edit-cpu")
        require_data(self)
        require_steps(self)


class CsdTrainer(Trainer):
    """Starts from nothing, from a checkpoint of the plain method, or from one of its own, which it resumes exactly."""

    program: ClassVar[str] = "csd-edit"
    """What messages begin with."""
    _resumed: dict[str, Any] | None = None
    """The random numbers that a resumed run goes on with."""
    _step_shown_at = 0.0
    _end = 0
    _steps = 0
    """As many as are asked for."""
    _stop_request = StopRequest()
    _stop_training = False
    _last_step = 0

    # nerfstudio lists the modes as literals
    def setup(self, test_mode: str = "val") -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As the stock trainer's; mistakes end in one line. What is not refused has its config.yml from then on."""
        asked = yaml.dump(self.config)  # before setting up completes it
        self._steps = self.config.max_num_iterations
        with mistakes_in_one_line(self.program):
            assert isinstance(self.config, CsdTrainerConfig)
            self.config.refuse()
            with folder_unless_refused(self.base_dir):  # which the viewer wants to be there
                # nerfstudio lists the modes as literals
                super().setup(test_mode)  # pyright: ignore[reportArgumentType]
        if isinstance(self.viewer_state, Viewer):
            viewer_page.set_up(self.viewer_state, self._edited.shown_cameras, on_cpu=self.device == "cpu")
            self._edited.between_moves = self._let_the_viewer_render
            self._edited.show_status(self._start_step)
        if ranks()[0] == 0:
            self.base_dir.mkdir(parents=True, exist_ok=True)
            write_bytes(self.base_dir / "config.yml", asked.encode())

    def train(self) -> None:
        """Train and edit; a resumed run goes on with the random numbers it would have had, to the end it would have.

        The first Ctrl-C ends it after the step, with a checkpoint, the second at once.
        """
        if self._resumed is not None and ranks()[0] == 0:  # other ranks must not draw the same rays
            restore_random_state(self._resumed)
        self._eta = SceneEta()
        self._end, self._last_step = self._start_step + self.config.max_num_iterations, self._start_step - 1
        self._edited.end_step = self._end
        writer.GLOBAL_BUFFER["max_iter"] = self._end  # of which the log tells the share that is done
        if ranks()[0] == 0:
            self._edited.publish_in(self.base_dir)
        alone = self.world_size == 1  # several processes would not stop after the same step
        with (
            mistakes_in_one_line(self.program),
            stoppable() if alone else nullcontext(StopRequest()) as self._stop_request,
        ):
            try:
                self._foresee()
                super().train()
            except KeyboardInterrupt:
                self._end_stopped(f"at once, in step {self._last_step + 1}; go on with --load-dir")
        if self._stop_request and self._last_step < self._end - 1:
            self._end_stopped(f"before step {self._last_step + 1}; go on with --load-dir")

    def _end_stopped(self, how: str) -> NoReturn:
        """End the program, whose user asked for it."""
        print(f"{self.program}: stopped {how} {self.checkpoint_dir}", file=sys.stderr)
        sys.exit(128 + (self._stop_request.signum or signal.SIGINT))

    @property
    def stop_training(self) -> bool:
        """Whether training ends after this step: by the viewer, or by Ctrl-C."""
        return self._stop_training or bool(self._stop_request)

    @stop_training.setter
    # a plain attribute in nerfstudio, which assigns to it
    def stop_training(self, stop: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._stop_training = stop

    def train_iteration(self, step: int) -> Any:
        """As the stock trainer's."""
        done = super().train_iteration(step)
        self._last_step = step
        return done

    def _after_train(self) -> None:
        """As the stock trainer's; a checkpoint is of the step that was made last, and who stopped need not wait."""
        self.step = self._last_step
        self.config.viewer.quit_on_train_completion |= bool(self._stop_request)
        if self._last_step >= self._start_step:
            super()._after_train()

    @property
    def _edited(self) -> Any:
        """Our pipeline."""
        return getattr(self.pipeline, "module", self.pipeline)

    def _let_the_viewer_render(self) -> None:
        """A moment for threads of the viewer that wait for the field; only they and the training loop use the lock."""
        if self.train_lock.locked():
            self.train_lock.release()
            time.sleep(0.01)
            self.train_lock.acquire()

    def _update_viewer_state(self, step: int) -> None:
        """As the stock trainer's; and the step that is shown is this one, though the field is rendered less often."""
        super()._update_viewer_state(step)
        self._estimate(step)
        now = time.monotonic()
        if isinstance(self.viewer_state, Viewer) and now - self._step_shown_at > SECONDS_BETWEEN_STEPS_SHOWN:
            viewer_page.update(self.viewer_state, step)
            self._step_shown_at = now

    def _foresee(self) -> None:
        """Say how long edits will take: before the first step, in whose time it is not."""
        self._edited.driver.foresee()

    def _estimate(self, step: int) -> None:
        """Tell nerfstudio's log how long training steps take without edits, and how much time is left with them."""
        driver = self._edited.driver
        batch_s, driver.edit_s = driver.edit_s, 0.0
        train = writer.GLOBAL_BUFFER["events"].get(writer.EventName.ITER_TRAIN_TIME.value)
        if train is None:
            return  # a process that logs nothing
        train["buffer"][-1] -= batch_s
        train["avg"] = sum(train["buffer"]) / len(train["buffer"])
        self._eta.add(train["buffer"][-1], batch_s)
        batches = driver.batches_left(step + 1, self._end)
        remaining = self._eta.remaining(self._end - step - 1, batches, driver.expected_s)
        writer.put_scalar(writer.EventName.ITER_TRAIN_TIME, train["avg"], step)
        writer.put_scalar(writer.EventName.ETA, remaining, step)
        if batch_s and remaining is not None and remaining >= LONG_S:
            follow = {0: "no more batches of views follow", 1: "one more batch of views follows"}
            more = follow.get(batches, f"{batches} more batches of views follow")
            CONSOLE.log(f"{more} until step {self._end}: {words(remaining)}")

    def _train_complete_viewer(self) -> None:
        """Wait for Ctrl-C, while the scene can be looked at; the page says so, and how to go on."""
        if isinstance(self.viewer_state, Viewer):
            viewer_page.finish(self.viewer_state, self.step)
            self._edited.show_end(self.end_text())
        if self.viewer_state is not None:
            CONSOLE.print("Use ctrl+c to quit", justify="center")
            while not self._stop_request:
                time.sleep(0.05)

    def end_text(self) -> str:
        """What the viewer shows when training has ended."""
        return (
            f"**Finished at step {self.step}.** Look around; Ctrl-C in the terminal ends. Edited views are in "
            f"{self.base_dir / 'edited_views'}; to edit further, start again with --load-dir {self.checkpoint_dir}"
        )

    def _load_checkpoint(self) -> None:
        path = checkpoint_path(self.config)
        if path is None:
            return
        if ranks()[0] == 0:
            for folder in (path.parent, path.parent.with_name("edited_views")):
                remove_leftovers(folder)  # of a run that was killed
        try:
            self._begin(load_checkpoint(path))
        except KeyError as error:
            raise ValueError(f"checkpoint: expected a complete one, got one without {error} in {path}") from error

    def _begin(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint. Raises `ValueError` or `KeyError` for one that does not fit or is not complete."""
        self.pipeline.load_pipeline(state["pipeline"], state["step"])  # refuses what does not fit
        self._start_step = state["step"] + 1
        edits = state.get("csd3d")
        # nerfstudio types its pipeline as the base class
        self.pipeline.begin(self._start_step, edits)  # pyright: ignore[reportCallIssue]
        self.optimizers = self.setup_optimizers()  # loading splats makes new parameters
        if edits is None:
            if self._edited.config.asked_prompt is None:
                require_way_to_edit(self.config, "the scene alone is trained by the method that it is of")
            return  # a scene of the plain method: optimisers start anew, at the learning rates of the edit
        self.optimizers.load_optimizers(state["optimizers"])
        self.optimizers.load_schedulers(state["schedulers"])
        self.grad_scaler.load_state_dict(state["scalers"])
        self._edited.model.restore_training(edits.get("training", {}))
        self._resumed = edits["random"]
        self._plan_steps(edits)

    def _plan_steps(self, edits: Mapping[str, Any]) -> None:
        """A resumed run goes to the end that it had; as many steps as are asked for follow one that had ended, or that
        is now asked for another number. What ended, and is asked for again, ends the program: nothing is left to do.
        """
        left, same = edits["end"] - self._start_step, self._steps == edits.get("steps", self._steps)
        if same and left > 0:
            self.config.max_num_iterations = left
            return
        if same and self._edited.is_as_in(edits) and not has_viewer(self.config):
            print(
                f"{self.program}: that run ended with step {self._start_step - 1}; nothing is left to do "
                "(another prompt, or another --max-num-iterations, trains on)"
            )
            sys.exit(0)
        had = "had ended" if left <= 0 else f"was to end with step {edits['end'] - 1}"
        CONSOLE.log(f"that run {had}; {self._steps} steps follow")

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write model, optimisers and edits atomically, as plain numbers and tensors."""
        pipeline = self._edited
        state = {
            "step": step,
            "pipeline": pipeline.state_dict(),
            "optimizers": {k: v.state_dict() for k, v in self.optimizers.optimizers.items()},
            "schedulers": {k: v.state_dict() for k, v in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            "csd3d": {
                **pipeline.edit_state(),
                "random": random_state(),
                "end": self._end,
                "steps": self._steps,
                "training": pipeline.model.training_state(),
            },
        }
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        with atomic_path(path) as part:
            torch.save(plain(state), part)
        pipeline.publish()
        if self.config.save_only_latest_checkpoint:
            for other in self.checkpoint_dir.glob("*.ckpt"):
                if other != path:
                    other.unlink()
