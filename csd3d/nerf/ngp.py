"""The pipeline for instant-ngp, whose samples a ray differ, so that the number of rays a step does too."""

from dataclasses import dataclass, field
from typing import Any

from nerfstudio.pipelines.dynamic_batch import DynamicBatchPipeline, DynamicBatchPipelineConfig

from csd3d.nerf.pipeline import CsdEditPipeline, CsdEditPipelineConfig


@dataclass
class CsdNgpPipelineConfig(CsdEditPipelineConfig, DynamicBatchPipelineConfig):
    """How a scene of instant-ngp is edited. `pipeline.prompt` is the sentence."""

    _target: type = field(default_factory=lambda: CsdNgpPipeline)


# nerfstudio narrows the attribute in one parent only
class CsdNgpPipeline(CsdEditPipeline, DynamicBatchPipeline):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Edits around steps of which each takes as many rays as the samples allow."""

    def begin(self, step: int, edits: dict[str, Any] | None) -> None:
        """Go on with the number of rays too."""
        super().begin(step, edits)
        if edits is not None:
            self.dynamic_num_rays_per_batch = edits["rays_per_batch"]
            self._update_pixel_samplers()

    def edit_state(self) -> dict[str, Any]:
        """See the base class."""
        return {**super().edit_state(), "rays_per_batch": self.dynamic_num_rays_per_batch}
