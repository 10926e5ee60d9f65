"""The score of a text-to-image model (Stable Diffusion 1.x and 2.x), and its ordinary sampler.

Its UNet reads a noisy latent and a caption; two branches, without and with the caption, make one prediction at text
guidance w:

    eps_w(z_t | y) = eps(z_t | y_neg) + w (eps(z_t | y) - eps(z_t | y_neg))        w = 1 needs one branch

y_neg is the negative prompt, usually "".

The target caption says what the result is to show. The source caption, for the source baseline of DDS and CDS, says
what the source shows; SDS and CSD have none.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from jaxtyping import Float, Float32, Int64, Num
from torch import Tensor

from csd3d.attention.attended import AttendedScore
from csd3d.attention.control import Control
from csd3d.attention.presets import Attention
from csd3d.attention.rows import Role, Rows
from csd3d.attention.score import MapEnergy, MapsRead
from csd3d.attention.sites import Site
from csd3d.attention.words import Tokens
from csd3d.engine.config import CsdConfig
from csd3d.engine.guidance import TextBranch, guided, text_coefficients
from csd3d.engine.regularisers import FeatureLoss, FeatureSite
from csd3d.engine.reuse import Side
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Index, Latents, Noised, numbers
from csd3d.priors.composed import Composed, Stage, sample_composed
from csd3d.priors.families.table import Kind
from csd3d.priors.latent_diffusion import LatentDiffusion
from csd3d.priors.networks.denoiser import MakeRowsOf, from_epsilon, ready, to_epsilon
from csd3d.priors.networks.sampler import Sampler
from csd3d.priors.prior import Guidance, Prior, Prompts, TextToImage, require_source_caption
from csd3d.priors.prompts.sentences import Sentences


@dataclass(frozen=True, eq=False)
class TextToImagePrior(LatentDiffusion, TextToImage):
    """A text-to-image model, loaded. Make one with `TextToImagePrior.load`."""

    kind: ClassVar[Kind] = "text-to-image"

    def require(self, csd: CsdConfig, prompts: Prompts) -> None:
        """Raises ValueError for layers that the UNet has not, and where a caption of the source is wanted."""
        super().require(csd, prompts)
        require_source_caption(self.name, csd, prompts)

    def score(self, prompts: Prompts, guidance: Guidance) -> "TextToImageScore":
        """The engine's Score for a caption of the result and, for the source baseline, one of the source.

        `guidance.text` is the scale of both captions, unless `guidance.source` is that of the source's. Raises as
        `Prior.score` does.
        """
        target, source = self.encode_target(prompts), self.encode_source(prompts)
        return TextToImageScore(self, target, source, guidance)

    @torch.no_grad()
    def sample(
        self,
        prompts: Prompts,
        guidance: Guidance,
        count: int,
        *,
        size_lat: tuple[int, int],
        rng: torch.Generator,
        steps: int = 50,
        noise: Float[Tensor, "m c h w"] | None = None,
        sampler: Sampler = "own",
        composed: Composed | None = None,
        attention: Attention | None = None,
    ) -> Float[Tensor, "{count} 3 H W"]:
        """Make `count` pictures in [0, 1], each for itself, as the diffusers pipeline does.

        Args:
            prompts: One caption, or one a picture.
            size_lat: Height and width in latents (`codec.factor` pixels each).
            rng: On the CPU. Draws the first noise, and that of the steps when the sampler is a random one.
            steps: Denoising steps.
            noise: The first noise, unit variance, instead of drawing it; one row (m = 1) is shared by all pictures.
            sampler: "own", the class that the prior's directory names, or "ddim".
            composed: Steering, and choosing among noises; only "ddim" can be steered. `noise` then has the candidates
                of each picture one after another.
            attention: Compositions that need no source.

        Raises:
            ValueError, UnknownPrompt: As `score` does, and where the prior cannot serve what is asked for.
        """
        made = composed or Composed()
        if made.reads_maps and sampler != "ddim":
            raise ValueError(f"sampler: expected ddim where it is steered or picks, got {sampler}")
        guides = attention is not None and attention.guides
        if guides and sampler != "ddim":
            raise ValueError(f"sampler: expected ddim where attention guides (sag, like), got {sampler}")
        shape = (count * made.pick.among, self.codec.channels, *size_lat)
        if noise is None:
            noise = torch.randn(*shape, generator=rng)

        def stage(among: int) -> Stage:
            every = torch.arange(count)
            several = not isinstance(prompts.target, str) and len(prompts.target) > 1
            said_by = (every if prompts.assign is None else prompts.assign[:count]).repeat_interleave(among)
            score = self.score(replace(prompts, assign=said_by if several else None), guidance)
            controls = [] if attention is None else attention.alone(score, size_lat)
            index = torch.arange(count * among)
            attended = attention.over(score) if guides and attention is not None else score

            def predict(z_in: Tensor, t: Tensor) -> Tensor:
                if isinstance(attended, AttendedScore):
                    x = Noised.from_noisy(z_in, int(t), torch.full_like(z_in, torch.nan), index)
                    e = [attended.target(x.rows([i])) for i in range(len(z_in))]  # each picture for itself
                    return score.output_of(torch.cat(e), x)
                with score.controlled(controls) if controls else nullcontext():
                    return score.output(z_in, t, index)

            return Stage(predict, made.steer(score, steps, builtin=self.builtin, controls=controls))

        if sampler != "ddim":
            z = self.denoise(stage(1).predict, shape, noise, rng, steps=steps, sampler=sampler)
        else:
            z = sample_composed(self, made, stage, noise.expand(*shape), rng=rng, steps=steps)
        return self.codec.decode(z)


def require_stable(prior: Prior) -> TextToImagePrior:
    """The prior, if it is one of this kind. Raises ValueError for others."""
    if not isinstance(prior, TextToImagePrior):
        got = "an instruction editor" if prior.kind == "instruct" else "one of another family"
        wanted = "a text-to-image model of Stable Diffusion 1 or 2, whose UNet learns"
        raise ValueError(f"prior {prior.name!r}: expected {wanted}, got {got}")
    return prior


@dataclass(frozen=True, eq=False)
class TextToImageScore:
    """The Score that the engine drives. Make one with `TextToImagePrior.score`."""

    prior: TextToImagePrior
    prompt: Sentences
    source_prompt: Sentences | None
    guidance: Guidance

    @property
    def schedule(self) -> Schedule:
        """The prior's."""
        return self.prior.schedule

    def target(self, x: Noised) -> Latents:
        """Guided noise prediction for edited particles under their caption. Two UNet rows each, one without guidance.

        Latents may be in any precision, on any device; the prediction comes back in the same. Clean sources are not
        used; the number of each particle in the whole set picks its caption.
        """
        return self._epsilon(self.prompt, x.z_t, x, role="target")

    def source(self, x: Noised) -> Latents:
        """The same for the noisy sources under the caption of the source. Raises ValueError if there is none."""
        return self._epsilon(self._require_source(), x.s_t, x, role="source")

    def is_guided(self, t: int) -> bool:
        """See `SplitScore`."""
        scales = self.guidance.at(t)
        return scales.text != 1 or scales.source_text != 1

    def unconditional(self, x: Noised, side: Side) -> Latents:
        """See `SplitScore`. One row each."""
        caption, scale, x_t = self._side(x, side)
        return (1 - scale) * self._epsilon(caption, x_t, x, role=side, coefficients={"null": 1.0})

    def conditional(self, x: Noised, side: Side) -> Latents:
        """See `SplitScore`. One row each."""
        caption, scale, x_t = self._side(x, side)
        return scale * self._epsilon(caption, x_t, x, role=side, coefficients={"text": 1.0})

    def _side(self, x: Noised, side: Side) -> tuple[Sentences, float, Latents]:
        """The captions of a side, its guidance scale and its noisy latents."""
        scales = self.guidance.at(x.t)
        if side == "target":
            return self.prompt, scales.text, x.z_t
        return self._require_source(), scales.source_text, x.s_t

    @property
    def sites(self) -> tuple[Site, ...]:
        """Those of the prior's UNet."""
        return self.prior.denoiser.sites

    @property
    def source_branch(self) -> Mapping[str, str]:
        """Every branch is compared with the same of the source."""
        return {"null": "null", "text": "text"}

    @property
    def wordless_branch(self) -> Mapping[str, str]:
        """Without a caption there is one branch."""
        return {"null": "null", "text": "null"}

    def read(self, role: Role) -> tuple[Tokens, ...]:
        """The captions of targets, or of sources if there are any."""
        caption = self.prompt if role == "target" else self.source_prompt
        return () if caption is None else caption.tokens[1:]

    def target_branch(self, x: Noised, branch: str) -> Latents:
        """One row each."""
        alone: dict[TextBranch, float] = {cast(TextBranch, branch): 1.0}
        output = self.predict(self.prompt, x.z_t, x.t, x.index, coefficients=alone, s=x.s).to(x.z_t)
        return self.noise_in(output, x)

    def noise_in(self, output: Latents, x: Noised) -> Latents:
        """See `Controllable`."""
        return to_epsilon(output, x.z_t, x.t, schedule=self.schedule, prediction=self.prior.prediction)

    def output_of(self, e: Latents, x: Noised) -> Latents:
        """See `Controllable`."""
        return from_epsilon(e, x.z_t, x.t, schedule=self.schedule, prediction=self.prior.prediction)

    def controlled(self, controls: Sequence[Control]) -> AbstractContextManager[None]:
        """Within the context its predictions are controlled. Raises ValueError where that cannot be done."""
        return self.prior.denoiser.controlled(controls)

    def encode(self, sentences: Sequence[str]) -> tuple[Float[Tensor, "k l d"], tuple[Tokens, ...]]:
        """Embeddings and tokens of captions. Raises UnknownPrompt for words that the prior does not know, and
        ValueError where parts of the network read different texts."""
        if self.prior.text.readers > 1:
            raise ValueError("structure: expected words that all layers read alike, got an embedding for each layer")
        return self.prior.embed(sentences), tuple(self.prior.text.tokens(self.prior.known(s)) for s in sentences)

    def read_energy(
        self,
        z_t: Latents,
        t: int,
        index: Index,
        *,
        sites: Sequence[Site],
        energy: MapEnergy,
        s: Latents | None = None,
        controls: Sequence[Control] = (),
        gradient: bool = True,
    ) -> MapsRead:
        """See `Steerable`: the row without guidance that reads the caption."""
        return self.prior.read_energy(
            z_t, t, index, branch="text", sentences=self.prompt, sites=sites, energy=energy, controls=controls,
            gradient=gradient,
        )  # fmt: skip

    def feature_gradient(self, x: Noised, site: FeatureSite, loss: FeatureLoss) -> Latents:
        """Gradient of a loss between features of particles and of sources, each under its own caption, unguided.

        Raises ValueError if there is no caption of the source.
        """
        device = self.prior.device
        target, source = self.prompt, self._require_source()

        def rows_of(caption: Sentences) -> MakeRowsOf:
            sentence = ready(caption.rows(x.index), device)
            return lambda z, i: (z, caption.text[sentence[i]])

        return self.prior.denoiser.feature_gradient(
            x.z_t.to(device),
            x.s_t.to(device),
            x.t,
            make_target=rows_of(target),
            make_source=rows_of(source),
            layers=site,
            loss=loss,
        ).to(x.z_t)

    def perceptual_features(self, z: Latents) -> Float[Tensor, "n d"]:
        """Of the prior's codec, for kernels on perceptual distance."""
        return self.prior.codec.perceptual_features(z).to(z)

    def _require_source(self) -> Sentences:
        if self.source_prompt is None:
            raise ValueError(
                "source_prompt: expected a caption of the source, with which the result is compared, got none"
            )
        return self.source_prompt

    def output(self, z_in: Latents, t: Num[Tensor, ""], index: Index) -> Float32[Tensor, "n c h w"]:
        """See `SampledScore`."""
        return self.predict(self.prompt, z_in, t, index)

    @torch.no_grad()
    def predict(
        self,
        caption: Sentences,
        z_in: Latents,
        t: int | Num[Tensor, ""],
        index: Index,
        *,
        role: Role = "target",
        coefficients: Mapping[TextBranch, float] | None = None,
        s: Latents | None = None,
    ) -> Float32[Tensor, "n c h w"]:
        """The guided output of the UNet (epsilon or v), on the prior's device. `coefficients` None: as guided at t; `s`
        are the sources, for a guard that looks at them."""
        device = self.prior.device
        z_in, n = z_in.to(device), len(z_in)
        read = caption.rows(index)
        sentence, said_by, particles = ready(read, device), numbers(read), numbers(index)

        def branches(names: Sequence[TextBranch]) -> Sequence[Tensor]:
            reads = ready([name == "text" for name in names], device)

            def rows(r: Int64[Tensor, " r"]) -> tuple[Tensor, Tensor]:
                branch, i = r // n, r % n
                return z_in[i], caption.text[torch.where(reads[branch], sentence[i], 0)]

            named = Rows.of(
                role,
                names,
                particles,
                lambda name, i: caption.tokens[said_by[i] if name == "text" else 0],
                noise=float(t) / self.schedule.num_timesteps,
                size_lat=(z_in.shape[-2], z_in.shape[-1]),
            )
            outputs = self.prior.denoiser.predict(rows, named, t)
            return outputs.chunk(len(names))

        guidance = self.guidance.at(float(t))
        scale = guidance.text if role == "target" else guidance.source_text
        with self.prior.showing(index, s, z_in.shape):
            return guided(coefficients or text_coefficients(scale), branches)

    def _epsilon(
        self,
        caption: Sentences,
        x_t: Latents,
        x: Noised,
        *,
        role: Role,
        coefficients: Mapping[TextBranch, float] | None = None,
    ) -> Latents:
        """Noise in `x_t`, particles or sources of `x`."""
        output = self.predict(caption, x_t, x.t, x.index, role=role, s=x.s, coefficients=coefficients).to(x_t)
        return to_epsilon(output, x_t.detach(), x.t, schedule=self.schedule, prediction=self.prior.prediction)
