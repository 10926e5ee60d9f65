"""Where a network can be controlled: its attentions and residual blocks, in the order in which they are computed."""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["self", "cross", "resnet", "output"]
"""Self-attention, cross-attention with the text, the last convolution of a residual block before the shortcut is
added, the last one of the network."""
Place = Literal["down", "mid", "up"]
"""Encoder, bottleneck, decoder. The output counts to the decoder."""


@dataclass(frozen=True)
class Site:
    """One of them."""

    name: str
    """Its path in the network."""
    kind: Kind
    place: Place
    order: int
    """Its number among the sites of its kind, from 0."""
    level: int
    """How often its maps were halved: 0 = as large as the latents."""
    heads: int = 0
    """Of an attention; 0 elsewhere."""

    def size(self, size_lat: tuple[int, int]) -> tuple[int, int]:
        """Height and width of its maps for latents of `size_lat`; a stride of 2 rounds up."""
        height, width = size_lat
        for _ in range(self.level):
            height, width = -(-height // 2), -(-width // 2)
        return height, width

    def places(self, size_lat: tuple[int, int]) -> int:
        """How many there are in its maps."""
        height, width = self.size(size_lat)
        return height * width


def choose(
    sites: Iterable[Site],
    *,
    kind: Kind,
    places: Container[Place] = ("down", "mid", "up"),
    levels: Container[int] | None = None,
    orders: Container[int] | None = None,
) -> tuple[Site, ...]:
    """The sites of a kind, at these places, levels and orders; None: at all."""
    return tuple(
        site
        for site in sites
        if site.kind == kind
        and site.place in places
        and (levels is None or site.level in levels)
        and (orders is None or site.order in orders)
    )
