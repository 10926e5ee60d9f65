"""Finding and loading a prior whose kind only its files tell: an instruction editor or a text-to-image model."""

from pathlib import Path

import torch

from csd3d.priors.defaults import Precision
from csd3d.priors.families.table import Kind
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.latent_diffusion import LatentDiffusion
from csd3d.priors.loading import PLAIN, Loading
from csd3d.priors.prior import Prior
from csd3d.priors.store.device import pick_device, pick_dtype
from csd3d.priors.store.load import locate
from csd3d.priors.store.resolve import CALLED, Resolved, loader_of, resolve
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.slow_imports import uncollected

_CLASSES: dict[Kind, type[LatentDiffusion]] = {cls.kind: cls for cls in (InstructPrior, TextToImagePrior)}


def find_prior(
    name: str | Path | Resolved,
    *,
    device: str | torch.device | None = None,
    offline: bool = False,
    how: Loading = PLAIN,
) -> Resolved:
    """Where a prior is and what it is, its directory checked; a hub id is fetched, in the precision of `device`, unless
    `offline`, where only the hub's cache is looked into.

    What is found need not be found again: hand it to `load_prior`. Raises what `LatentDiffusion.load` raises for a
    name.
    """
    found = name if isinstance(name, Resolved) else resolve(name, how)
    if found.path is not None and found.kind is not None:
        return found
    offline = offline or how.offline
    return locate(found, offline=offline, half=pick_dtype(None, pick_device(device)) != torch.float32)


def load_prior(
    name: str | Path | Resolved,
    *,
    device: str | torch.device | None = None,
    precision: Precision = "auto",
    how: Loading = PLAIN,
) -> Prior:
    """Load any prior, by its name or as `find_prior` found it, with what `how` puts into it. Raises what
    `LatentDiffusion.load` and `load_family` do."""
    how.check(depth_known=True)  # whoever knows no depth has asked before
    found = find_prior(name, device=device, how=how)
    assert found.path is not None
    assert found.kind is not None
    dtype = None if precision == "auto" else getattr(torch, precision)
    loader = loader_of(found.path)
    if how.scaled_condition and (loader, found.kind) != ("latent-diffusion", "instruct"):
        got = CALLED[found.kind] if found.family is None else found.family.title
        raise ValueError(f"scaled-condition: expected InstructPix2Pix of Stable Diffusion 1 or 2, got {got}")
    if loader == "family":
        with uncollected():
            from csd3d.priors.families.load import load_family

        return load_family(found, device=device, dtype=dtype, how=how)
    return _CLASSES[found.kind].load(found, device=device, dtype=dtype, how=how)
