"""A prior over several GPUs, by accelerate's means: layers of its large parts are spread evenly, and its hooks carry
what passes from a layer on one GPU to the next on another.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from csd3d.priors.store.silence import quiet

WEIGHTS_SHARE = 0.8
"""The part of the free memory of a GPU that weights may take; the rest is for what a call computes."""


def require_gpus(device: torch.device) -> None:
    """Raises ValueError where there are no two GPUs to spread a prior over."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type != "cuda" or count < 2:
        raise ValueError(f"device-map: balanced expected two GPUs or more, found {count}")


def free_bytes() -> dict[int, int]:
    """Free memory of every GPU of this machine, by its number."""
    return {i: torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())}


def gpu_of(number: int) -> torch.device:
    """A GPU by its number."""
    return torch.device("cuda", number)


def spread(
    parts: Mapping[str, nn.Module], whole: Iterable[nn.Module], *, main: torch.device, free: Mapping[int, int]
) -> tuple[torch.device, ...]:
    """From now on layers of `parts` are on several GPUs; calls take their arguments from `main` and answer there.

    Args:
        parts: May be split, between layers that their classes allow to be.
        whole: Stay together, on `main`.
        main: The GPU of latents.
        free: Bytes of every GPU, by its number; it may use `WEIGHTS_SHARE` of them.

    Returns:
        The GPUs that have layers, `main` first.

    Raises:
        ValueError: The weights do not fit.
    """
    from accelerate import dispatch_model

    whole = list(whole)
    first = main.index or 0
    room = {gpu: int(WEIGHTS_SHARE * free[gpu]) for gpu in sorted(free, key=lambda gpu: (gpu != first, gpu))}
    room[first] = max(0, room[first] - sum(map(size_bytes, whole)))
    layers = {name: layers_of(part) for name, part in parts.items()}
    sizes = {f"{name}.{path}": size for name, own in layers.items() for path, size in own.items()}
    placed = place(sizes, room)
    for part in whole:
        part.to(main)
    for name, part in parts.items():
        where: dict[str, str | int | torch.device] = {
            path: str(gpu_of(placed[f"{name}.{path}"])) for path in layers[name]
        }
        with quiet():
            dispatch_model(part, where, main_device=main, force_hooks=True)
    return tuple(gpu_of(gpu) for gpu in room if gpu == first or gpu in placed.values())


def place(sizes: Mapping[str, int], room: Mapping[int, int]) -> dict[str, int]:
    """GPU of every layer, GPUs and layers in their order: all GPUs about as full as each other.

    Args:
        sizes: Bytes of layers by their names.
        room: Bytes that may lie on each GPU, by its number.

    Raises:
        ValueError: They do not fit.
    """
    for percent in range(1, 101):
        placed: dict[str, int] = {}
        left = {gpu: some * percent // 100 for gpu, some in room.items()}
        gpus = iter(left)
        gpu = next(gpus)
        for layer, size in sizes.items():
            while gpu is not None and left[gpu] < size:
                gpu = next(gpus, None)
            if gpu is None:
                break
            placed[layer] = gpu
            left[gpu] -= size
        if len(placed) == len(sizes):
            return placed
    needed, have = (sum(some.values()) / 1e9 for some in (sizes, room))
    name = max(sizes, key=lambda layer: sizes[layer])
    whole = f" in layers of up to {sizes[name] / 1e9:.3g} GB ({name}), which stay whole" if needed <= have else ""
    each = f": {', '.join(f'{some / 1e9:.3g}' for some in room.values())}" if whole else ""
    raise ValueError(
        f"device-map: expected room for {needed:.3g} GB of weights{whole}, got {have:.3g} GB{each} on {len(room)} GPUs,"
        " of which a fifth is left to calls; --offload, or --quantise fp8 beside this, needs less"
    )


def layers_of(part: nn.Module) -> dict[str, int]:
    """Bytes of what no GPU boundary may go through, in order, by its path: layers that the class of `part` names, or
    the whole of it; the items of its lists, unless these are the blocks of a UNet; modules that hold weights or have no
    children; and weights of its own, which stay where it is called."""
    together = {*(getattr(part, "_no_split_modules", None) or [type(part).__name__])}
    if not hasattr(part, "down_blocks"):
        lists = (child for child in part.children() if isinstance(child, nn.ModuleList))
        together |= {type(item).__name__ for items in lists for item in items}
    own = {name: _bytes(x) for name, x in _beside(part)}
    return own | _layers(part, frozenset(together))


def _layers(module: nn.Module, together: frozenset[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, child in module.named_children():
        whole = type(child).__name__ in together or _beside(child) or not any(True for _ in child.children())
        inner = {"": size_bytes(child)} if whole else _layers(child, together)
        found |= {f"{name}.{path}".rstrip("."): size for path, size in inner.items()}
    return found


def _beside(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def size_bytes(part: nn.Module) -> int:
    """Of the weights of a part."""
    return sum(map(_bytes, (*part.parameters(), *part.buffers())))


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()
