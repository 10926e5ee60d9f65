"""Loading a prior whose kind only its files tell: an instruction editor or a text-to-image model."""

from pathlib import Path

import torch

from csd3d.priors.instruct import InstructPrior
from csd3d.priors.load import fetch, pick_device, pick_dtype
from csd3d.priors.resolve import check_directory, resolve
from csd3d.priors.text_to_image import TextToImagePrior


def load_either(name: str | Path, *, device: str | torch.device | None = None) -> InstructPrior | TextToImagePrior:
    """Load a prior of either kind. Raises what `Prior.load` raises."""
    resolved = resolve(name)
    kind = resolved.kind
    if kind is None:
        half = pick_dtype(None, pick_device(device)) != torch.float32
        kind = check_directory(fetch(resolved, revision=None, offline=False, half=half))
    return (InstructPrior if kind == "instruct" else TextToImagePrior).load(name, device=device)
