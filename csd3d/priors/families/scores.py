"""The scores of families that the engine drives. Those that are guided give what they predict without any condition
apart, so that it can be reused (`csd3d.engine.reuse`)."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32, Num
from torch import Tensor

from csd3d.engine.guidance import guided, instruct_coefficients, instruct_source_coefficients, split
from csd3d.engine.reuse import Side
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Index, Latents, Noised
from csd3d.priors.families.check import guided_like
from csd3d.priors.families.codec import FamilyCodec
from csd3d.priors.families.levels import Levels
from csd3d.priors.families.references import Anchors
from csd3d.priors.families.replay import tokens, untokens
from csd3d.priors.families.table import Branch, Family
from csd3d.priors.prior import Guidance
from csd3d.priors.prompts.sentences import Texts

References = Sequence[Sequence[Float[Tensor, "c h w"]]]
"""For each particle the latents of further pictures that its editor sees, in order."""


@runtime_checkable
class InBranches(Protocol):
    """A `FamilyPrior`, as its scores see it."""

    @property
    def family(self) -> Family: ...

    @property
    def codec(self) -> FamilyCodec: ...

    @property
    def levels(self) -> Levels: ...

    @property
    def schedule(self) -> Schedule: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def is_distilled(self) -> bool: ...

    @property
    def has_null(self) -> bool: ...

    def showing(
        self, index: Index, s: Float[Tensor, "n c h w"] | None, size_lat: Sequence[int]
    ) -> AbstractContextManager[None]: ...

    def predict(
        self,
        branches: Sequence[Branch],
        x: Latents,
        time: float,
        s: Latents,
        sentences: Sequence[str],
        negative: str,
        references: References | None = None,
    ) -> list[Latents]: ...


@dataclass(frozen=True, eq=False)
class EditorScore:
    """The Score of an instruction editor. Make one with `FamilyEditor.score`."""

    prior: InBranches
    texts: Texts
    negative: str
    guidance: Guidance
    anchors: Anchors | None = None
    """Of the step, whose sources it sees too."""

    @property
    def schedule(self) -> Schedule:
        """The prior's."""
        return self.prior.schedule

    def target(self, x: Noised) -> Latents:
        """Guided noise prediction for edited particles, given their sources and instructions. The empty instruction is
        the source's prediction."""
        return self._target(x, self._target_coefficients(x.t), self._source_coefficients(x.t))

    def source(self, x: Noised) -> Latents:
        """The same for the noisy sources themselves, without the instruction."""
        sentences = [""] * len(x.s) if self.prior.is_distilled else self.texts.of(x.index)
        return self._epsilon(self._source_coefficients(x.t), x.s_t, x, sentences)

    def _target(
        self, x: Noised, asked: Mapping[Branch, float], wordless: Mapping[Branch, float]
    ) -> Float[Tensor, "n c h w"]:
        """Predictions for particles by the coefficients of those with an instruction and of those without."""
        sentences = self.texts.of(x.index)
        is_asked = [bool(sentence.strip()) for sentence in sentences]
        if self.prior.is_distilled or all(is_asked):
            return self._epsilon(asked, x.z_t, x, sentences)
        out = torch.empty_like(x.z_t)
        for kind in {*is_asked}:
            places = [i for i, own in enumerate(is_asked) if own == kind]
            some, said = x.rows(places), [sentences[i] for i in places]
            out[places] = self._epsilon(asked if kind else wordless, some.z_t, some, said)
        return out

    def _image(self, t: int) -> float:
        return self.guidance.at(t).image if self.prior.has_null else 1.0

    def _target_coefficients(self, t: int) -> Mapping[Branch, float]:
        if self.prior.is_distilled:
            return {"IT": 1.0}
        return instruct_coefficients(self.guidance.at(t).text, self._image(t))

    def _source_coefficients(self, t: int) -> Mapping[Branch, float]:
        return {"IT": 1.0} if self.prior.is_distilled else instruct_source_coefficients(self._image(t))

    def _epsilon(
        self, coefficients: Mapping[Branch, float], x_t: Latents, x: Noised, sentences: Sequence[str]
    ) -> Latents:
        shown = None if self.anchors is None else self.anchors.shown_to(x.index)
        return epsilon(self.prior, coefficients, x_t, x, sentences, self.negative, shown)


@dataclass(frozen=True, eq=False)
class GuidedEditorScore(EditorScore):
    """That of an editor which can do without the source too. Satisfies `SplitScore`."""

    def is_guided(self, t: int) -> bool:
        """See `SplitScore`."""
        return self._image(t) != 1

    def unconditional(self, x: Noised, side: Side) -> Latents:
        """See `SplitScore`."""
        c_0, x_t = self._source_coefficients(x.t)["00"], x.z_t if side == "target" else x.s_t
        return c_0 * self._epsilon({"00": 1.0}, x_t, x, self.texts.of(x.index))

    def conditional(self, x: Noised, side: Side) -> Latents:
        """See `SplitScore`."""
        _, rest, wordless = _split(self._source_coefficients(x.t))
        if side == "source":
            return rest * self._epsilon(wordless, x.s_t, x, self.texts.of(x.index))
        return rest * self._target(x, _split(self._target_coefficients(x.t))[2], wordless)


@dataclass(frozen=True, eq=False)
class CaptionScore:
    """The Score of a text-to-image model. Make one with `FamilyTextToImage.score`."""

    prior: InBranches
    texts: Texts
    source_texts: Texts | None
    negative: str
    guidance: Guidance

    @property
    def schedule(self) -> Schedule:
        """The prior's."""
        return self.prior.schedule

    def target(self, x: Noised) -> Latents:
        """Guided noise prediction for edited particles under their captions."""
        return self._epsilon(self.texts, x.z_t, x, self.guidance.at(x.t).text)

    def source(self, x: Noised) -> Latents:
        """The same for the noisy sources under the caption of the source. Raises ValueError if there is none."""
        return self._epsilon(self._require_source(), x.s_t, x, self.guidance.at(x.t).source_text)

    def _require_source(self) -> Texts:
        if self.source_texts is None:
            raise ValueError(
                "source_prompt: expected a caption of the source, with which the result is compared, got none"
            )
        return self.source_texts

    def output(self, z_in: Latents, t: Num[Tensor, ""], index: Index) -> Float32[Tensor, "n c h w"]:
        """See `SampledScore`. Guided as the pipeline does it, at all levels; that may keep the norm of the branch with
        the text."""
        w = 1.0 if self.prior.is_distilled else self.guidance.text
        branches: tuple[Branch, ...] = ("IT",) if w == 1 else ("00", "IT")
        with self.prior.showing(index, None, z_in.shape):
            said = self.prior.predict(branches, z_in, float(t), z_in, self.texts.of(index), self.negative)
        layout, c = self.prior.family.layout, self.prior.codec.channels
        rows: dict[Branch, Tensor] = {b: tokens(out, layout, channels=c) for b, out in zip(branches, said, strict=True)}
        return untokens(guided_like(self.prior.family, rows, w, 1.0), layout, z_in.shape)

    def _epsilon(self, texts: Texts, x_t: Latents, x: Noised, scale: float) -> Latents:
        w = 1.0 if self.prior.is_distilled else scale
        return epsilon(self.prior, {"00": 1 - w, "IT": w}, x_t, x, texts.of(x.index), self.negative)


@dataclass(frozen=True, eq=False)
class GuidedCaptionScore(CaptionScore):
    """That of a model which is guided. Satisfies `SplitScore`."""

    def is_guided(self, t: int) -> bool:
        """See `SplitScore`."""
        scales = self.guidance.at(t)
        return scales.text != 1 or scales.source_text != 1

    def unconditional(self, x: Noised, side: Side) -> Latents:
        """See `SplitScore`."""
        texts, scale, x_t = self._side(x, side)
        return (1 - scale) * self._epsilon(texts, x_t, x, 0.0)

    def conditional(self, x: Noised, side: Side) -> Latents:
        """See `SplitScore`."""
        texts, scale, x_t = self._side(x, side)
        return scale * self._epsilon(texts, x_t, x, 1.0)

    def _side(self, x: Noised, side: Side) -> tuple[Texts, float, Latents]:
        """The captions of a side, its guidance scale and its noisy latents."""
        scales = self.guidance.at(x.t)
        if side == "target":
            return self.texts, scales.text, x.z_t
        return self._require_source(), scales.source_text, x.s_t


def _split(coefficients: Mapping[Branch, float]) -> tuple[float, float, dict[Branch, float]]:
    return split(coefficients, "00")


def epsilon(
    prior: InBranches,
    coefficients: Mapping[Branch, float],
    x_t: Float[Tensor, "n c h w"],
    x: Noised,
    sentences: Sequence[str],
    negative: str,
    shown: References | None = None,
) -> Float[Tensor, "n c h w"]:
    """Guided noise prediction for `x_t`, particles or sources of `x`, in its precision and on its device.

    As the coefficients of the branches add up to 1, what the guided output means is the guided meaning of outputs.
    """
    level = prior.levels.at(x.t)
    z_in = level.scale * x_t.to(prior.device).float()
    with prior.showing(x.index, x.s, x.s.shape):
        out = guided(
            coefficients, lambda branches: prior.predict(branches, z_in, level.time, x.s, sentences, negative, shown)
        )
    return level.epsilon(out, x_t.to(out)).to(x_t)
