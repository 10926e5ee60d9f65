"""How much memory calls of a network take, estimated from its configuration: for chunks, and to say it. Light.

    a UNet          maps alive x width of its first block x pixels of the latents
    a transformer   copies alive x width x tokens, those of a picture that it looks at included
    an autoencoder  maps alive x width of its first block x pixels of the picture

each in bytes of its precision. The numbers alive at the peak of a call were found by trying, on the small priors.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UNET_MAPS = 96
"""Full-size feature maps, of the first block's width, that are alive at the peak of a UNet call."""
TOKENS_ALIVE = 40
"""Copies of all tokens that are alive at the peak of a call of a transformer."""
CODEC_MAPS = 16
"""Full-size feature maps, of the first block's width, that are alive at the peak of an autoencoder's call."""
HALF_BYTES = 2


def network_bytes(config: Mapping[str, Any], places: int, *, itemsize: int, pictures: int = 1) -> int:
    """Of one row of a network.

    Args:
        config: Of the network.
        places: Pixels of its latents, or tokens.
        itemsize: Bytes of a number.
        pictures: 2 where it may look at a second picture of the same size.
    """
    widths = config.get("block_out_channels")
    if widths:
        return pictures * UNET_MAPS * int(widths[0]) * places * itemsize
    width = int(config.get("num_attention_heads") or 24) * int(config.get("attention_head_dim") or 128)
    return pictures * TOKENS_ALIVE * width * places * itemsize


def codec_bytes(config: Mapping[str, Any], pixels: int, *, itemsize: int) -> int:
    """Of one picture in an autoencoder."""
    widths = config.get("block_out_channels") or config.get("encoder_block_out_channels") or (config["base_dim"],)
    return CODEC_MAPS * int(widths[0]) * pixels * itemsize


def peak_bytes(prior: Path, vae: Path, side_px: int, *, looks: bool) -> int | None:
    """Of one row at pictures of `side_px` squared in half precision: of its network or of its autoencoder, whichever
    is more; None where the files do not say enough.

    Args:
        prior: Directory in diffusers layout.
        vae: Folder of the autoencoder.
        side_px: Side of the pictures.
        looks: Whether the network looks at a second picture beside the noisy one, as editors do.
    """
    network = next((prior / name for name in ("unet", "transformer") if (prior / name / "config.json").is_file()), None)
    if network is None or not (vae / "config.json").is_file():
        return None
    config, codec = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (network, vae))
    levels = codec.get("block_out_channels") or codec.get("encoder_block_out_channels") or codec.get("dim_mult")
    if not levels:
        return None
    lat = side_px // 2 ** (len(levels) - 1)
    packed = 4 if network.name == "transformer" else 1  # all transformers of the families read patches of 2 x 2
    row = network_bytes(config, lat * lat // packed, itemsize=HALF_BYTES, pictures=2 if looks else 1)
    return max(row, codec_bytes(codec, side_px**2, itemsize=HALF_BYTES))
