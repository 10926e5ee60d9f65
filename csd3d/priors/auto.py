"""Loading a prior whose kind only its files tell: an instruction editor or a text-to-image model."""

from pathlib import Path

import torch

from csd3d.priors.instruct import InstructPrior
from csd3d.priors.store.load import fetch, pick_device, pick_dtype
from csd3d.priors.store.resolve import Kind, check_directory, resolve
from csd3d.priors.text_to_image import TextToImagePrior


def find_kind(name: str | Path, *, device: str | torch.device | None = None) -> Kind:
    """What a prior is; a hub id is fetched, as `device` wants it, to find out. Raises what `Prior.load` raises."""
    resolved = resolve(name)
    if resolved.kind is not None:
        return resolved.kind
    half = pick_dtype(None, pick_device(device)) != torch.float32
    return check_directory(fetch(resolved, revision=None, offline=False, half=half))


def load_either(name: str | Path, *, device: str | torch.device | None = None) -> InstructPrior | TextToImagePrior:
    """Load a prior of either kind. Raises what `Prior.load` raises."""
    kind = find_kind(name, device=device)
    return (InstructPrior if kind == "instruct" else TextToImagePrior).load(name, device=device)
