"""What the folder of a prior says of itself: its licence, what its weights take, and how its parts are made."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csd3d.priors.store.resolve import part_folder, parts_of


def licence_of(path: Path) -> str | None:
    """What the head of the model card in `path` calls its licence, None where it says nothing."""
    card = path / "README.md"
    if not card.is_file():
        return None
    head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    named = dict(re.findall(r"^(license(?:_name)?):[ \t]*(\S.*)$", head[1], re.MULTILINE) if head else [])
    return named.get("license_name") or named.get("license")


def weights_of(path: Path) -> dict[str, int]:
    """Bytes of the safetensors of every part in `path`; where a part has several variants, of the smallest."""
    sizes = {part: bytes_of(part_folder(path, part)) for part in parts_of(path)}
    return {part: size for part, size in sizes.items() if size}


def bytes_of(part: Path) -> int:
    """Of the safetensors of one part; where it has several variants, of the smallest; 0: there are none."""
    sizes: dict[str | None, int] = {}
    for file in part.glob("*.safetensors"):
        variant = next((v for v in ("fp16", "bf16") if f".{v}" in file.name), None)
        sizes[variant] = sizes.get(variant, 0) + file.stat().st_size
    return min(sizes.values(), default=0)


@dataclass(frozen=True)
class Parts:
    """How the network and the autoencoder of a prior are made."""

    network: Path
    """Folder of the UNet or the transformer."""
    config: Mapping[str, Any]
    """Of the network."""
    codec: Mapping[str, Any]
    """Configuration of the autoencoder."""
    factor: int
    """Pixels along one side of a place of latents."""


def configs_of(prior: Path, vae: Path) -> Parts | None:
    """From a directory in diffusers layout and the folder of its autoencoder; None where they do not say enough."""
    network = next((prior / name for name in ("unet", "transformer") if (prior / name / "config.json").is_file()), None)
    if network is None or not (vae / "config.json").is_file():
        return None
    config, codec = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (network, vae))
    levels = codec.get("block_out_channels") or codec.get("encoder_block_out_channels") or codec.get("dim_mult")
    if not levels:
        return None
    return Parts(network, config, codec, int(codec.get("scale_factor_spatial") or 2 ** (len(levels) - 1)))
