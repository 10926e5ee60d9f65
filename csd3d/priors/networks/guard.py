"""ControlNet (Zhang et al. 2023): a second network reads a control picture, and its residuals are added in the UNet.

Both networks see the same noisy latents, time and text in every call, so that a call that is replayed is guarded as one
that is made. Of an editor, whose input holds the source too, the second network reads the noisy latents alone.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from csd3d.engine.types import Index, Latents
from csd3d.priors.memory import guard_bytes


@runtime_checkable
class Sees(Protocol):
    """Where control pictures come from."""

    def __call__(self, index: Index, s: Latents | None, size_px: tuple[int, int], /) -> Float[Tensor, "n 3 H W"]:
        """Those of particles by their numbers, and their sources if they have any, in [0, 1], of a height and width."""
        ...

    @property
    def wants_depth(self) -> bool:
        """Whether they are depth that somebody has to tell."""
        ...

    def assign(self, pictures: Sequence[int], /) -> None:
        """Where pictures are given, one for each frame: which of them each particle takes. Raises ValueError for one
        that there is not."""
        ...

    def tell(self, s: Latents, near: Float[Tensor, "n 1 H W"], /) -> None:
        """How near what sources show is, in [0, 1]."""
        ...


class Guard:
    """A ControlNet beside a UNet, whose calls it joins from now on where rows are named."""

    def __init__(self, net: nn.Module, unet: nn.Module, *, sees: Sees, scale: float, factor: int) -> None:
        """`scale`: of the residuals; `factor`: px along a latent."""
        self._net: Any = net  # whose config is diffusers' own
        self.sees = sees
        self._scale, self._factor = scale, factor
        self._shown: Tensor | None = None
        self._rows: list[int] | None = None
        self._signature = inspect.signature(type(unet).forward)
        unet.register_forward_pre_hook(self._join, with_kwargs=True)

    @contextmanager
    def showing(self, index: Index, s: Latents | None, size_lat: tuple[int, int]) -> Iterator[None]:
        """Within: these are the particles whose rows are predicted."""
        before, size_px = self._shown, (self._factor * size_lat[0], self._factor * size_lat[1])
        self._shown = self.sees(index, s, size_px).to(self._net.device, self._net.dtype)
        try:
            yield
        finally:
            self._shown = before

    @contextmanager
    def rows(self, places: Sequence[int]) -> Iterator[None]:
        """Within: the rows of a call are of the particles at these places among those that are shown; of as many
        branches as there are times as many rows."""
        assert self._shown is not None  # as whoever predicts says first of what
        self._rows = [place % len(self._shown) for place in places]
        try:
            yield
        finally:
            self._rows = None

    def row_bytes(self, places: int) -> int:
        """Memory that it adds to a row of so many pixels of latents."""
        return guard_bytes(self._net.config, places, itemsize=self._net.dtype.itemsize)

    def _join(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The arguments of a call, with residuals."""
        if self._rows is None:
            return None
        given = dict(self._signature.bind(unet, *args, **kwargs).arguments)
        del given["self"]
        assert self._shown is not None
        down, mid = self._net(
            given["sample"][:, : self._net.config.in_channels].contiguous(),
            given["timestep"],
            encoder_hidden_states=given["encoder_hidden_states"],
            controlnet_cond=self._shown[self._rows],
            conditioning_scale=self._scale,
            added_cond_kwargs=given.get("added_cond_kwargs"),
            return_dict=False,
        )
        return (), given | {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


def require_fit(net: Any, unet: Any, *, channels: int, factor: int) -> None:
    """Raises ValueError where a ControlNet was made for another UNet, for latents of another number of channels, or of
    another size beside the picture."""
    names = ("block_out_channels", "cross_attention_dim", "layers_per_block", "addition_embed_type")
    wanted = {name: _plain(unet.config.get(name)) for name in names} | {
        "in_channels": channels,
        "px of a latent": factor,
    }
    got = {name: _plain(net.config.get(name)) for name in (*names, "in_channels")}
    got["px of a latent"] = 2 ** (len(net.config["conditioning_embedding_out_channels"]) - 1)
    for name, value in wanted.items():
        if got[name] != value:
            raise ValueError(f"it was made for another model: expected {name} {value}, got {got[name]}")


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
