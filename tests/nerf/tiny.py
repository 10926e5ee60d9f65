"""A tiny scene, a tiny run of the plugin, and an editor without networks. Needs nerfstudio."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from csd3d.engine.config import CsdConfig
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Latents, Noised
from csd3d.nerf import methods
from csd3d.nerf.checkpoints import random_state, restore_random_state
from csd3d.nerf.host import CsdTrainerConfig
from csd3d.priors.prior import Guidance, Prior, Prompts, require_no_source
from csd3d.world.export import write_scene
from csd3d.world.sample import sample_scene

PX = 32
_SEEDED = random_state()


def write_small_scene(out: Path, *, train_views: int = 6) -> Path:
    """Six training views and two held-out ones."""
    write_scene(sample_scene(8, train_views=train_views, test_views=2, height_px=PX, width_px=PX), out)
    return out


def make_small(model: Any) -> None:
    """Give a nerfacto few levels, entries and samples: what a test sees of a field holds for a small one too."""
    model.num_levels, model.max_res, model.log2_hashmap_size = 2, 32, 10
    model.num_proposal_samples_per_ray, model.num_nerf_samples_per_ray = (6, 4), 4
    for network in model.proposal_net_args_list:
        network |= {"log2_hashmap_size": 10, "num_levels": 1, "max_res": 16}


def make_small_thing(model: Any) -> None:
    """Give the field of a scene from a sentence few levels, cells and samples."""
    model.implementation, model.num_levels, model.max_res, model.log2_hashmap_size = "torch", 2, 16, 8
    model.grid_sizes, model.coarse_samples, model.fine_samples = (4, 8), 8, 8


def config_for(scene: Path, prior: Path, out: Path, /, **changes: object) -> CsdTrainerConfig:
    """A tiny run: 4 steps of scene, then edits every 3 steps, to step 10."""
    config: Any = copy.deepcopy(methods.csd_edit_cpu.config)
    assert isinstance(config, CsdTrainerConfig)
    config.output_dir, config.timestamp, config.vis = out, "run", "tensorboard"
    config.machine.seed = 1
    config.max_num_iterations, config.steps_per_save = 10, 1000
    pipeline: Any = config.pipeline
    pipeline.datamanager.data = scene
    pipeline.datamanager.train_num_rays_per_batch = 64
    make_small(pipeline.model)
    pipeline.model.average_init_density = 1.0  # rays of a field that is hardly trained end within the scene
    for name, value in {
        "prompt": "make it snowy",
        "prior": str(prior),
        "size": PX,
        "scene_steps": 4,
        "edit_every": 3,
        "views_per_edit": 4,
        "edit_steps": 2,
        "lr": 0.5,
        "s_text": 2.0,
        "s_image": 1.2,
    }.items():
        setattr(pipeline, name, value)
    if (parser := changes.pop("dataparser", None)) is not None:
        pipeline.datamanager.dataparser = parser
    for name, value in changes.items():
        setattr(pipeline if hasattr(pipeline, name) else config, name, value)
    if pipeline.prompt is None and not {"load_dir", "max_num_iterations"} & set(changes):
        config.max_num_iterations = min(10, pipeline.scene_steps)  # without a viewer, only the scene can be trained
    return config


def trainer_for(config: CsdTrainerConfig, *, rank: int = 0, world: int = 1) -> Any:  # a CsdTrainer with our pipeline
    """Set up, always with the same random numbers."""
    restore_random_state(_SEEDED)
    torch.manual_seed(1)
    trainer = config.setup(local_rank=rank, world_size=world)
    trainer.setup()
    return trainer


class MeanCodec:
    """Means of 4 x 4 pixels as latents."""

    factor = 4
    channels = 3

    def encode(self, rgb: Tensor) -> Tensor:
        return avg_pool2d(rgb, self.factor)

    def decode(self, z: Tensor) -> Tensor:
        return interpolate(z, scale_factor=float(self.factor)).clamp(0, 1)


class ToyEditor(Prior):
    """An editor that turns a source x into `goal(x)`, whatever the sentence, and its own score."""

    kind = "instruct"

    def __init__(self, goal: Callable[[Tensor], Tensor]) -> None:
        super().__init__(
            name="toy",
            path=Path(),
            builtin=True,
            device=torch.device("cpu"),
            codec=MeanCodec(),
            schedule=Schedule.scaled_linear(),
            native_px=PX,
        )
        self.goal = goal
        self.rows: list[int] = []
        """How many particles each prediction was for."""

    def score(self, prompts: Prompts, guidance: Guidance) -> "ToyEditor":
        return self

    def require(self, csd: CsdConfig, prompts: Prompts) -> None:
        require_no_source(prompts)

    def target(self, x: Noised) -> Latents:
        self.rows.append(len(x.z_t))
        return self._noise(x.z_t, x.t, self.goal(x.s))

    def source(self, x: Noised) -> Latents:
        return self._noise(x.s_t, x.t, x.s)

    def _noise(self, x_t: Tensor, t: int, x: Tensor) -> Tensor:
        ab = self.schedule.alpha_bar(t)
        return (x_t - ab**0.5 * x) / (1 - ab) ** 0.5
