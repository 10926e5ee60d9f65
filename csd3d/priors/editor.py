"""What the editors need of an instruction editor, and the size and settings that suit it. Loads nothing."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from csd3d.engine.config import METHODS, CsdConfig
from csd3d.engine.residuals import Score

USUAL_PX = 512
"""Side in px of the pictures that a prior was trained on, where it does not say."""
BUILTIN = replace(METHODS["csd-edit"], steps=100, lr=0.5, lr_decay=0.75, s_text=1.5, s_image=1.5)
"""What suits the small built-in prior: it follows text at lower guidance than the big editors."""


@runtime_checkable
class Loaded(Protocol):
    """Any prior, as far as its size and place go."""

    @property
    def name(self) -> str:
        """As it was asked for."""
        ...

    @property
    def path(self) -> Path:
        """The folder it was read from."""
        ...

    @property
    def builtin(self) -> bool:
        """Whether it is the small one that comes along."""
        ...

    @property
    def codec(self) -> Any:
        """Has `encode`, `decode` and `factor`, pixels along one side of a latent."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...


@runtime_checkable
class Editor(Loaded, Protocol):
    """An instruction editor; `csd3d.priors.instruct.InstructPrior` is one."""

    def score(
        self, prompt: str | Sequence[str], *, s_text: float, s_image: float, assign: Int[Tensor, " m"] | None = None
    ) -> Score:
        """The engine's view of the prior under one sentence, or under several (`assign`: each particle's)."""
        ...


def native_px(prior: Loaded) -> int:
    """Side in px of the pictures a prior was trained on: its own word (`working_px`), its UNet's, or `USUAL_PX`."""
    own = getattr(prior, "working_px", None)
    if isinstance(own, int):
        return own
    config = Path(prior.path) / "unet" / "config.json"
    sample = json.loads(config.read_text(encoding="utf-8")).get("sample_size") if config.is_file() else None
    return sample * prior.codec.factor if isinstance(sample, int) and sample > 0 else USUAL_PX


def recommended(builtin: bool) -> CsdConfig:
    """Engine settings that suit a prior: the small built-in one, or a big instruction editor."""
    return BUILTIN if builtin else METHODS["csd-edit"]


def generation(builtin: bool, method: str) -> CsdConfig:
    """Engine settings for making pictures from noise by `sds` or `csd`, over nearly all timesteps."""
    config = replace(METHODS[method], t_max=980, lr_decay=1.0, optimizer="adam", lr=0.05)
    return replace(config, steps=200, s_text=7.5) if builtin else replace(config, steps=500, s_text=30.0)
