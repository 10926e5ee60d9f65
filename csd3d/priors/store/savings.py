"""Less memory for big priors, by diffusers' own means: weights in fewer bits, and parts that wait on the CPU or lie on
several GPUs.

fp8    weights of the network stored in 8 bits (e4m3), cast layer by layer when they are used; needs no package
int8   weights of network and text encoders in 8 bits; needs torchao
nf4    in 4 bits, NormalFloat of QLoRA (Dettmers et al. 2023); needs bitsandbytes and a GPU
"""

import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from csd3d.priors.loading import Loading
from csd3d.priors.store.placement import free_bytes, require_gpus, spread

_NEEDS = {"int8": "torchao", "nf4": "bitsandbytes"}
_NETWORKS = ("unet", "transformer")


def require_savings(how: Loading, device: torch.device, *, whole: bool) -> None:
    """Raises ValueError for savings that cannot be had here.

    Args:
        how: What is asked for.
        device: Where the prior computes.
        whole: Whether it is read as a whole pipeline of a family from its directory.
    """
    if how.offload and device.type == "cpu":
        raise ValueError("offload: expected a prior on CUDA, got one on the CPU, where everything waits already")
    if how.device_map == "balanced":
        require_gpus(device)
    package = _NEEDS.get(how.quantise)
    if package is None:
        return
    if not whole:
        raise ValueError(
            f"quantise: expected none or fp8 but for a family in its directory (docs/priors.md), got {how.quantise}"
        )
    if how.quantise == "nf4" and device.type == "cpu":  # diffusers' loader asks for a GPU, whatever the package can
        raise ValueError("quantise: expected int8 or fp8 for a prior on the CPU, got nf4, which needs a GPU")
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"quantise: {how.quantise} needs {package}: pip install {package}")


def quantised_parts(how: Loading, parts: Mapping[str, str], dtype: torch.dtype) -> dict[str, Any]:
    """For each part that is quantised while its weights are read, what its `from_pretrained` is to be told: network
    and large text encoders; `parts` with their classes' names."""
    if how.quantise not in _NEEDS:
        return {}
    import diffusers
    import transformers

    def config(library: Any) -> Any:
        if how.quantise == "nf4":
            return library.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        import torchao.quantization  # pyright: ignore[reportMissingImports]  # which is optional

        return library.TorchAoConfig(torchao.quantization.Int8WeightOnlyConfig())

    chosen = {name: config(diffusers) for name in parts if name in _NETWORKS}
    return chosen | {name: config(transformers) for name, cls in parts.items() if _is_large(name, cls)}


def read_on(how: Loading, device: torch.device) -> torch.device:
    """Where weights are read to, before `save_memory` puts them where they belong."""
    return torch.device("cpu") if how.device_map == "balanced" else device


def save_memory(
    network: Any, parts: Mapping[str, object], how: Loading, device: torch.device
) -> tuple[torch.device, ...]:
    """Cast the network's weights, and let parts wait on the CPU or spread them over GPUs, as `how` says.

    Nothing can be merged afterwards. Network and text encoders are spread; an autoencoder, whose methods are called and
    not it itself, stays on `device`, and so does a CLIP encoder.

    Returns:
        GPUs besides `device` that have layers.

    Raises:
        ValueError: They do not fit on all GPUs.
    """
    if how.quantise == "fp8":
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=network.dtype)
    if how.offload:
        wait_on_cpu(parts.values(), device)
    if how.device_map == "none":
        return ()
    modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    split = {name: part for name, part in modules.items() if part is network or _is_large(name, type(part).__name__)}
    whole = (part for name, part in modules.items() if name not in split)
    return spread(split, whole, main=device, free=free_bytes())[1:]


def wait_on_cpu(parts: Iterable[object], device: torch.device) -> None:
    """From now on a layer of any of `parts` is on `device` only while it computes."""
    from diffusers.hooks import apply_group_offloading

    for part in parts:
        if isinstance(part, nn.Module):
            apply_group_offloading(
                part, onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda"
            )


def _is_large(name: str, cls: str) -> bool:
    """Whether a part of a class is a text encoder that weighs as much as a network."""
    return name.startswith("text_encoder") and not cls.startswith("CLIP")
