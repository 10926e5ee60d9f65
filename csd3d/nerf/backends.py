"""The backends of nerfstudio (1.1.5) that edits can use, as ours: nerfacto, instant-ngp and splatfacto.

What the stock models do that we cannot have: they download weights for LPIPS. What they cannot do: show the scene as it
was before the edit.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torchmetrics.image.lpip as lpip
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.model_components.scene_colliders import NearFarCollider
from nerfstudio.models.base_model import Model
from nerfstudio.models.instant_ngp import InstantNGPModelConfig, NGPModel
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


class _NoLpips(torch.nn.Module):
    """Stands where LPIPS stood; it is never asked."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, *_: Tensor) -> Tensor:
        """Not a number."""
        return torch.tensor(float("nan"))


@contextmanager
def _without_lpips() -> Iterator[None]:
    """The constructor of LPIPS is out of the way meanwhile."""
    real = lpip.LearnedPerceptualImagePatchSimilarity
    # replaces a class of torchmetrics that would fetch weights
    lpip.LearnedPerceptualImagePatchSimilarity = _NoLpips  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        lpip.LearnedPerceptualImagePatchSimilarity = real


class EditedModel(Model):
    """What all our models add to nerfstudio's: no LPIPS, and a memory of the scene before its edit."""

    show_before: bool = False
    """Whether the viewer shows the scene before the edit."""
    before: dict[str, Tensor] | None = None
    """Its weights."""

    def populate_modules(self) -> None:
        """As the backend's, without the metric whose weights are downloaded."""
        with _without_lpips():
            super().populate_modules()
        if isinstance(self.collider, NearFarCollider):
            self.collider.reset_near_plane = False  # what is nearer was never trained, and may hold anything

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """As the backend's, without LPIPS."""
        # abstract in nerfstudio's base, defined in the other parent
        metrics, images = super().get_image_metrics_and_images(outputs, batch)  # pyright: ignore[reportAbstractUsage]
        return {name: value for name, value in metrics.items() if "lpips" not in name}, images

    def colour_loss(
        self, outputs: dict[str, Tensor], seen: dict[str, Tensor], some: Bool[Tensor, " rays"]
    ) -> Float[Tensor, ""]:
        """What some of the rays contribute to the backend's loss of colours (not of splats, which have no rays)."""
        if not some.any():
            return torch.zeros((), device=some.device)
        backend: Any = self
        render, truth = backend.renderer_rgb.blend_background_for_loss_computation(
            pred_image=outputs["rgb"][some],
            pred_accumulation=outputs["accumulation"][some],
            gt_image=seen["image"].to(some.device)[some],
        )
        return backend.rgb_loss(truth, render) * some.float().mean()

    def training_state(self) -> dict[str, Any]:
        """What training goes on with besides weights and optimisers: nothing, but for splats."""
        return {}

    def restore_training(self, state: Mapping[str, Any]) -> None:
        """Return to a `training_state`; of a checkpoint that has none, begin anew."""

    def remember(self) -> None:
        """This is the scene before the edit, unless there is one already."""
        if self.before is None:
            self.before = {name: value.detach().clone() for name, value in self.state_dict().items()}

    def get_outputs_for_camera(self, camera: Cameras, obb_box: Any = None) -> dict[str, Tensor]:
        """As the backend's; to the viewer, which renders in threads of its own, the scene before the edit if asked."""
        asked = self.show_before and threading.current_thread() is not threading.main_thread()
        if not asked or self.before is None:
            return super().get_outputs_for_camera(camera, obb_box=obb_box)
        with self._as_before(self.before):
            return super().get_outputs_for_camera(camera, obb_box=obb_box)

    @contextmanager
    def _as_before(self, before: dict[str, Tensor]) -> Iterator[None]:
        """Weights change places, without a copy; the viewer holds the lock of training meanwhile."""
        own = dict(self.named_parameters()) | dict(self.named_buffers())
        now = {name: own[name].data for name in before if name in own}
        try:
            for name in now:
                own[name].data = before[name].to(now[name])
            yield
        finally:
            for name, value in now.items():
                own[name].data = value


class EditedNerfacto(EditedModel, NerfactoModel):
    """Nerfacto."""


class EditedNgp(EditedModel, NGPModel):
    """Instant-ngp."""


class EditedSplats(EditedModel, SplatfactoModel):
    """Splatfacto."""

    def training_state(self) -> dict[str, Any]:
        """Gradients and sizes summed up since splats were last split or removed, on which the next time depends."""
        return dict(self.strategy_state)

    def restore_training(self, state: Mapping[str, Any]) -> None:
        """Return to them."""
        on = self.gauss_params["means"].device
        self.strategy_state |= {k: v.to(on) if isinstance(v, Tensor) else v for k, v in state.items()}


@dataclass
class CsdNerfactoModelConfig(NerfactoModelConfig):
    """Nerfacto, without the metric whose weights are downloaded."""

    _target: type = field(default_factory=lambda: EditedNerfacto)


@dataclass
class CsdNgpModelConfig(InstantNGPModelConfig):
    """Instant-ngp, without the metric whose weights are downloaded."""

    _target: type = field(default_factory=lambda: EditedNgp)


@dataclass
class CsdSplatModelConfig(SplatfactoModelConfig):
    """Splatfacto, without the metric whose weights are downloaded."""

    _target: type = field(default_factory=lambda: EditedSplats)


def require_device(config: TrainerConfig, *, on_cpu: str) -> None:
    """Raises `ValueError` for a method that this machine cannot run, before anything is compiled; `on_cpu` is one
    that it can."""
    asked, backend = config.machine.device_type, config.pipeline.model
    needs_cuda = isinstance(backend, InstantNGPModelConfig | SplatfactoModelConfig)
    if needs_cuda and asked != "cuda":
        raise ValueError(
            f"{config.method_name}: expected --machine.device-type cuda, which its backend needs, got {asked}; "
            f"{on_cpu} runs on a CPU"
        )
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"{config.method_name}: expected an NVIDIA GPU that torch can use, found none; {on_cpu} runs on a CPU"
        )


def for_ranks(model: Model, local_rank: int) -> DistributedDataParallel:
    """The model, whose gradients are averaged over the processes; nerfstudio's own way of it knows only GPUs."""
    devices = [local_rank] if model.device.type == "cuda" else None
    dist.barrier(device_ids=devices)
    return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)
