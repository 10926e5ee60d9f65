"""The methods: scenes of nerfacto, instant-ngp and splatfacto edited from one sentence, and nerfacto on a CPU."""

import importlib.util

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.plugins.types import MethodSpecification

from csd3d.nerf.backends import CsdNerfactoModelConfig, CsdNgpModelConfig, CsdSplatModelConfig
from csd3d.nerf.host import CsdDataManagerConfig, CsdFullImageDataManagerConfig, CsdTrainerConfig
from csd3d.nerf.ngp import CsdNgpPipelineConfig
from csd3d.nerf.settings import CsdEditPipelineConfig

HAS_TCNN = importlib.util.find_spec("tinycudann") is not None


def _constant(rates: dict[str, float]) -> dict[str, dict[str, object]]:
    """Adam at constant rates: an edit never knows when the last change comes."""
    return {name: {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": None} for name, lr in rates.items()}


def _optimizers(lr: float) -> dict[str, dict[str, object]]:
    return _constant({"proposal_networks": lr, "fields": lr, "camera_opt": 1e-4})


def _nerfacto(**changes: object) -> CsdNerfactoModelConfig:
    return CsdNerfactoModelConfig(
        implementation="tcnn" if HAS_TCNN else "torch",
        eval_num_rays_per_chunk=1 << 15,
        average_init_density=0.01,
        camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"),
        **changes,  # pyright: ignore[reportArgumentType]
    )


csd_edit = MethodSpecification(
    CsdTrainerConfig(
        method_name="csd-edit",
        steps_per_eval_batch=500,
        steps_per_save=2000,
        max_num_iterations=30_000,
        mixed_precision=True,
        pipeline=CsdEditPipelineConfig(
            datamanager=CsdDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=4096, eval_num_rays_per_batch=4096
            ),
            model=_nerfacto(),
        ),
        optimizers=_optimizers(1e-2),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="Edit a nerfacto scene from one sentence: views change together by collaborative score distillation.",
)

csd_edit_small = MethodSpecification(
    CsdTrainerConfig(
        method_name="csd-edit-small",
        steps_per_eval_batch=500,
        steps_per_save=2000,
        max_num_iterations=30_000,
        mixed_precision=True,
        pipeline=CsdEditPipelineConfig(
            datamanager=CsdDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=2048, eval_num_rays_per_batch=2048
            ),
            model=_nerfacto(),
            views_per_edit=8,
            edit_every=1_000,
        ),
        optimizers=_optimizers(1e-2),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 13),
        vis="viewer",
    ),
    description="csd-edit with half the rays and half the views together: fits less memory.",
)

csd_edit_cpu = MethodSpecification(
    CsdTrainerConfig(
        method_name="csd-edit-cpu",
        machine=MachineConfig(device_type="cpu"),
        logging=LoggingConfig(steps_per_log=50),
        steps_per_eval_batch=0,
        steps_per_eval_image=0,
        steps_per_eval_all_images=0,
        steps_per_save=500,
        max_num_iterations=1_600,
        pipeline=CsdEditPipelineConfig(
            datamanager=CsdDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=512, eval_num_rays_per_batch=512
            ),
            model=CsdNerfactoModelConfig(
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
            scene_steps=800,
            edit_every=100,
            views_per_edit=8,
            edit_steps=30,
            distil_views=2,
            distil_px=64,
        ),
        optimizers=_optimizers(2e-2),
        vis="viewer",
    ),
    description="csd-edit for a small scene on two CPU cores, with the built-in prior.",
)

csd_edit_ngp = MethodSpecification(
    CsdTrainerConfig(
        method_name="csd-edit-ngp",
        steps_per_eval_batch=500,
        steps_per_save=2000,
        max_num_iterations=30_000,
        mixed_precision=True,
        pipeline=CsdNgpPipelineConfig(
            datamanager=CsdDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=4096, eval_num_rays_per_batch=4096
            ),
            model=CsdNgpModelConfig(eval_num_rays_per_chunk=8192),
        ),
        optimizers=_constant({"fields": 1e-2}),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 12),
        vis="viewer",
    ),
    description="csd-edit of an instant-ngp scene. Needs CUDA.",
)

csd_edit_splat = MethodSpecification(
    CsdTrainerConfig(
        method_name="csd-edit-splat",
        steps_per_eval_image=100,
        steps_per_eval_batch=0,
        steps_per_save=2000,
        steps_per_eval_all_images=1000,
        max_num_iterations=30_000,
        mixed_precision=False,
        pipeline=CsdEditPipelineConfig(
            datamanager=CsdFullImageDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
            ),
            model=CsdSplatModelConfig(),
        ),
        optimizers=_constant(
            {  # splatfacto's; means at the geometric middle of its decay
                "means": 1.6e-5,
                "features_dc": 2.5e-3,
                "features_rest": 1.25e-4,
                "opacities": 5e-2,
                "scales": 5e-3,
                "quats": 1e-3,
                "camera_opt": 1e-4,
                "bilateral_grid": 2e-3,
            }
        ),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="csd-edit of a splatfacto scene. Needs CUDA.",
)
