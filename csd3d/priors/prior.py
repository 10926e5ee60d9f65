"""What a prior is to everybody else: an abstract class. Its kinds are subclasses; this module loads nothing.

prompts    what the result is to show, what the source shows, and what to keep away from
guidance   how strongly the prediction is drawn to the text and to the source picture
score      the engine's view of a prior under both
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32, Int, Num
from torch import Tensor

from csd3d.attention.presets import Attention
from csd3d.engine.config import CsdConfig, Effort, Method
from csd3d.engine.loop import require_timesteps
from csd3d.engine.residuals import Score
from csd3d.engine.reuse import reusing
from csd3d.engine.sampling import By
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Index
from csd3d.priors.defaults import GenerateMethod, Particle, default_config, for_timesteps, generation_config, suited
from csd3d.priors.families.table import Kind
from csd3d.priors.loading import PLAIN, Loading
from csd3d.priors.networks.guard import Guard
from csd3d.priors.networks.sampler import Predict


@runtime_checkable
class Codec(Protocol):
    """Between pictures in [0, 1] and the latents that particles are."""

    @property
    def factor(self) -> int:
        """Pixels along one side of a latent."""
        ...

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        ...

    def encode(self, rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Latents of pictures, differentiable. Raises ValueError when a side is no multiple of `factor`."""
        ...

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Pictures of latents, in [0, 1], differentiable."""
        ...


@dataclass(frozen=True, eq=False)
class Prompts:
    """The texts of an edit. Whether a prior knows them is found out by its `score`."""

    target: str | Sequence[str]
    """One sentence for all particles, or several. An instruction, or a caption of the result; "" means no text."""
    source: str | Sequence[str] | None = None
    """What the source shows, for text-to-image models: one caption for all particles, or as many as there are targets.
    """
    assign: Int[Tensor, " m"] | None = None
    """With several sentences: particle i takes sentence `assign[i]`. None: particle i takes sentence i."""
    negative: str = ""
    """What predictions are guided away from: the text of the branches that have no sentence, usually none."""


@dataclass(frozen=True)
class Guidance:
    """Scales of classifier-free guidance (Ho and Salimans 2021; for pictures Brooks et al. 2023)."""

    text: float
    """1 = none; larger follows the text more."""
    image: float = 1.0
    """Of the source picture, for instruction editors: 1 = none, larger keeps more of the source."""
    source: float | None = None
    """Of the text in the prediction for the source, for text-to-image models; None: as `text`."""
    t_min: int = 0
    """The scales count from this timestep on: elsewhere all are 1."""
    t_max: int | None = None
    """And below this one. None: up to the noisiest."""

    def at(self, t: int | float) -> "Guidance":
        """The scales of a timestep."""
        return self if self.t_min <= t and (self.t_max is None or t < self.t_max) else NO_GUIDANCE

    @property
    def source_text(self) -> float:
        """`source`, or what it stands for."""
        return self.text if self.source is None else self.source

    @classmethod
    def of(cls, csd: CsdConfig) -> "Guidance":
        """The scales among the settings of the engine."""
        return cls(csd.s_text, csd.s_image, csd.s_source, csd.guide_min, csd.guide_max)


NO_GUIDANCE = Guidance(1.0)
"""Predictions as they are."""


@dataclass(frozen=True, eq=False)
class Prior(ABC):
    """A diffusion model as a prior of pictures. A subclass says how its score is made and what it cannot serve."""

    kind: ClassVar[Kind]
    """Whether its sentences are instructions or captions."""

    name: str
    """As it was asked for."""
    path: Path
    """The directory it was read from."""
    builtin: bool
    """It is one of the small ones that come along."""
    device: torch.device
    """Where it computes."""
    codec: Codec
    """Between pictures and latents."""
    schedule: Schedule
    """What its network was trained with."""
    native_px: int
    """Side in px of the pictures it was trained on."""
    how: Loading = field(default=PLAIN, kw_only=True)
    """How it was read: what was put into it."""
    guard: Guard | None = field(default=None, kw_only=True, repr=False)
    """What holds results to the layout of the source, or of pictures that were given; None: nothing."""
    weights: Path | None = field(default=None, kw_only=True)
    """The one file of its weights, if they were not those of `path`."""
    said: list[str] = field(default_factory=list[str], kw_only=True, repr=False)
    """Notes on how it was read, and on settings that mean nothing here."""

    def showing(
        self, index: Index, s: Float[Tensor, "n c h w"] | None, size_lat: Sequence[int]
    ) -> AbstractContextManager[None]:
        """Within: particles of these numbers and sources are predicted, for its guard if it has one. Raises ValueError
        where there is no control picture for one."""
        if self.guard is None:
            return nullcontext()
        return self.guard.showing(index, s, (size_lat[-2], size_lat[-1]))

    def assign_pictures(self, pictures: Sequence[int]) -> None:
        """From now on particle i is held to control picture `pictures[i]`, where there is one for each. Raises
        ValueError for one that there is not."""
        if self.guard is not None:
            self.guard.sees.assign(pictures)

    @property
    def multiple_px(self) -> int:
        """Sides of the pictures that it takes are multiples of this many px."""
        return self.codec.factor

    @property
    def looks_at_pictures(self) -> bool:
        """Whether it, or its guard, reads more of a source than its latents: the pictures that it encoded last."""
        return self.guard is not None

    @property
    def notes(self) -> list[str]:
        """What happened so far that a person should know, one sentence each."""
        return list(self.said)

    @property
    def rows_done(self) -> int:
        """Rows of its network that were computed so far; 0 where nobody counts them."""
        return 0

    def defaults(
        self, method: Method | None = None, effort: Effort | None = None, *, by: By = "moves", of: Particle = "windows"
    ) -> CsdConfig:
        """Engine settings that suit it, by a named method (None: `csd-edit`), at an effort (None: normal), for what is
        moved."""
        config = default_config(method, builtin=self.builtin, kind=self.kind, effort=effort, by=by, of=of)
        return for_timesteps(config, self.schedule.num_timesteps)

    def encode(self, rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Latents of pictures in [0, 1], on the CPU wherever the prior computes."""
        return self.codec.encode(rgb.to(self.device)).cpu()

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Pictures of latents in [0, 1], on the CPU wherever the prior computes."""
        return self.codec.decode(z.to(self.device)).cpu()

    @property
    def things(self) -> tuple[str, ...]:
        """Nouns of what its captions may name, where it knows a closed set of words; else none."""
        return ()

    def kinds_of(self, sentences: Sequence[str]) -> tuple[str, ...]:
        """The kind of edit of each sentence, such as "weather", where the prior is built in and knows; else none."""
        return ()

    @abstractmethod
    def score(self, prompts: Prompts, guidance: Guidance) -> Score:
        """The engine's view of the prior under these prompts.

        Raises:
            UnknownPrompt: It knows a closed set of sentences or words, and a prompt is not of them.
            ValueError: No sentence, `assign` points past the last one, or prompts that this kind does not take.
        """

    @abstractmethod
    def require(self, csd: CsdConfig, prompts: Prompts) -> None:
        """Raises ValueError if the prior cannot serve these settings of the engine with these prompts."""

    def score_under(self, csd: CsdConfig, prompts: Prompts, attention: Attention | None = None) -> Score:
        """`score` with the guidance of `csd` and maybe with its attention controlled, for a run by its settings. Raises
        what `require`, `score` and `Attention.over` do."""
        self.require(csd, prompts)
        guidance = Guidance.of(csd)
        score = self.score(prompts, guidance)
        require_timesteps(score.schedule, csd)
        if attention is not None and attention.sees_sources:
            require_predicted(self.kind, guidance)
        score = score if attention is None else self.attended(score, attention)
        _ = reusing(score, csd)  # refuses what has no parts
        return score

    def attended(self, score: Score, attention: Attention) -> Score:
        """One of its scores with its attention controlled, what is left open suited to it. Raises as `Attention.over`
        does."""
        steering = attention.steering and suited(attention.steering, builtin=self.builtin, pulls=True)
        return replace(attention, steering=steering).over(score)


@runtime_checkable
class SampledScore(Score, Protocol):
    """A score whose network an ordinary sampler can ask too."""

    def output(self, z_in: Float[Tensor, "n c h w"], t: Num[Tensor, ""], index: Index) -> Float32[Tensor, "n c h w"]:
        """The guided output of the network for targets, in its own parametrisation, on the prior's device: of noisy
        latents as its scheduler scales them, at what its scheduler calls t."""
        ...


@dataclass(frozen=True, eq=False)
class TextToImage(Prior):
    """A text-to-image model of any family, which makes pictures in the ordinary way too."""

    kind = "text-to-image"

    @abstractmethod
    def score(self, prompts: Prompts, guidance: Guidance) -> SampledScore:
        """See `Prior.score`."""

    def generation(self, method: GenerateMethod) -> CsdConfig:
        """Engine settings that suit making pictures of captions with it."""
        return for_timesteps(generation_config(method, builtin=self.builtin), self.schedule.num_timesteps)

    @abstractmethod
    def denoise(
        self,
        predict: Predict,
        shape: Sequence[int],
        noise: Float[Tensor, "m c h w"] | None,
        rng: torch.Generator,
        *,
        steps: int,
    ) -> Float[Tensor, "n c h w"]:
        """Latents of `shape` from noise (None: drawn), by its ordinary sampler; see `networks.sampler.denoise`."""


def require_predicted(kind: Kind, guidance: Guidance) -> None:
    """Raises ValueError where targets are to look at a prediction for their source that guidance leaves out."""
    if kind == "instruct":
        name, scale, missing = "s-image", guidance.image, guidance.image == 0 != guidance.text
    else:
        name, scale = "s-source", guidance.source_text
        missing = scale in (0, 1) and scale != guidance.text
    if missing:
        raise ValueError(
            f"{name}: expected other than {scale:g}, which leaves out a prediction for the source that attention is to "
            f"look at, got {scale:g} beside --s-text {guidance.text:g}"
        )


def require_no_source(prompts: Prompts, csd: CsdConfig | None = None) -> None:
    """Raises ValueError for a source prompt, which no instruction editor takes, and for a scale of it."""
    if csd is not None and csd.s_source is not None:
        raise ValueError(
            f"s-source: expected none, the source of an instruction editor has no text, got {csd.s_source}"
        )
    if prompts.source is not None:
        raise ValueError("source-prompt: expected none, an instruction editor reads the source from its picture")


def require_source_caption(name: str, csd: CsdConfig, prompts: Prompts) -> None:
    """Raises ValueError where a method compares with a caption of the source and there is none."""
    if prompts.source is None and (csd.residual == "source" or csd.regulariser != "none"):
        raise ValueError(
            f"source-prompt: expected what the source shows, with which {name} compares the result, got none; "
            "only sds and csd can do without"
        )
