"""Feature maps out of a UNet's decoder, by hooks on its own modules: no class of a library is changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from csd3d.engine.regularisers import FeatureSite

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

_ATTENTION = {"self-attention": "attn1", "cross-attention": "attn2"}


def tapped_modules(unet: "UNet2DConditionModel", layers: FeatureSite) -> list[nn.Module]:
    """The modules whose outputs are features, in the order of the decoder ("up") blocks.

    Raises:
        ValueError: The decoder has no such attention.
    """
    if layers == "score":
        return [unet.conv_out]
    name = _ATTENTION[layers]
    found: list[nn.Module] = [
        module for path, module in unet.up_blocks.named_modules() if path.rsplit(".", 1)[-1] == name
    ]
    if not found:
        raise ValueError(f"nce_layers: expected layers that the prior's UNet has, got {layers!r}, which it has not")
    return found


@contextmanager
def tapped(unet: "UNet2DConditionModel", layers: FeatureSite) -> Iterator[list[Tensor]]:
    """Within the context every call of `unet` appends the outputs of the tapped modules to the list.

    To be left before gradients are taken: with checkpointing they call the modules once more.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, arguments: object, output: Tensor) -> None:
        outputs.append(output)

    hooks = [module.register_forward_hook(keep) for module in tapped_modules(unet, layers)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def as_map(output: Tensor, size_lat: tuple[int, int]) -> Float[Tensor, "n d a b"]:
    """Tokens [n, a b, d] of an attention, at whatever level of a UNet on latents of `size_lat`, as maps; maps as is.

    Raises:
        ValueError: There is no such level.
    """
    if output.ndim == 4:
        return output
    n, tokens, d = output.shape
    height, width = size_lat
    while height * width > tokens:
        height, width = -(-height // 2), -(-width // 2)  # a stride of 2 rounds up
    if height * width != tokens:
        raise ValueError(f"features: expected a level of a UNet on {size_lat} latents, got {tokens} tokens")
    return output.transpose(1, 2).reshape(n, d, height, width)
