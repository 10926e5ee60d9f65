"""How much memory calls of a network take, estimated from its configuration: for chunks, and to say it. Light.

    a UNet          maps alive x width of its first block x pixels of the latents
    a transformer   copies alive x width x tokens, those of a picture that it looks at included
    an autoencoder  maps alive x width of its first block x pixels of the picture

each in bytes of its precision. The numbers alive were counted on networks of released sizes without their weights
(`tests/priors/test_priors_memory.py`), with a fifth to spare for what kernels take besides: Stable Diffusion 26 maps,
SDXL 16, FLUX 23 and SD3 13 copies, the autoencoders of Stable Diffusion 6 maps and of Qwen-Image and Wan 18.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from csd3d.priors.store.card import configs_of

UNET_MAPS, UNET_MAPS_WITHOUT_ATTENTION = 31, 20
"""Full-size feature maps, of the first block's width, that are alive at the peak of a UNet call: with attention at the
finest level, whose feed-forward layers are the peak, and without."""
UNET_MAPS_KEPT = 350
"""The same where a gradient goes back through the UNet: Stable Diffusion keeps 305."""
TOKENS_ALIVE = 28
"""Copies of all tokens of the picture that are alive at the peak of a call of a transformer; its words included."""
CODEC_MAPS, CAUSAL_CODEC_MAPS = 8, 22
"""Full-size feature maps, of the first block's width, that are alive at the peak of an autoencoder's call: of pictures,
and of one that is causal in time."""
HALF_BYTES = 2


def network_bytes(
    config: Mapping[str, Any], places: int, *, itemsize: int, pictures: int = 1, gradient: bool = False
) -> int:
    """Of one row of a network.

    Args:
        config: Of the network.
        places: Pixels of its latents, or tokens.
        itemsize: Bytes of a number.
        pictures: 2 where a transformer looks at the tokens of a second picture of the same size too.
        gradient: Whether activations of a UNet are kept for the way back.
    """
    widths = config.get("block_out_channels")
    if widths:
        finest = (config["down_block_types"][0], config["up_block_types"][-1])
        forward = UNET_MAPS if any("Attn" in block for block in finest) else UNET_MAPS_WITHOUT_ATTENTION
        return (UNET_MAPS_KEPT if gradient else forward) * int(widths[0]) * places * itemsize
    heads = int(config.get("num_attention_heads") or 24) * int(config.get("attention_head_dim") or 128)
    width = int(config.get("dim") or heads)
    return pictures * TOKENS_ALIVE * width * places * itemsize


def guard_bytes(config: Mapping[str, Any], places: int, *, itemsize: int) -> int:
    """What a ControlNet adds to one row of a UNet: residuals of its blocks, which are there while the UNet computes.

    Arguments are those of `network_bytes`, the configuration is that of the ControlNet.
    """
    widths, each = config["block_out_channels"], 1 + int(config["layers_per_block"])
    return sum(each * width * places // 4**level for level, width in enumerate(widths)) * itemsize


def codec_bytes(config: Mapping[str, Any], pixels: int, *, itemsize: int) -> int:
    """Of one picture in an autoencoder."""
    widths = config.get("block_out_channels") or config.get("encoder_block_out_channels")
    maps = CODEC_MAPS * int(widths[0]) if widths else CAUSAL_CODEC_MAPS * int(config["base_dim"])
    return maps * pixels * itemsize


def peak_bytes(
    prior: Path, vae: Path, side_px: int, *, looks: bool, frames: int | None = None, guard: Path | None = None
) -> int | None:
    """Of one row at pictures of `side_px` squared in half precision: of its network or of its autoencoder, whichever
    is more; None where the files do not say enough. The autoencoder of a clip computes in single precision, as many
    frames at once as it makes one latent frame of.

    Args:
        prior: Directory in diffusers layout.
        vae: Folder of the autoencoder.
        side_px: Side of the pictures.
        looks: Whether the network looks at a second picture beside the noisy one, as editors do.
        frames: Of a clip, for an editor of clips, which looks at the source by its channels; None: of pictures.
        guard: Folder of a ControlNet beside a UNet.
    """
    parts = configs_of(prior, vae)
    if parts is None:
        return None
    config, codec, lat = parts.config, parts.codec, side_px // parts.factor
    if frames is not None:
        stride = int(codec["scale_factor_temporal"])
        tokens = (-(-(frames - 1) // stride) + 1) * lat * lat // prod(config["patch_size"])
        row = network_bytes(config, tokens, itemsize=HALF_BYTES)
        return max(row, codec_bytes(codec, stride * side_px**2, itemsize=2 * HALF_BYTES))
    packed = 4 if parts.network.name == "transformer" else 1  # all transformers of the families read patches of 2 x 2
    row = network_bytes(config, lat * lat // packed, itemsize=HALF_BYTES, pictures=2 if looks else 1)
    if guard is not None:
        beside = json.loads((guard / "config.json").read_text(encoding="utf-8"))
        row += guard_bytes(beside, lat * lat, itemsize=HALF_BYTES)
    return max(row, codec_bytes(codec, side_px**2, itemsize=HALF_BYTES))
