"""What the editors need of a prior, and the size and settings that suit it. Loads no weights."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from csd3d.engine.config import METHODS, PAPER, CsdConfig
from csd3d.engine.residuals import Score
from csd3d.priors.store.resolve import Kind, resolve

USUAL_PX = 512
"""Side in px of the pictures that a prior was trained on, where it does not say."""
BUILTIN = replace(METHODS["csd-edit"], steps=100, lr=0.5, lr_decay=0.75, s_text=1.5, s_image=1.5)
"""What suits the small built-in prior: it follows text at lower guidance than the big editors."""

_SMALL: dict[str, Any] = {"s_text": 3.0}
"""What differs from the published settings of text-to-image methods for the small prior."""


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


def default_prior(method: str | None) -> str:
    """The built-in prior that a method is for: the instruction editor, or the text-to-image model."""
    return "builtin" if method in (None, "csd-edit") else "builtin:t2i"


def recommended(builtin: bool, method: str | None = None, *, kind: Kind | None = "instruct") -> CsdConfig:
    """Engine settings that suit a prior, a small built-in or a big one, under a named method (None: `csd-edit`).

    `dds` and `cds` are as published; `sds`, `csd`, and `csd-edit` on a text-to-image prior start from the same learning
    rate and timesteps. Under `csd-edit` a prior whose `kind` is not known yet (None) counts as an instruction editor.
    """
    method = method or "csd-edit"
    if method == "csd-edit" and kind != "text-to-image":
        return BUILTIN if builtin else METHODS["csd-edit"]
    delta = PAPER["cds" if METHODS[method].regulariser == "patch-nce" else "dds"]
    config = replace(delta, residual=METHODS[method].residual, coupling=METHODS[method].coupling)
    return replace(config, **_SMALL) if builtin else config


def suited(prior: Loaded) -> CsdConfig:
    """The `recommended` settings of a loaded prior, where nobody names a method."""
    return recommended(prior.builtin, kind=kind_of(prior))


def suited_to(name: str | None, method: str | None, *, device: str | None = None) -> tuple[str, CsdConfig]:
    """The prior that a person named (None: the method's own) and the `recommended` settings of it.

    A hub id is fetched, as `device` wants it, where only its files tell the kind. Raises what `resolve` and `fetch` do.
    """
    name = name or default_prior(method)
    found = resolve(name)
    kind = found.kind
    if kind is None and method in (None, "csd-edit"):
        from csd3d.priors.auto import find_kind  # slow to import

        kind = find_kind(name, device=device)
    return name, recommended(found.builtin, method, kind=kind)


def kind_of(prior: Loaded) -> Kind:
    """What a prior is; an instruction editor where it does not say."""
    return getattr(prior, "kind", "instruct")


def score_for(
    prior: Loaded,
    csd: CsdConfig,
    prompt: str | Sequence[str],
    *,
    source_prompt: str | None = None,
    assign: Int[Tensor, " m"] | None = None,
) -> Score:
    """The engine's view of any prior: an instruction editor under sentences, or a text-to-image model under captions.

    Raises:
        ValueError: Something that the prior cannot serve.
        UnknownPrompt: A sentence that it was never taught.
    """
    if csd.regulariser != "none":
        prior.require_layers(csd.nce_layers)  # pyright: ignore[reportAttributeAccessIssue]
    if kind_of(prior) == "instruct":
        if source_prompt is not None:
            raise ValueError("source-prompt: expected none, an instruction editor reads the source from its picture")
        return prior.score(prompt, s_text=csd.s_text, s_image=csd.s_image, assign=assign)  # pyright: ignore[reportAttributeAccessIssue]
    if source_prompt is None and (csd.residual == "source" or csd.regulariser != "none"):
        raise ValueError(
            f"source-prompt: expected what the source shows, with which {prior.name} compares the result, got none; "
            "only sds and csd can do without"
        )
    return prior.score(prompt, s_text=csd.s_text, source_prompt=source_prompt, assign=assign)  # pyright: ignore[reportAttributeAccessIssue]


def generation(builtin: bool, method: str) -> CsdConfig:
    """Engine settings for making pictures from noise by `sds` or `csd`, over nearly all timesteps."""
    config = replace(METHODS[method], t_max=980, lr_decay=1.0, optimizer="adam", lr=0.05)
    return replace(config, steps=200, s_text=7.5) if builtin else replace(config, steps=500, s_text=30.0)
