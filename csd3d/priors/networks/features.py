"""Which sites of a UNet's decoder give the features that regularisers compare."""

from jaxtyping import Float
from torch import Tensor

from csd3d.attention.sites import Kind, Site, choose
from csd3d.engine.regularisers import FeatureSite

_KINDS: dict[FeatureSite, Kind] = {"self-attention": "self", "cross-attention": "cross", "score": "output"}


def feature_sites(sites: tuple[Site, ...], layers: FeatureSite) -> tuple[Site, ...]:
    """The sites whose outputs are features, in the order of the decoder.

    Raises:
        ValueError: the decoder has no such attention.
    """
    found = choose(sites, kind=_KINDS[layers], places=("up",))
    if not found:
        raise ValueError(f"nce_layers: expected layers that the prior's UNet has, got {layers!r}, which it has not")
    return found


def as_map(output: Tensor, site: Site, size_lat: tuple[int, int]) -> Float[Tensor, "n d a b"]:
    """Tokens [n, a b, d] of an attention on latents of `size_lat` as maps; maps as they are."""
    return output if output.ndim == 4 else output.transpose(1, 2).unflatten(2, site.size(size_lat))
