"""Whatever touches nerfstudio's insides (1.1.5), besides its models: trainer and data managers that edits can use.

What the stock classes do that we cannot have: their checkpoints hold numpy scalars, which torch refuses to load without
unpickling classes; their data managers hand images to worker processes, where they cannot be replaced.
"""

import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.decorators import check_main_thread
from torch import Tensor

from csd3d.media.atomic import atomic_path, write_bytes
from csd3d.nerf.backends import require_device
from csd3d.nerf.ranks import ranks
from csd3d.user_errors import DEBUG_VARIABLE, explain

LEAST_VIEWS = 3
"""Fewer views than this make no scene."""


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """What the `csd3d` command says in one line instead of a traceback, with its exit code."""
    try:
        yield
    except Exception as error:
        explained = None if os.environ.get(DEBUG_VARIABLE) else explain(error)
        if explained is None:
            raise
        message, code = explained
        print(f"csd-edit: {message}", file=sys.stderr)
        sys.exit(code)


# --- data -------------------------------------------------------------------------------------------------------------


@dataclass
class CsdDataManagerConfig(VanillaDataManagerConfig):
    """All training images in memory, where edited views replace them."""

    _target: type = field(default_factory=lambda: CsdDataManager)


class CsdDataManager(VanillaDataManager[InputDataset]):
    """Rays from all training images, any of which can be replaced by an edited one."""

    def setup_train(self) -> None:
        """Load all images, in the order of the data set.

        Raises:
            ValueError: there are too few views, or they differ in size.
        """
        require_views(self.train_dataset)
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
        """The rays of the next step and what cameras saw along them, which are kept until the step after."""
        self.rays, self.seen = super().next_train(step)
        return self.rays, self.seen

    def show(self, view: int, rgb: Float[Tensor, "3 H W"] | None) -> None:
        """From now on training sees `rgb` there; None: its photograph again."""
        picture = self.photographs[view] if rgb is None else rgb
        self._images[view, ..., :3] = picture.permute(1, 2, 0).to(self._images)


@dataclass
class CsdFullImageDataManagerConfig(FullImageDatamanagerConfig):
    """The same for backends that train on whole images."""

    _target: type = field(default_factory=lambda: CsdFullImageDataManager)


class CsdFullImageDataManager(FullImageDatamanager[InputDataset]):
    """Whole training images, any of which can be replaced by an edited one."""

    def setup_train(self) -> None:
        """Load all images; raises as `CsdDataManager.setup_train` does."""
        super().setup_train()
        entries = self.cached_train
        require_views(self.train_dataset)  # whose sizes taking out distortion may have changed
        seen = torch.stack([entry["image"][..., :3].cpu() for entry in entries]).permute(0, 3, 1, 2)
        self.photographs: Float[Tensor, "n 3 H W"] = seen / 255 if seen.dtype == torch.uint8 else seen.clone()
        """What the cameras saw, without their distortion, in [0, 1]."""

    def show(self, view: int, rgb: Float[Tensor, "3 H W"] | None) -> None:
        """From now on training sees `rgb` there; None: its photograph again."""
        image = self.cached_train[view]["image"]
        picture = (self.photographs[view] if rgb is None else rgb).permute(1, 2, 0)
        image[..., :3] = (picture * 255).round().to(image) if image.dtype == torch.uint8 else picture.to(image)


def require_views(dataset: InputDataset) -> None:
    """Raises `ValueError` for a scene of too few views, or of views that differ in size."""
    cameras, where = dataset.cameras, Path(dataset.image_filenames[0]).parent if len(dataset) else "the data"
    if len(dataset) < LEAST_VIEWS:
        raise ValueError(f"data: expected at least {LEAST_VIEWS} training views, got {len(dataset)} in {where}")
    sizes = {(int(w), int(h)) for w, h in zip(cameras.width, cameras.height, strict=True)}
    if len(sizes) > 1:
        some = ", ".join(f"{w}x{h}" for w, h in sorted(sizes)[:3])
        raise ValueError(f"data: expected training images of one size, got {some} in {where}")


def require_data(config: TrainerConfig) -> None:
    """Raises `FileNotFoundError` if what a config says to train on is not there."""
    manager: Any = config.pipeline.datamanager
    path = manager.data or manager.dataparser.data
    if not path.exists():
        raise FileNotFoundError(f"data: expected a folder or a transforms.json, got {path}, which does not exist")


def view_names(dataset: InputDataset) -> list[str]:
    """File names of the images without suffix; with their number where they are not unique."""
    names = [Path(p).stem for p in dataset.image_filenames]
    return names if len(set(names)) == len(names) else [f"{i:05d}_{name}" for i, name in enumerate(names)]


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass
class CsdTrainerConfig(TrainerConfig):
    """nerfstudio's trainer, with checkpoints that hold the edits and load safely."""

    _target: type = field(default_factory=lambda: CsdTrainer)

    def save_config(self) -> None:
        """Nothing yet: `CsdTrainer.setup` writes config.yml, so that a start that is refused leaves nothing."""


class CsdTrainer(Trainer):
    """Starts from nothing, from a checkpoint of the plain method, or from one of its own, which it resumes exactly."""

    _resumed: dict[str, Any] | None = None

    def setup(self, test_mode: str = "val") -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As the stock trainer's; mistakes end in one line. What is not refused has its config.yml from then on."""
        asked = yaml.dump(self.config)  # before setting up completes it
        with mistakes_in_one_line():
            require_device(self.config)
            require_data(self.config)
            checkpoint_path(self.config)
            super().setup(test_mode)  # pyright: ignore[reportArgumentType]
        if ranks()[0] == 0:
            self.base_dir.mkdir(parents=True, exist_ok=True)
            write_bytes(self.base_dir / "config.yml", asked.encode())

    def train(self) -> None:
        """Train and edit; a resumed run goes on with the random numbers it would have had, to the end it would have."""
        if self._resumed is not None:
            if ranks()[0] == 0:  # other ranks must not draw the same rays
                restore_random_state(self._resumed["random"])
            left = self._resumed["end"] - self._start_step
            if left > 0:
                self.config.max_num_iterations = left
        self._end = self._start_step + self.config.max_num_iterations
        pipeline: Any = getattr(self.pipeline, "module", self.pipeline)
        if ranks()[0] == 0:
            pipeline.publish_in(self.base_dir / "edited_views")
        with mistakes_in_one_line():
            super().train()

    def _load_checkpoint(self) -> None:
        path = checkpoint_path(self.config)
        if path is None:
            return
        try:
            self._begin(load_checkpoint(path))
        except KeyError as error:
            raise ValueError(f"checkpoint: expected a complete one, got one without {error} in {path}") from error

    def _begin(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint. Raises `ValueError` or `KeyError` for one that does not fit or is not complete."""
        self.pipeline.load_pipeline(state["pipeline"], state["step"])  # refuses what does not fit
        self._start_step = state["step"] + 1
        edits = state.get("csd3d")
        self.pipeline.begin(self._start_step, edits)  # pyright: ignore[reportCallIssue]
        self.optimizers = self.setup_optimizers()  # loading splats makes new parameters
        if edits is None:
            return  # a scene of the plain method: optimisers start anew, at the learning rates of the edit
        self.optimizers.load_optimizers(state["optimizers"])
        self.optimizers.load_schedulers(state["schedulers"])
        self.grad_scaler.load_state_dict(state["scalers"])
        self._resumed = {"random": edits["random"], "end": edits["end"]}

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write model, optimisers and edits atomically, as plain numbers and tensors."""
        pipeline: Any = getattr(self.pipeline, "module", self.pipeline)
        state = {
            "step": step,
            "pipeline": pipeline.state_dict(),
            "optimizers": {k: v.state_dict() for k, v in self.optimizers.optimizers.items()},
            "schedulers": {k: v.state_dict() for k, v in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            "csd3d": {**pipeline.edit_state(), "random": random_state(), "end": self._end},
        }
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        with atomic_path(path) as part:
            torch.save(plain(state), part)
        pipeline.publish_field()
        if self.config.save_only_latest_checkpoint:
            for other in self.checkpoint_dir.glob("*.ckpt"):
                if other != path:
                    other.unlink()


def checkpoint_path(config: TrainerConfig) -> Path | None:
    """The checkpoint that a config says to start from; None: none.

    Raises:
        FileNotFoundError: it is not there.
    """
    if config.load_checkpoint is not None:
        if not config.load_checkpoint.is_file():
            raise FileNotFoundError(f"load-checkpoint: expected a file, got {config.load_checkpoint}")
        return config.load_checkpoint
    if config.load_dir is None:
        return None
    if not config.load_dir.is_dir():
        raise FileNotFoundError(f"load-dir: expected a folder of checkpoints, got {config.load_dir}")
    pattern = "step-*.ckpt" if config.load_step is None else f"step-{config.load_step:09d}.ckpt"
    found = sorted(config.load_dir.glob(pattern))
    if not found:
        raise FileNotFoundError(f"load-dir: expected {pattern} in {config.load_dir}, which has none")
    return found[-1]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours or of the plain methods; nothing but numbers and tensors is ever unpickled.

    Raises:
        ValueError: it is none, or holds something else.
    """
    scalar = np.float64(0).__reduce__()[0]  # what numpy's scalars are pickled with; its module moved in numpy 2
    numbers = [scalar, np.dtype, *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64))]
    try:
        with torch.serialization.safe_globals(numbers):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint: {path} cannot be read as a nerfstudio checkpoint ({reason})") from error
    if not isinstance(state, dict) or not {"step", "pipeline"} <= set(state):
        raise ValueError(f"checkpoint: expected a nerfstudio checkpoint, got something else in {path}")
    return state


def fitting_weights(loaded: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a checkpoint under the names that a single process gives `own`, without those of LPIPS.

    Raises:
        ValueError: the checkpoint is of another backend or of other sizes.
    """
    own, state = (
        {k.removeprefix("module.").replace("_model.module.", "_model."): v for k, v in weights.items()}
        for weights in (own, loaded)  # several processes wrap the model
    )
    state = {k: v for k, v in state.items() if not k.startswith("_model.lpips.")}
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"also has {extra[0]}"
        raise ValueError(f"checkpoint: expected one of the backend that this method edits, got one that {what}")
    for name, value in state.items():
        any_number = name.startswith("_model.gauss_params.")  # a splat's rows come and go
        if value.shape[any_number:] != own[name].shape[any_number:]:
            raise ValueError(
                f"checkpoint: expected {name} of shape {tuple(own[name].shape)}, as this method is set up, "
                f"got {tuple(value.shape)}"
            )
    return state


def plain(value: Any) -> Any:
    """The same containers with Python's own numbers, so that loading needs to trust no class."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(v) for v in value)
    return value


def random_state() -> dict[str, Any]:
    """The global sources of random numbers, which samplers of pixels and rays use."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    kind, keys, *rest = np.random.get_state(legacy=True)
    state["numpy"] = [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest]
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Return to a `random_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
