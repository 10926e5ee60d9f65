"""What a picture is drawn on, seen from the editor: a flat sheet or cylinder (`plane`), or a sphere (`sphere`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.media.detail import add_detail, colour_maps, cored
from csd3d.media.pictures.read import Picture
from panorama.regions import Plan
from panorama.windows import Windows

Encode = Callable[[Float[Tensor, "n 3 H W"]], Float[Tensor, "n c h w"]]
Decode = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n 3 H W"]]

BLOCK_PX = 512
"""Side of the blocks in which a result is put together."""
LAYERS = 15
"""Channels of `layers`: edited and reconstructed colours, and the colour maps between them."""


@dataclass(frozen=True, eq=False)
class Block:
    """Part of a result."""

    rows: Int[Tensor, " h"]
    columns: Int[Tensor, " w"]
    source: Float[Tensor, "3 h w"]
    """The picture there, in [0, 1]."""
    edited: Float[Tensor, "3 h w"]
    """What it becomes, in [0, 1]."""


@runtime_checkable
class Surface(Protocol):
    """Between a picture and the canvas of latents [k c h w] that the particles move."""

    @property
    def factor(self) -> int:
        """Pixels along a latent, at the size at which the prior works."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the right end of the picture meets the left one."""
        ...

    def encode(self, picture: Picture, encode: Encode) -> Iterator[tuple[int, Float[Tensor, "k c h w"]]]:
        """The canvas, filled part by part: yields (parts done, canvas); the last one is complete."""
        ...

    @property
    def parts(self) -> int:
        """How many parts `encode` has."""
        ...

    def windows(self, plan: Plan) -> Windows:
        """The particles."""
        ...

    def mask(self, plan: Plan) -> Float[Tensor, "k 1 h w"] | None:
        """Where the canvas may move, in [0, 1]; None: everywhere."""
        ...

    def fused(self, values: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        """Values at places of the canvas, where layers overlap averaged over all that show a place."""
        ...

    def unrolled(self, values: Float[Tensor, "k h w"]) -> Float[Tensor, "H W"]:
        """Values at places of the canvas, laid over the picture, at the size in px at which the prior works."""
        ...

    def seen(self, picture: Picture) -> Float[Tensor, "3 H W"]:
        """The picture as large as `unrolled` values, in [0, 1]."""
        ...

    def settle(self, z: Float[Tensor, "k c h w"], encode: Encode, decode: Decode) -> Float[Tensor, "k c h w"]:
        """A canvas whose layers agree about what they all show."""
        ...

    def blocks(
        self,
        picture: Picture,
        z: Float[Tensor, "k c h w"],
        s: Float[Tensor, "k c h w"],
        decode: Decode,
        *,
        detail: float,
        strength: float = 1.0,
    ) -> Iterator[Block]:
        """The whole result in blocks, in an order that decodes little twice. `strength`: the share of the edit that `z`
        holds."""
        ...


def decode_layers(
    z: Float[Tensor, "1 c h w"], s: Float[Tensor, "1 c h w"], decode: Decode, *, detail: float, strength: float
) -> Float[Tensor, "15 H W"]:
    """What is laid over the source: decoded edit, decoded source, and the maps that detail goes through."""
    edited = decode(z).cpu()
    if not detail:
        return torch.cat([edited[0], edited.new_zeros(12, *edited.shape[-2:])])
    plain = decode(s).cpu()
    edited = cored(edited, plain, strength=strength)
    return torch.cat([edited[0], plain[0], colour_maps(edited, plain)[0]])


def with_detail(
    lifted: Float[Tensor, "15 h w"], source: Float[Tensor, "3 h w"], *, detail: float
) -> Float[Tensor, "3 h w"]:
    """The edited picture from `layers` brought to the picture's pixels; see `csd3d.media.detail` for the formula."""
    if not detail:
        return lifted[:3].clamp(0, 1)
    edited, plain, maps = lifted[None].split((3, 3, 9), dim=1)
    return add_detail(source[None], edited, plain, maps, amount=detail)[0]


def block_count(height_px: int, width_px: int) -> int:
    """How many blocks a picture of that size has."""
    return -(-height_px // BLOCK_PX) * -(-width_px // BLOCK_PX)


def grid(length: int, side: int) -> list[Int[Tensor, " n"]]:
    """An axis of `length` in stretches of at most `side`, as even as can be."""
    count = -(-length // side)
    edges = [length * i // count for i in range(count + 1)]
    return [torch.arange(a, b) for a, b in pairwise(edges)]
