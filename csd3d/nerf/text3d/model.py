"""The field of a scene that is made from a sentence, as a model of nerfstudio (1.1.5): a box about the origin and what
is around it.

A point has a density and a colour, the same from all sides, out of hash grids with a small network (Müller et al. 2022)
or, quicker without a GPU, of plain grids of several sizes that are added. A ray is sampled evenly and then where the
first samples found density. Around the box is one colour, another one in every step, or a colour of each elevation that
is learnt: too little to paint a thing on it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.field_components.mlp import MLPWithHashEncoding
from nerfstudio.model_components.ray_samplers import PDFSampler, UniformSampler
from nerfstudio.model_components.scene_colliders import AABBBoxCollider
from nerfstudio.models.base_model import Model, ModelConfig
from torch import Tensor, nn
from torch.nn import Parameter, functional

from csd3d.nerf.text3d.terms import blob

CHANNELS = 4
"""Density, before its activation, and three colours, before theirs."""
BANDS = 12
"""Elevations at which the surroundings have a colour."""
NEAR = 0.05


@dataclass
class ThingModelConfig(ModelConfig):
    """A box about the origin, and what is around it."""

    _target: type = field(default_factory=lambda: ThingModel)
    encoding: Literal["hash", "grid"] = "hash"
    """`hash`: hash grids and a small network; `grid`: plain grids, quicker on a CPU."""
    implementation: Literal["tcnn", "torch"] = "tcnn"
    """Of hash grids."""
    num_levels: int = 16
    """Hash grids."""
    max_res: int = 2048
    """Cells along a side of the finest hash grid."""
    log2_hashmap_size: int = 19
    """Size of each."""
    grid_sizes: tuple[int, ...] = (8, 16, 32, 64)
    """Points along a side of each plain grid."""
    coarse_samples: int = 64
    """Samples of a ray that look for density."""
    fine_samples: int = 64
    """Samples of a ray that are rendered."""
    background: Literal["random", "learned"] = "random"
    """What is around the box: a `random` colour in every step (white when it is looked at), so that nothing can hide in
    front of it, or a `learned` colour of every elevation: sky and ground."""
    blob_strength: float = 10.0
    """Density in the middle before the first step, before its activation."""
    blob_radius: float = 0.5
    """Where it has fallen to 0; the box reaches from -1 to 1."""


class ThingField(nn.Module):
    """Density and colour of points in the box from -1 to 1."""

    def __init__(self, config: ThingModelConfig) -> None:
        super().__init__()
        self.config = config
        self.network: nn.Module | None = None
        self.grids = nn.ParameterList()
        if config.encoding == "hash":
            self.network = MLPWithHashEncoding(
                num_levels=config.num_levels,
                max_res=config.max_res,
                log2_hashmap_size=config.log2_hashmap_size,
                layer_width=64,
                out_dim=CHANNELS,
                implementation=config.implementation,
            )
        else:
            self.grids.extend(Parameter(torch.zeros(1, CHANNELS, size, size, size)) for size in config.grid_sizes)

    def density(self, x: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
        """Of points, without their colours; 0 outside of the box."""
        return self._density(x, self._raw(x, 1)[..., 0])

    def forward(self, x: Float[Tensor, "*n 3"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n 3"]]:
        """Densities, and colours in [0, 1]."""
        raw = self._raw(x, CHANNELS)
        return self._density(x, raw[..., 0]), raw[..., 1:].sigmoid()

    def normals(self, x: Float[Tensor, "*n 3"], step: float = 0.01) -> Float[Tensor, "*n 3"]:
        """Unit vectors down the density, by differences of points `step` apart."""
        steps = step * torch.eye(3, device=x.device, dtype=x.dtype)
        slope = [self.density(x - s) - self.density(x + s) for s in steps]
        return functional.normalize(torch.stack(slope, dim=-1), dim=-1, eps=1e-8)

    def _density(self, x: Tensor, raw: Tensor) -> Tensor:
        start = blob(x, strength=self.config.blob_strength, radius=self.config.blob_radius)
        return functional.softplus(raw + start) * (x.abs() <= 1).all(-1)

    def _raw(self, x: Float[Tensor, "*n 3"], channels: int) -> Float[Tensor, "*n c"]:
        flat = x.reshape(-1, 3)
        if self.network is not None:
            return self.network(((flat + 1) / 2).clamp(0, 1)).float().view(*x.shape[:-1], CHANNELS)[..., :channels]
        at = flat.view(1, -1, 1, 1, 3)
        values = [
            functional.grid_sample(grid[:, :channels], at, align_corners=True, padding_mode="border")
            for grid in self.grids
        ]
        return torch.stack(values).sum(0).view(channels, -1).T.reshape(*x.shape[:-1], channels)


class ThingModel(Model):
    """nerfstudio's model of it; what it is trained by comes from the pipeline."""

    # narrower than nerfstudio's own annotation
    config: ThingModelConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def populate_modules(self) -> None:
        """Field, surroundings and samplers."""
        self.field = ThingField(self.config)
        self.bands = Parameter(torch.zeros(BANDS, 3))
        self.collider = AABBBoxCollider(self.scene_box, near_plane=NEAR)
        self.coarse = UniformSampler(num_samples=self.config.coarse_samples)
        self.fine = PDFSampler(num_samples=self.config.fine_samples, include_original=False)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """One group."""
        return {"fields": [*self.field.parameters(), self.bands]}

    # nerfstudio's splats take cameras, fields rays
    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What rays see; in training with the samples that made it, for terms that need them."""
        samples = self._samples(ray_bundle)
        x = samples.frustums.get_positions()
        density, colour = self.field(x)
        weights = samples.get_weights(density[..., None])[..., 0]
        a = weights.sum(-1, keepdim=True)
        around = self.around(ray_bundle.directions)
        middle = (samples.frustums.starts + samples.frustums.ends)[..., 0] / 2
        assert ray_bundle.fars is not None
        depth = (weights * middle).sum(-1, keepdim=True) + (1 - a) * ray_bundle.fars
        outputs = {
            "rgb": (weights[..., None] * colour).sum(-2) + (1 - a) * around,
            "accumulation": a,
            "depth": depth,
            "background": around,
        }
        if self.training:
            return outputs | {"weights": weights, "positions": x}
        normals = self.field.normals(ray_bundle.origins + ray_bundle.directions * depth)
        return outputs | {"normals": (normals + 1) / 2}

    def around(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        """What rays see that nothing in the box stops."""
        if self.config.background == "random":
            colour = torch.rand(3, device=self.device) if self.training else torch.ones(3, device=self.device)
            return colour.expand_as(directions)
        at = (torch.asin(directions[..., 2].clamp(-1, 1)) / math.pi + 0.5) * (BANDS - 1)
        below = at.floor().clamp(0, BANDS - 2).long()
        share = (at - below)[..., None]
        return ((1 - share) * self.bands[below] + share * self.bands[below + 1]).sigmoid()

    def training_state(self) -> dict[str, Any]:
        """What training goes on with besides weights and optimisers: nothing."""
        return {}

    def restore_training(self, state: Mapping[str, Any]) -> None:
        """Return to a `training_state`."""

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """Colours without what is around the box, and how much of a ray is stopped: `ns-export` leaves the rest out."""
        a = outputs["accumulation"]
        rgb = (outputs[output_name] - (1 - a) * outputs["background"]) / a.clamp_min(1e-6)
        return torch.cat([rgb.clamp(0, 1), a], dim=-1)

    # nerfstudio leaves the types of these open
    def get_loss_dict(self, outputs: Any, batch: Any, metrics_dict: Any = None) -> dict[str, Tensor]:
        """Nothing: there are no photographs."""
        return {}

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The picture, without metrics."""
        return {}, {"img": outputs["rgb"]}

    def _samples(self, rays: RayBundle) -> RaySamples:
        """Where rays are rendered."""
        first = self.coarse(rays)
        with torch.no_grad():
            density = self.field.density(first.frustums.get_positions())
            weights = first.get_weights(density[..., None])
        return self.fine(rays, first, weights)
