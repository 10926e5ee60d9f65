"""Calls of the UNet: rows built a few at a time, cast, predicted, and cast back. Casts live here and in the codec only.

    z_t = sqrt(ab_t) z + sqrt(1 - ab_t) e        v = sqrt(ab_t) e - sqrt(1 - ab_t) z

so e = sqrt(ab_t) v + sqrt(1 - ab_t) z_t (Salimans and Ho 2022, appendix D).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Float32, Int64, Num
from torch import Tensor, nn

from csd3d.attention.control import Control
from csd3d.attention.maps import Maps
from csd3d.attention.rows import Rows
from csd3d.attention.score import MapEnergy, MapsRead
from csd3d.attention.sites import Site
from csd3d.engine.regularisers import FeatureLoss, FeatureSite
from csd3d.engine.schedule import Schedule
from csd3d.priors.memory import network_bytes
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.features import as_map, feature_sites
from csd3d.priors.networks.guard import Guard

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from csd3d.priors.networks.sites import Running

Prediction = Literal["epsilon", "v_prediction"]
MakeRows = Callable[[Int64[Tensor, " r"]], tuple[Float[Tensor, "r i h w"], Float[Tensor, "r l d"]]]
"""From row numbers (on the denoiser's device) to the UNet's input channels and text embeddings of those rows."""

MakeRowsOf = Callable[
    [Float[Tensor, "r c h w"], Int64[Tensor, " r"]], tuple[Float[Tensor, "r i h w"], Float[Tensor, "r l d"]]
]
"""The same from noisy latents and the numbers of their particles, differentiable by the latents."""

HALF_SCALE = 1024.0
"""Factor on losses whose gradient goes through a float16 UNet, lest it vanish there."""


class Denoiser:
    """A UNet on its device. Rows are independent of each other, so any number of them may share a call."""

    def __init__(
        self, unet: "UNet2DConditionModel", *, chunks: Chunks, compiled: bool = False, checkpointing: bool = False
    ) -> None:
        """`checkpointing`: compute activations again for `feature_gradient` instead of keeping them."""
        if checkpointing:
            unet.enable_gradient_checkpointing()  # has no effect where no gradient is recorded
        self._layout = layout(chunks.device)
        self._unet = unet
        self._chunks = chunks
        self._dtype = unet.dtype
        self._call = torch.compile(unet) if compiled else unet
        self._compiled = compiled
        self._running: Running | None = None
        self.guard: Guard | None = None
        """A second network that joins its predictions, which takes no part in `feature_gradient` and `map_energy`."""

    @property
    def device(self) -> torch.device:
        """Where rows are to be built."""
        return self._chunks.device

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where it can be controlled. Raises ValueError for a network of another kind."""
        from csd3d.priors.networks.sites import sites_of  # imports diffusers: where a network is, it is there already

        return sites_of(self._unet)

    def copy_unet(self) -> nn.Module:
        """A copy of the UNet that learns, in float32."""
        return copy.deepcopy(self._unet).float().train().requires_grad_()

    def require_layers(self, layers: FeatureSite) -> None:
        """Raises ValueError if the UNet has no such layers to take features from."""
        feature_sites(self.sites, layers)

    @contextmanager
    def controlled(self, controls: Sequence[Control]) -> Iterator[None]:
        """Within the context predictions are controlled; features of regularisers are not.

        Raises:
            ValueError: The UNet is compiled, controlled already, or has attentions unlike those of Stable Diffusion.
        """
        if self._compiled or self._running is not None:
            what = "is compiled" if self._compiled else "is controlled already: give all controls at once"
            raise ValueError(f"attention: expected a prior whose UNet is free to be controlled, got one that {what}")
        from csd3d.priors.networks.sites import controlled

        with controlled(self._unet, controls) as self._running:
            try:
                yield
            finally:
                self._running = None

    def predict(self, make_rows: MakeRows, rows: Rows, t: int | Num[Tensor, ""]) -> Float[Tensor, "r c h w"]:
        """What the UNet says of `rows` at timestep `t`, float32, on its device.

        Args:
            make_rows: Builds some of them.
            rows: What all of them are.
        """
        if not isinstance(t, Tensor):
            t = torch.full((), t, device=self.device)

        def some(part: slice) -> Tensor:
            x, text = make_rows(torch.arange(part.start, part.stop, device=self.device))
            if self._running is not None:
                self._running.rows = rows[part]
            x = x.to(self._dtype).contiguous(memory_format=self._layout)
            with nullcontext() if self.guard is None else self.guard.rows(range(part.start, part.stop)):
                output = self._call(x, t, encoder_hidden_states=text.to(self._dtype), return_dict=False)[0]
            return output.float().contiguous()

        return self._chunks.map(some, len(rows), row_bytes=self.row_bytes(rows.size_lat))

    def row_bytes(self, size_lat: tuple[int, int], *, gradient: bool = False) -> int:
        """Memory that one more row of `size_lat` is planned to take during a call, in bytes."""
        places, itemsize = size_lat[0] * size_lat[1], self._dtype.itemsize
        guarding = 0 if self.guard is None else self.guard.row_bytes(places)
        return guarding + network_bytes(self._unet.config, places, itemsize=itemsize, gradient=gradient)

    def feature_gradient(
        self,
        z_t: Float[Tensor, "n c h w"],
        s_t: Float[Tensor, "n c h w"],
        t: int,
        *,
        make_target: MakeRowsOf,
        make_source: MakeRowsOf,
        layers: FeatureSite,
        loss: FeatureLoss,
    ) -> Float32[Tensor, "n c h w"]:
        """Gradient by `z_t` of `loss(maps of the target rows, maps of the source rows)`, a sum over particles.

        Both latents are on the denoiser's device. One row a particle and side; only the target's is kept for the way
        back.
        """
        from csd3d.priors.networks.sites import leaving

        sites = feature_sites(self.sites, layers)
        size_lat = (z_t.shape[-2], z_t.shape[-1])
        step = torch.full((), t, device=self.device)
        scale = HALF_SCALE if self._dtype == torch.float16 else 1.0

        def maps(x: Tensor, text: Tensor) -> list[Tensor]:
            with leaving(self._unet, sites) as outputs:
                x = x.to(self._dtype).contiguous(memory_format=self._layout)
                self._unet(x, step, encoder_hidden_states=text.to(self._dtype), return_dict=False)
            return [as_map(outputs[site.name], site, size_lat).to(x.device, torch.float32) for site in sites]

        def some(rows: slice) -> Tensor:
            i = torch.arange(rows.start, rows.stop, device=self.device)
            with torch.no_grad():
                source = maps(*make_source(s_t[i].float(), i))
            with torch.enable_grad():
                z = z_t[i].detach().float().requires_grad_()
                total = scale * loss(maps(*make_target(z, i)), source)
                return torch.autograd.grad(total, z)[0] / scale

        return self._chunks.map(some, len(z_t), row_bytes=self.row_bytes(size_lat, gradient=True))

    def map_energy(
        self,
        z_t: Float[Tensor, "n c h w"],
        t: int,
        rows: Rows,
        *,
        make: MakeRowsOf,
        sites: Sequence[Site],
        energy: MapEnergy,
        controls: Sequence[Control],
        gradient: bool,
    ) -> MapsRead:
        """See `Steerable.read_energy`; one of `rows` for each particle of `z_t`, which is on the denoiser's device."""
        step, level = torch.full((), t, device=self.device), sites[0].level
        scale = HALF_SCALE if self._dtype == torch.float16 else 1.0
        maps = Maps(sites)

        def some(part: slice) -> Tensor:
            z = z_t[part].detach().to(torch.promote_types(z_t.dtype, torch.float32)).requires_grad_(gradient)
            own = rows[part]
            assert self._running is not None
            self._running.rows = own
            with torch.set_grad_enabled(gradient):
                x, text = make(z, torch.arange(part.start, part.stop, device=self.device))
                x = x.to(self._dtype).contiguous(memory_format=self._layout)
                self._unet(x, step, encoder_hidden_states=text.to(self._dtype), return_dict=False)
                A = maps.cross(own.role, own.branch[0], own.particle, level=level)
                E = energy(A, own)
                slope = torch.autograd.grad(scale * E.sum(), z)[0] / scale if gradient else torch.zeros_like(z)
            maps.keep_values()
            return torch.cat([E.detach()[:, None], slope.flatten(1)], 1)

        row_bytes = self.row_bytes((z_t.shape[-2], z_t.shape[-1]), gradient=gradient)
        with self.controlled([*controls, maps.control]):
            found = self._chunks.map(some, len(rows), row_bytes=row_bytes)
        A = maps.cross(rows.role, rows.branch[0], rows.particle, level=level)
        return MapsRead(A, found[:, 0], found[:, 1:].view(z_t.shape) if gradient else None)


def layout(device: torch.device) -> torch.memory_format:
    """In which a UNet is faster: plainly contiguous on a CPU (by a fifth), channels last elsewhere."""
    return torch.contiguous_format if device.type == "cpu" else torch.channels_last


def ready(values: Sequence[bool] | Tensor, device: torch.device) -> Tensor:
    """Small values of the host on `device`, without waiting for it."""
    return torch.as_tensor(values).to(device, non_blocking=True)


def to_epsilon(
    output: Float[Tensor, "n c h w"],
    z_t: Float[Tensor, "n c h w"],
    t: int,
    *,
    schedule: Schedule,
    prediction: Prediction,
) -> Float[Tensor, "n c h w"]:
    """The noise that a UNet's output means, for a model that predicts it (epsilon) or the velocity v."""
    if prediction == "epsilon":
        return output
    ab = schedule.alpha_bar(t)
    return ab**0.5 * output + (1 - ab) ** 0.5 * z_t


def target_of(
    z: Float[Tensor, "n c h w"], e: Float[Tensor, "n c h w"], t: int, *, schedule: Schedule, prediction: Prediction
) -> Float[Tensor, "n c h w"]:
    """What a UNet is to say of clean latents `z` under noise `e`: the noise, or the velocity v."""
    if prediction == "epsilon":
        return e
    ab = schedule.alpha_bar(t)
    return ab**0.5 * e - (1 - ab) ** 0.5 * z


def from_epsilon(
    e: Float[Tensor, "n c h w"],
    z_t: Float[Tensor, "n c h w"],
    t: int,
    *,
    schedule: Schedule,
    prediction: Prediction,
) -> Float[Tensor, "n c h w"]:
    """The output of a UNet that means noise `e`: the inverse of `to_epsilon`."""
    if prediction == "epsilon":
        return e
    ab = schedule.alpha_bar(t)
    return (e - (1 - ab) ** 0.5 * z_t) / ab**0.5
