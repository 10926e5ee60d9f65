"""The pipeline for instant-ngp, whose samples a ray differ, so that the number of rays a step does too."""

from dataclasses import dataclass, field

from nerfstudio.pipelines.dynamic_batch import DynamicBatchPipeline, DynamicBatchPipelineConfig

from csd3d.nerf.pipeline import CsdEditPipeline
from csd3d.nerf.settings import CsdEditPipelineConfig


@dataclass
class CsdNgpPipelineConfig(CsdEditPipelineConfig, DynamicBatchPipelineConfig):
    """How a scene of instant-ngp is edited. `pipeline.prompt` is the sentence."""

    _target: type = field(default_factory=lambda: CsdNgpPipeline)


class CsdNgpPipeline(CsdEditPipeline, DynamicBatchPipeline):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Edits around steps of which each takes as many rays as the samples allow."""
