"""The methods: scenes of nerfacto, instant-ngp and splatfacto edited from one sentence, and scenes made from one."""

import importlib.util
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.plugins.types import MethodSpecification

from csd3d.nerf.backends import CsdNerfactoModelConfig, CsdNgpModelConfig, CsdSplatModelConfig
from csd3d.nerf.host import CsdDataManagerConfig, CsdFullImageDataManagerConfig, CsdTrainerConfig
from csd3d.nerf.ngp import CsdNgpPipelineConfig
from csd3d.nerf.pipeline import CsdEditPipelineConfig
from csd3d.nerf.text3d.data import OrbitDataManagerConfig
from csd3d.nerf.text3d.model import ThingModelConfig
from csd3d.nerf.text3d.pipeline import Text3dPipelineConfig
from csd3d.nerf.text3d.trainer import Text3dTrainerConfig

HAS_TCNN = importlib.util.find_spec("tinycudann") is not None


def rays(per_step: int) -> CsdDataManagerConfig:
    """Training data as so many rays a step."""
    return CsdDataManagerConfig(
        dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=per_step, eval_num_rays_per_batch=per_step
    )


@dataclass(frozen=True)
class Backend:
    """A field and how it is trained."""

    model: ModelConfig
    data: DataManagerConfig
    rates: Mapping[str, float]
    """Learning rates of the groups of parameters. They are constant: an edit never knows when the last change comes."""
    pipeline: type[CsdEditPipelineConfig] = CsdEditPipelineConfig


NERFACTO = Backend(
    CsdNerfactoModelConfig(
        implementation="tcnn" if HAS_TCNN else "torch",
        eval_num_rays_per_chunk=1 << 15,
        average_init_density=0.01,
        camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"),
    ),
    rays(4096),
    {"proposal_networks": 1e-2, "fields": 1e-2, "camera_opt": 1e-4},
)
SMALL_NERFACTO = Backend(
    CsdNerfactoModelConfig(
        implementation="torch",
        near_plane=0.3,
        far_plane=6.0,
        hidden_dim=32,
        hidden_dim_color=32,
        num_levels=8,
        max_res=256,
        log2_hashmap_size=14,
        num_proposal_samples_per_ray=(32, 16),
        num_nerf_samples_per_ray=16,
        proposal_net_args_list=[
            {"hidden_dim": 16, "log2_hashmap_size": 13, "num_levels": 4, "max_res": 64, "use_linear": False},
            {"hidden_dim": 16, "log2_hashmap_size": 13, "num_levels": 4, "max_res": 128, "use_linear": False},
        ],
        use_appearance_embedding=False,
        eval_num_rays_per_chunk=1 << 12,
        average_init_density=0.01,  # with 1, sheets in front of the cameras on a real capture
        camera_optimizer=CameraOptimizerConfig(mode="off"),
    ),
    rays(512),
    {"proposal_networks": 2e-2, "fields": 2e-2, "camera_opt": 1e-4},
)
NGP = Backend(CsdNgpModelConfig(eval_num_rays_per_chunk=8192), rays(4096), {"fields": 1e-2}, CsdNgpPipelineConfig)
SPLATFACTO = Backend(
    CsdSplatModelConfig(),
    CsdFullImageDataManagerConfig(
        dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
    ),
    {  # splatfacto's; means at the geometric middle of its decay
        "means": 1.6e-5,
        "features_dc": 2.5e-3,
        "features_rest": 1.25e-4,
        "opacities": 5e-2,
        "scales": 5e-3,
        "quats": 1e-3,
        "camera_opt": 1e-4,
        "bilateral_grid": 2e-3,
    },
)


def method(
    name: str, description: str, backend: Backend, edit: Mapping[str, Any] | None = None, **changes: Any
) -> MethodSpecification:
    """A method as `ns-train` lists it: `edit` changes settings of the pipeline, `changes` those of the trainer."""
    optimizers: dict[str, Any] = {
        group: {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": None}
        for group, lr in backend.rates.items()
    }
    usual: dict[str, Any] = {
        "steps_per_eval_batch": 500,
        "steps_per_save": 2000,
        "max_num_iterations": 30_000,
        "mixed_precision": True,
        "viewer": ViewerConfig(num_rays_per_chunk=1 << 15),
        "vis": "viewer",
    }
    pipeline = backend.pipeline(datamanager=deepcopy(backend.data), model=deepcopy(backend.model), **(edit or {}))
    config = CsdTrainerConfig(method_name=name, pipeline=pipeline, optimizers=optimizers, **(usual | changes))
    return MethodSpecification(config, description=description)


def from_sentence(name: str, description: str, model: ThingModelConfig, /, **changes: Any) -> MethodSpecification:
    """A method that makes a scene from a sentence: `pipeline` among `changes` are settings of the pipeline, `lr` the
    learning rate of the field, `cameras` where cameras are; the others are those of the trainer."""
    cameras = OrbitDataManagerConfig(**changes.pop("cameras", {}))
    pipeline = Text3dPipelineConfig(datamanager=cameras, model=model, **changes.pop("pipeline", {}))
    adam = AdamOptimizerConfig(lr=changes.pop("lr"), eps=1e-15)
    usual: dict[str, Any] = {
        "logging": LoggingConfig(steps_per_log=50),
        "steps_per_eval_batch": 0,
        "steps_per_eval_image": 0,
        "steps_per_eval_all_images": 0,
        "vis": "viewer",
    }
    optimizers = {"fields": {"optimizer": adam, "scheduler": None}}
    config = Text3dTrainerConfig(method_name=name, pipeline=pipeline, optimizers=optimizers, **(usual | changes))
    return MethodSpecification(config, description=description)


csd_edit = method(
    "csd-edit",
    "Edit a nerfacto scene from one sentence: views change together by collaborative score distillation.",
    NERFACTO,
)
csd_edit_small = method(
    "csd-edit-small",
    "csd-edit with half the rays and half the views together: fits less memory.",
    replace(NERFACTO, data=rays(2048)),
    {"views_per_edit": 8, "edit_every": 1_000},
    viewer=ViewerConfig(num_rays_per_chunk=1 << 13),
)
csd_edit_cpu = method(
    "csd-edit-cpu",
    "csd-edit for a small scene on two CPU cores, with the built-in prior.",
    SMALL_NERFACTO,
    {
        "scene_steps": 800,
        "edit_every": 100,
        "views_per_edit": 8,
        "distil_views": 2,
        "distil_px": 64,
    },
    machine=MachineConfig(device_type="cpu"),
    logging=LoggingConfig(steps_per_log=50),
    steps_per_eval_batch=0,
    steps_per_eval_image=0,
    steps_per_eval_all_images=0,
    steps_per_save=500,
    max_num_iterations=1_600,
    mixed_precision=False,
    viewer=ViewerConfig(),
)
csd_edit_ngp = method(
    "csd-edit-ngp",
    "csd-edit of an instant-ngp scene. Needs CUDA.",
    NGP,
    viewer=ViewerConfig(num_rays_per_chunk=1 << 12),
)
csd_edit_splat = method(
    "csd-edit-splat",
    "csd-edit of a splatfacto scene. Needs CUDA.",
    SPLATFACTO,
    steps_per_eval_batch=0,
    steps_per_eval_image=100,
    steps_per_eval_all_images=1000,
    mixed_precision=False,
)
csd_3d = from_sentence(
    "csd-3d",
    "A scene from a sentence, without photographs: renders move together by collaborative score distillation.",
    ThingModelConfig(implementation="tcnn" if HAS_TCNN else "torch", eval_num_rays_per_chunk=1 << 14),
    pipeline={"opacity": 0.01, "entropy": 0.001},
    lr=1e-2,
    steps_per_save=1000,
    max_num_iterations=10_000,
    mixed_precision=True,
    viewer=ViewerConfig(num_rays_per_chunk=1 << 14),
)
csd_3d_cpu = from_sentence(
    "csd-3d-cpu",
    "csd-3d on two CPU cores, for what the built-in prior knows.",
    ThingModelConfig(encoding="grid", coarse_samples=32, fine_samples=24, background="learned"),
    pipeline={"render_px": (48, 64), "anneal_steps": 1500, "opacity": 0.05},
    cameras={"radius": (2.2, 2.2), "elevation": (3.0, 25.0), "fov": (46.0, 54.0), "eval_px": 96},
    lr=2e-2,
    machine=MachineConfig(device_type="cpu"),
    steps_per_save=500,
    max_num_iterations=1_500,
    mixed_precision=False,
    viewer=ViewerConfig(),
)
