"""What a row of a network costs: floating-point operations, counted from the names and shapes of its weights. Light.

    2 x (numbers of a weight) x (places that it is applied at), of all weights
    4 x (places that look) x (places that they see) x width, of every attention

Weights of a UNet are applied at the places of their level; those of a transformer at its tokens of pictures, of words,
or of both, where a block sees them as one; those of time and of modulations once. On networks of released sizes that is
within 5 % of what PyTorch counts (`tests/priors/test_priors_cost.py`).
"""

import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from csd3d.priors.store.card import configs_of
from csd3d.priors.store.files import shapes_in

WORDS, UNET_WORDS = 512, 77
"""Tokens of a sentence: of T5 and language models, as FLUX pads them, and of CLIP."""
Shapes = Mapping[str, Sequence[int]]
"""Of weights, by their names in diffusers."""
_ONCE = re.compile(r"norm|_mod\.|modulation|time_|timestep|guidance|adaln|add_embedding|class_embedding|pooled")
_OF_WORDS = re.compile(r"add_[qkv]_proj|to_add_out|context|txt_|caption|text_embedder|cap_embedder")
_TOGETHER = re.compile(r"single_transformer_blocks\.|layers\.")
_BLOCK = re.compile(r"((?:\w*(?:blocks|layers|refiner))\.\d+)\.")


def row_flops(shapes: Shapes, config: Mapping[str, Any], places: int, *, words: int | None = None) -> float:
    """Of one row.

    Args:
        shapes: Of the network's weights.
        config: Of the network.
        places: Pixels of a UNet's latents; tokens of all pictures that a transformer sees.
        words: Tokens of the sentence; None: as many as the kind of network usually sees.
    """
    if any(name.startswith("down_blocks.") for name in shapes):
        return _unet(shapes, places, words or UNET_WORDS)
    return _transformer(shapes, config, places, words or WORDS)


def _unet(shapes: Shapes, places: int, words: int) -> float:
    """Of a UNet, or of a ControlNet, whose zero convolutions and reading of its picture are left out."""
    levels = 1 + max(int(found[1]) for name in shapes if (found := re.match(r"down_blocks\.(\d+)", name)))
    total = 0.0
    for name, shape in shapes.items():
        if len(shape) < 2 or name.startswith("controlnet_"):
            continue
        found = re.match(r"(down|up)_blocks\.(\d+)\.", name)
        level = 0 if found is None else int(found[2]) if found[1] == "down" else levels - 1 - int(found[2])
        level = levels - 1 if name.startswith("mid_block.") else level
        level += 1 if "downsamplers" in name else -1 if "upsamplers" in name else 0
        here = places / 4**level
        at = 1 if _ONCE.search(name) else words if re.search(r"attn2\.to_[kv]\.", name) else here
        total += 2 * prod(shape) * at
        if name.endswith((".attn1.to_q.weight", ".attn2.to_q.weight")):
            total += 4 * here * (here if ".attn1." in name else words) * shape[0]
    return total


def _transformer(shapes: Shapes, config: Mapping[str, Any], places: int, words: int) -> float:
    blocks: dict[str, set[str]] = {}
    total = 0.0
    for name, shape in shapes.items():
        if found := _BLOCK.match(name):
            blocks.setdefault(found[1], set()).add(name.removeprefix(found[0]))
        crossing = re.search(r"attn2\.to_[kv]\.", name)
        if len(shape) < 2:
            continue
        at = 1 if _ONCE.search(name) else words if crossing or _OF_WORDS.search(name) else places
        if at == places and _TOGETHER.match(name):
            at = places + words
        total += 2 * prod(shape) * at
    width = int(config.get("num_attention_heads") or 24) * int(config.get("attention_head_dim") or 128)
    width = int(config.get("dim") or width)
    linear = str(config.get("_class_name", "")).startswith("Sana")
    for block, names in blocks.items():
        together = _TOGETHER.match(block + ".") or any("add_" in name for name in names)
        if together:
            seen = (places + words) ** 2
        else:
            crosses = any(name.startswith("attn2.") for name in names)
            seen = places * ((0 if linear else places) + (words if crosses else 0))
        total += 4 * seen * width
    return total


def row_flops_of(
    prior: Path,
    vae: Path,
    sides_px: Sequence[int],
    *,
    editor: bool,
    packed: bool,
    frames: int | None,
    guard: Path | None = None,
) -> dict[int, float]:
    """Of one row by the side of the picture, a square; none where the files do not say enough.

    Args:
        prior: Directory in diffusers layout.
        vae: Folder of the autoencoder.
        sides_px: Sides of the pictures.
        editor: Whether it sees a source; beside the noisy picture, if its channels do not hold both.
        packed: Whether its tokens are 2 x 2 latents already.
        frames: Of a clip, for an editor of clips; None: of pictures.
        guard: Folder of a ControlNet beside it.
    """
    parts = configs_of(prior, vae)
    shapes = shapes_of(parts.network) if parts else None
    if parts is None or not shapes:
        return {}
    config, guarding = parts.config, {} if guard is None else shapes_of(guard)
    patch = config.get("patch_size") or 1
    patch = 2 if packed else patch if isinstance(patch, int) else patch[-1]
    patch = patch if parts.network.name == "transformer" else 1
    deep = 1 if frames is None else -(-(frames - 1) // int(parts.codec["scale_factor_temporal"])) + 1
    read = int(config.get("in_channels") or 0)
    beside = editor and read < 2 * int(config.get("out_channels") or read)
    found: dict[int, float] = {}
    for px in sides_px:
        places = deep * (px // parts.factor // patch) ** 2
        found[px] = row_flops(shapes, config, places * (2 if beside else 1))
        found[px] += row_flops(guarding, {}, places) if guarding else 0.0
    return found


def shapes_of(part: Path) -> dict[str, Sequence[int]]:
    """Of the weights of a part of a prior."""
    return {name: shape for file in sorted(part.glob("*.safetensors")) for name, shape in shapes_in(file).items()}
