"""A diffusers pipeline as a prior, and the score that the engine drives.

Guidance is that of the engine's other scores, over the branches that a family has:

    00 I0 IT   InstructPix2Pix, eq. 3        I0 IT   the same without a scale of the picture
    00 IT      text-to-image                 IT      no guidance (distilled)

The source prediction of an editor carries no text; a distilled one reads the empty sentence.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.attention.presets import Attention
from csd3d.engine.config import CsdConfig, Effort, Method
from csd3d.engine.residuals import Score
from csd3d.engine.sampling import By
from csd3d.engine.types import Latents
from csd3d.priors.defaults import GenerateMethod, Particle, default_config, generation_config
from csd3d.priors.families.calls import Arguments
from csd3d.priors.families.check import Learnt, fill
from csd3d.priors.families.codec import FamilyCodec
from csd3d.priors.families.conditions import Conditions, dtype_of
from csd3d.priors.families.levels import Levels
from csd3d.priors.families.record import network_of, stepper_of
from csd3d.priors.families.references import ReferringScore
from csd3d.priors.families.replay import laid, replay, signature, tokens, untokens
from csd3d.priors.families.scores import (
    CaptionScore,
    EditorScore,
    GuidedCaptionScore,
    GuidedEditorScore,
    References,
)
from csd3d.priors.families.table import Branch, Family
from csd3d.priors.memory import network_bytes
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.sampler import Predict, denoise
from csd3d.priors.prior import Guidance, Prior, Prompts, TextToImage, require_no_source, require_source_caption
from csd3d.priors.prompts.sentences import assign_texts
from csd3d.priors.store.silence import quiet


@dataclass(frozen=True, eq=False)
class FamilyPrior(Prior):
    """A pipeline, loaded and checked: `FamilyEditor` or `FamilyTextToImage`. Make one with `load_family`."""

    codec: FamilyCodec
    """Between pictures and latents."""
    family: Family
    """Its row of the table."""
    learnt: Learnt
    """What the check found."""
    levels: Levels
    """Its noise levels."""
    conditions: Conditions = field(repr=False)
    """What was recorded."""
    pipe: Any = field(repr=False)
    """The diffusers pipeline; its classes have no common type that says what they hold."""
    chunks: tuple[Chunks, ...] = field(repr=False)
    """How calls of its networks are split."""

    @property
    def is_distilled(self) -> bool:
        """Whether it predicts in one branch only, without guidance."""
        return self.learnt.branches == ("IT",)

    @property
    def has_null(self) -> bool:
        """Whether it has a branch without the condition that guidance leads to."""
        return "00" in self.learnt.branches or self.family.picture_optional

    @property
    def multiple_px(self) -> int:
        """Sides of its pictures are multiples of this many px."""
        return self.codec.multiple_px

    @property
    def looks_at_pictures(self) -> bool:
        """Whether it reads more of a source than its latents."""
        return self.learnt.looks or super().looks_at_pictures

    @property
    def notes(self) -> list[str]:
        """What happened so far that a person should know: settings without a meaning, chunks that were halved."""
        return [*self.said, *(note for chunks in self.chunks for note in chunks.notes)]

    @property
    def rows_done(self) -> int:
        """Of its network."""
        return self.chunks[0].done

    def defaults(
        self, method: Method | None = None, effort: Effort | None = None, *, by: By = "moves", of: Particle = "windows"
    ) -> CsdConfig:
        """Engine settings that suit it: those of the method at an effort, with the guidance of its family."""
        return default_config(method, builtin=False, effort=effort, family=self.family, by=by, of=of)

    def require(self, csd: CsdConfig, prompts: Prompts) -> None:
        """Raises ValueError for features of layers, which no family gives, and for prompts that it does not take."""
        if csd.regulariser != "none":
            raise ValueError(
                f"regulariser: expected none, {self.family.title} gives no features, got {csd.regulariser!r}"
            )
        if prompts.negative and not self.family.negative:
            raise ValueError(
                f"negative-prompt: expected none, which {self.family.title} takes, got {prompts.negative!r}"
            )

    def attended(self, score: Score, attention: Attention) -> Score:
        """See `Prior.attended`: of all that is none here but sharing, by editors that take several pictures."""
        if attention.share != "none":
            if not self.family.several:
                raise ValueError(
                    f"share: expected none, {self.family.title} cannot see other particles, got {attention.share!r}"
                )
            assert isinstance(score, EditorScore)
            own, attention = score, replace(attention, share="none")
            score = ReferringScore(own.schedule, lambda anchors: replace(own, anchors=anchors))
        return super().attended(score, attention)

    def note_scales(self, guidance: Guidance) -> None:
        """Note once which scales have no meaning here."""
        for scale, used, why in (
            ("s_text", not self.is_distilled or guidance.text == 1, "it is distilled and predicts without guidance"),
            ("s_image", self._guides_by_picture or guidance.image == 1, "it cannot predict without the picture"),
        ):
            note = f"{self.family.title}: {scale} does nothing, {why}"
            if not used and note not in self.said:
                self.said.append(note)

    @property
    def _guides_by_picture(self) -> bool:
        return self.kind != "instruct" or (self.has_null and not self.is_distilled)

    @torch.no_grad()
    def predict(
        self,
        branches: Sequence[Branch],
        x: Latents,
        time: float,
        s: Latents,
        sentences: Sequence[str],
        negative: str,
        references: References | None = None,
    ) -> list[Latents]:
        """What the network says in some branches of noisy latents as it reads them, at what its pipeline calls t.

        `s` are the sources of an editor, or any latents of the size; `references` more pictures that each particle's
        editor sees, as latents. On the prior's device, float32, in its own parametrisation.
        """
        z_in = tokens(x.to(self.device).float(), self.family.layout, channels=self.codec.channels)
        s = s.to(self.device).float()
        more = [[r.to(s) for r in some] for some in references or [[]] * len(s)]
        rows = [
            [self.conditions.row(b, said, negative, z, r) for said, z, r in zip(sentences, s, more, strict=True)]
            for b in branches
        ]
        return [
            untokens(self._say(branch, some, z_in, time, s, more), self.family.layout, x.shape)
            for branch, some in zip(branches, rows, strict=True)
        ]

    def _say(
        self, branch: Branch, rows: Sequence[Arguments], z_in: Tensor, time: float, s: Latents, more: References
    ) -> Tensor:  # fmt: skip
        """One branch: particles whose conditions have the same shapes share calls."""
        place, groups = self.learnt.place, dict[Any, list[int]]()
        for i, arguments in enumerate(rows):
            groups.setdefault(signature(arguments), []).append(i)
        out = torch.empty(z_in.shape, device=self.device)
        for members in groups.values():

            def some(piece: slice, members: list[int] = members) -> Tensor:
                which = members[piece]
                with nullcontext() if self.guard is None else self.guard.rows(which):
                    return replay(
                        network_of(self.pipe), [rows[i] for i in which], place, z_in[which], time=time,
                        condition=self._condition(branch, s[which], [more[i] for i in which]), device=self.device,
                    )  # fmt: skip

            row_bytes = self._row_bytes(z_in, pictures=2 + len(more[members[0]]))
            out[members] = self.chunks[0].map(some, len(members), row_bytes=row_bytes)
        return out

    def _condition(self, branch: Branch, s: Latents, more: References) -> Tensor | None:
        """What is put beside the latents of particles in a branch, whose conditions have the same shapes."""
        what = self.learnt.filled.get(branch)
        if what is None:
            return None
        pictures = [s, *(torch.stack(some) for some in zip(*more, strict=True))]
        return fill(what, pictures, self.family, self.codec, axis=self.learnt.place.axis)

    def _row_bytes(self, z_in: Tensor, *, pictures: int = 2) -> int:
        """Estimated memory of a row of the network, its condition included."""
        places, config = z_in.shape[1] if z_in.ndim == 3 else z_in[0, 0].numel(), network_of(self.pipe).config
        guarding = 0 if self.guard is None else self.guard.row_bytes(places)
        return guarding + network_bytes(config, places, itemsize=dtype_of(self.pipe).itemsize, pictures=pictures)


@dataclass(frozen=True, eq=False)
class FamilyEditor(FamilyPrior):
    """An instruction editor."""

    kind = "instruct"

    def require(self, csd: CsdConfig, prompts: Prompts) -> None:
        """Raises ValueError as every family does, and for a source prompt."""
        super().require(csd, prompts)
        require_no_source(prompts, csd)

    def score(self, prompts: Prompts, guidance: Guidance) -> "EditorScore":
        """The engine's Score for instructions. Raises ValueError for a source prompt, or no sentence."""
        require_no_source(prompts)
        self.note_scales(guidance)
        of = GuidedEditorScore if self._guides_by_picture else EditorScore
        return of(self, assign_texts(prompts.target, prompts.assign), prompts.negative, guidance)


@dataclass(frozen=True, eq=False)
class FamilyTextToImage(FamilyPrior, TextToImage):
    """A text-to-image model."""

    def generation(self, method: GenerateMethod) -> CsdConfig:
        """See `TextToImage.generation`; sampling is that of its pipeline."""
        return generation_config(method, builtin=False, family=self.family)

    def denoise(
        self,
        predict: Predict,
        shape: Sequence[int],
        noise: Float[Tensor, "m c h w"] | None,
        rng: torch.Generator,
        *,
        steps: int,
    ) -> Float[Tensor, "n c h w"]:
        """See `TextToImage.denoise`: by its own scheduler, set as its pipeline does for pictures of the size that the
        network sees at once."""
        sides = tuple(min(side, self.native_px // self.codec.factor) for side in shape[-2:])
        like = laid(torch.zeros(1, shape[1], *sides), self.family.layout, channels=self.codec.channels)
        like = like.to(self.device, dtype_of(self.pipe))
        size_px = (self.codec.factor * sides[0], self.codec.factor * sides[1])
        with quiet():
            stepper = stepper_of(self.pipe, self.family, like, size_px=size_px, steps=steps)
        return denoise(stepper, predict, shape, noise, rng, device=self.device)

    def require(self, csd: CsdConfig, prompts: Prompts) -> None:
        """Raises ValueError as every family does, and where a caption of the source is wanted."""
        super().require(csd, prompts)
        require_source_caption(self.name, csd, prompts)

    def score(self, prompts: Prompts, guidance: Guidance) -> "CaptionScore":
        """The engine's Score for a caption of the result and, for the source baseline, one of the source."""
        self.note_scales(guidance)
        several = prompts.source is not None and not isinstance(prompts.source, str) and len(prompts.source) > 1
        source = None
        if prompts.source is not None:
            source = assign_texts(prompts.source, prompts.assign if several else None, name="source_prompt")
        target = assign_texts(prompts.target, prompts.assign)
        of = CaptionScore if self.is_distilled else GuidedCaptionScore
        return of(self, target, source, prompts.negative, guidance)
