"""Which prior a method is for, and the engine settings and picture size that suit a prior. Loads no weights."""

from collections.abc import Mapping
from dataclasses import replace

from csd3d.engine.config import METHODS, PAPER, CsdConfig, Method
from csd3d.priors.store.resolve import Kind, Resolved, resolve

USUAL_PX = 512
"""Side in px of the pictures that a prior was trained on, where its files do not say."""
BUILTIN = replace(METHODS["csd-edit"], steps=100, lr=0.5, lr_decay=0.75, s_text=1.5, s_image=1.5)
"""What suits the small built-in editor: it follows text at lower guidance than the big ones."""
BUILTIN_CAPTION_GUIDANCE = 3.0
"""Text guidance of the published text-to-image methods on the small built-in model."""


def default_prior(method: Method | None) -> str:
    """The built-in prior that a method is for: the instruction editor, or the text-to-image model."""
    return "builtin" if method in (None, "csd-edit") else "builtin:t2i"


def resolve_for(method: Method | None, name: str | None, *, device: str | None = None) -> Resolved:
    """The prior that a person named (None: the method's own), as far as `default_config` has to know it.

    A hub id is fetched, as `device` wants it, where only its files tell the kind. Raises what `find_prior` does.
    """
    found = resolve(name or default_prior(method))
    if found.kind is None and method in (None, "csd-edit"):
        from csd3d.priors.auto import find_prior  # slow to import

        return find_prior(found, device=device)
    return found


def default_config(method: Method | None = None, *, builtin: bool, kind: Kind | None = "instruct") -> CsdConfig:
    """Engine settings for editing with a prior, a small built-in or a big one, by a named method (None: `csd-edit`).

    `dds` and `cds` are as published; `sds`, `csd`, and `csd-edit` on a text-to-image prior start from the same learning
    rate and timesteps. Under `csd-edit` a prior whose `kind` is not known yet (None) counts as an instruction editor.
    """
    method = method or "csd-edit"
    if method == "csd-edit" and kind != "text-to-image":
        return BUILTIN if builtin else METHODS["csd-edit"]
    delta = PAPER["cds" if METHODS[method].regulariser == "patch-nce" else "dds"]
    config = replace(delta, residual=METHODS[method].residual, coupling=METHODS[method].coupling)
    return replace(config, s_text=BUILTIN_CAPTION_GUIDANCE) if builtin else config


def generation_config(method: str, *, builtin: bool) -> CsdConfig:
    """Engine settings for making pictures from noise: by `sds`, or for anything else by `csd`; nearly all timesteps."""
    config = replace(METHODS["sds" if method == "sds" else "csd"], t_max=980, lr_decay=1.0, optimizer="adam", lr=0.05)
    return replace(config, steps=200, s_text=7.5) if builtin else replace(config, steps=500, s_text=30.0)


def trained_side_lat(unet_config: Mapping[str, object]) -> int | None:
    """Shorter side in latents of what a UNet was trained on: `sample_size` of its config, a number or [height, width].

    None where it does not say, or says something else.
    """
    size = unet_config.get("sample_size")
    sides = size if isinstance(size, list | tuple) else [size]
    whole = [side for side in sides if type(side) is int and side > 0]
    return min(whole) if whole and len(whole) == len(sides) else None


def native_px(unet_config: Mapping[str, object], factor: int) -> int:
    """Side in px of the pictures that a latent diffusion model was trained on; `factor` px along a side of a latent."""
    side = trained_side_lat(unet_config)
    return USUAL_PX if side is None else side * factor
