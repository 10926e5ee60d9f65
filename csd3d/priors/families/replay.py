"""Replay: the network is called again with what was recorded, other latents and another time in their places."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from csd3d.priors.families.calls import Arguments, call
from csd3d.priors.families.record import RECORDED_AT, Place
from csd3d.priors.families.table import Layout


def pack(z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n l d"]:
    """Latents as tokens of 2 x 2: l = h w / 4 of them in reading order, d = 4 c numbers each, channel by channel."""
    n, c, h, w = z.shape
    return z.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c)


def unpack(x: Float[Tensor, "n l d"], shape: Sequence[int]) -> Float[Tensor, "n c h w"]:
    """The latents of shape [n, c, h, w] that `pack` makes these tokens of."""
    n, c, h, w = shape
    return x.reshape(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)


def laid(z: Float[Tensor, "n c h w"], layout: Layout, *, channels: int) -> Tensor:
    """Latents as the pipeline's argument `latents`; `channels` are those of a latent frame of a clip."""
    if layout == "patched":
        n, c, h, w = z.shape
        return pack(z).mT.reshape(n, 4 * c, h // 2, w // 2)
    return tokens(z, layout, channels=channels)


def tokens(z: Float[Tensor, "n c h w"], layout: Layout, *, channels: int) -> Tensor:
    """Latents as the network's input holds them; `channels` are those of a latent frame of a clip."""
    if layout == "clip":
        return z.unflatten(1, (channels, -1))
    return z if layout == "plain" else pack(z)


def untokens(x: Tensor, layout: Layout, shape: Sequence[int]) -> Float[Tensor, "n c h w"]:
    """Latents of shape [n, c, h, w] out of what a network's input or output holds."""
    if layout == "clip":
        return x.flatten(1, 2)
    return x if layout == "plain" else unpack(x, shape)


def layout_of(x: Tensor) -> Layout:
    """How a pipeline holds latents that it hands to its scheduler."""
    return "packed" if x.ndim == 3 else "clip" if x.ndim == 5 else "plain"


def condition_part(x: Tensor, place: Place, length: int, pictures: int = 1) -> Tensor | None:
    """What the latents were joined with, so many pictures, a view of `x`; None: nothing, or not of their shape."""
    if x.shape[place.axis] != (1 + pictures) * length:
        return None
    return x.narrow(place.axis, length if place.offset == 0 else 0, pictures * length)


def joined(values: Sequence[Any], device: torch.device) -> Any:
    """One-row arguments of several rows as one batch, on `device`. What has no rows is taken from the first."""
    first = values[0]
    if isinstance(first, dict):
        return {k: joined([v[k] for v in values], device) for k in first}
    if isinstance(first, Tensor):
        return (torch.cat(list(values)) if first.ndim and len(first) == 1 else first).to(device)
    if isinstance(first, list) and len(first) == 1:
        return [x.to(device) if isinstance(x, Tensor) else x for v in values for x in v]
    return first


def signature(value: Any) -> Any:
    """What must be equal in rows that share a call: shapes of tensors, and everything that is none."""
    if isinstance(value, dict):
        return tuple((k, signature(v)) for k, v in value.items())
    if isinstance(value, list):
        return tuple(map(signature, value))
    return tuple(value.shape) if isinstance(value, Tensor) else repr(value)


@torch.no_grad()
def replay(
    net: nn.Module,
    rows: Sequence[Arguments],
    place: Place,
    x: Tensor,
    *,
    time: float,
    condition: Tensor | None = None,
    device: torch.device,
) -> Tensor:
    """What the network says of latents `x` (as its input holds them) under recorded rows that share a signature.

    Args:
        place: Of the latents in the rows.
        time: What the pipeline's loop calls t.
        condition: Is put where the latents were joined with a condition; None leaves what was recorded.

    Returns:
        Like `x`, in float32 on `device`: what lies past the latents in the output is cut off.
    """
    arguments: Arguments = joined(rows, device)
    length = x.shape[place.axis]
    held = arguments[place.argument].clone()
    held.narrow(place.axis, place.offset, length).copy_(x.to(device))
    if condition is not None:
        part = condition_part(held, place, length, condition.shape[place.axis] // length)
        assert part is not None  # as the check found one
        part.copy_(condition.to(device))
    arguments[place.argument] = held
    arguments["timestep"] = arguments["timestep"] * (time / RECORDED_AT)
    out = call(net, arguments).float()
    return out.narrow(place.axis, place.offset if out.shape[place.axis] == held.shape[place.axis] else 0, length)
