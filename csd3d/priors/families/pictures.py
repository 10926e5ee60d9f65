"""The pictures that were encoded, found again by their latents: some editors look at more than latents."""

import hashlib
from collections import OrderedDict

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

KEPT_BYTES = 2 << 30
"""For pictures on the CPU, 8 bits a channel: 2,700 of 512 x 512 px."""


def digest(z: Float[Tensor, "c h w"]) -> bytes:
    """What tells the latents of one picture from those of another."""
    return hashlib.blake2b(z.detach().float().cpu().contiguous().numpy().tobytes(), digest_size=16).digest()


class Pictures:
    """Those that were encoded last, as many as fit into `KEPT_BYTES`."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._limit, self._bytes = kept_bytes, 0
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()

    @torch.no_grad()
    def keep(self, z: Float[Tensor, "n c h w"], rgb: Float[Tensor, "n 3 H W"]) -> None:
        """Remember pictures in [0, 1] under their latents."""
        for latents, picture in zip(z, to_bytes(rgb).cpu(), strict=True):
            key = digest(latents)
            if key not in self._known:
                self._bytes += picture.numel()
            self._known[key] = picture
            self._known.move_to_end(key)
        while self._bytes > self._limit and len(self._known) > 1:
            self._bytes -= self._known.popitem(last=False)[1].numel()

    def find(self, z: Float[Tensor, "c h w"]) -> UInt8[Tensor, "H W 3"] | None:
        """The picture of these very latents, or None."""
        return self._known.get(digest(z))


def to_bytes(rgb: Float[Tensor, "n 3 H W"]) -> UInt8[Tensor, "n H W 3"]:
    """Pictures in [0, 1] with 8 bits a channel, rounded."""
    return (255 * rgb.detach().float()).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
