"""The score of an instruction editor (InstructPix2Pix, Brooks et al. 2023), and its ordinary sampler.

Its UNet reads a noisy latent beside the latent of the source image, and a sentence. Three branches make one prediction:

    branch    source image    sentence
    00        zeros           the negative one, usually ""
    I0        s               the negative one
    IT        s               the instruction

The source prediction of CSD-Edit has no sentence, so it takes the first two only: five UNet rows a particle, not six.
Branches that the guidance scales make count for nothing are left out (see `csd3d.engine.guidance`).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from jaxtyping import Float, Float32, Int64, Num
from torch import Tensor

from csd3d.attention.control import Control
from csd3d.attention.rows import Role, Rows
from csd3d.attention.score import MapEnergy, MapsRead
from csd3d.attention.sites import Site
from csd3d.attention.words import Tokens
from csd3d.engine.config import CsdConfig
from csd3d.engine.guidance import InstructBranch, guided, instruct_coefficients, instruct_source_coefficients, split
from csd3d.engine.regularisers import FeatureLoss, FeatureSite
from csd3d.engine.reuse import Side
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Index, Latents, Noised, numbers
from csd3d.priors.families.table import Kind
from csd3d.priors.latent_diffusion import LatentDiffusion
from csd3d.priors.networks.denoiser import MakeRowsOf, from_epsilon, ready, to_epsilon
from csd3d.priors.networks.sampler import Sampler
from csd3d.priors.prior import Guidance, Prompts, require_no_source
from csd3d.priors.prompts.sentences import Sentences

SEEING: frozenset[InstructBranch] = frozenset({"I0", "IT"})
"""Branches that are given the source image."""
READING: frozenset[InstructBranch] = frozenset({"IT"})
"""Branches that are given the instruction."""


@dataclass(frozen=True, eq=False)
class InstructPrior(LatentDiffusion):
    """An instruction editor, loaded. Make one with `InstructPrior.load`."""

    kind: ClassVar[Kind] = "instruct"

    def require(self, csd: CsdConfig, prompts: Prompts) -> None:
        """Raises ValueError for layers that the UNet has not, and for a source prompt."""
        super().require(csd, prompts)
        require_no_source(prompts, csd)

    def condition(self, s: Latents) -> Latents:
        """Source latents as the UNet reads them beside the noisy ones: unscaled, as the editor was trained."""
        return s if self.how.scaled_condition else s / self.codec.scaling

    def score(self, prompts: Prompts, guidance: Guidance) -> "InstructScore":
        """The engine's Score for instructions. Raises as `Prior.score` does, and ValueError for a source prompt."""
        require_no_source(prompts)
        return InstructScore(self, self.encode_target(prompts), guidance)

    @torch.no_grad()
    def sample(
        self,
        rgb: Float[Tensor, "n 3 H W"],
        prompts: Prompts,
        guidance: Guidance,
        *,
        rng: torch.Generator,
        steps: int = 20,
        noise: Float[Tensor, "m c h w"] | None = None,
        sampler: Sampler = "own",
    ) -> Float[Tensor, "n 3 H W"]:
        """Edit each picture for itself, as the diffusers pipeline does: the baseline that collaboration is measured on.

        Args:
            rgb: Pictures in [0, 1], sides multiples of `codec.factor`.
            prompts: One instruction, or one a picture.
            rng: On the CPU. Draws the first noise, and that of the steps when the sampler is a random one.
            steps: Denoising steps.
            noise: The first noise, unit variance, instead of drawing it; one row (m = 1) is shared by all pictures.
            sampler: "own", the class that the prior's directory names, or "ddim".

        Raises:
            ValueError, UnknownPrompt: As `score` does.
        """
        score = self.score(prompts, guidance)
        s = self.codec.encode(rgb).to(self.device)
        index = torch.arange(len(s))

        def predict(z_in: Tensor, t: Tensor) -> Tensor:
            return score.predict(instruct_coefficients(guidance.text, guidance.image), z_in, t, s, index)

        z = self.denoise(predict, s.shape, noise, rng, steps=steps, sampler=sampler)
        return self.codec.decode(z).to(rgb.device)


@dataclass(frozen=True, eq=False)
class InstructScore:
    """The Score that the engine drives, for one or several instructions. Make one with `InstructPrior.score`."""

    prior: InstructPrior
    sentences: Sentences
    guidance: Guidance

    @property
    def schedule(self) -> Schedule:
        """The prior's."""
        return self.prior.schedule

    def target(self, x: Noised) -> Latents:
        """Guided noise prediction for edited particles, given their sources and the instruction. At most three UNet
        rows each; two at s_text = s_image, one where both are 1.

        Latents may be in any precision, on any device; the prediction comes back in the same. Sources are clean and
        scaled; the number of each particle in the whole set picks its sentence.
        """
        guidance = self.guidance.at(x.t)
        coefficients = instruct_coefficients(guidance.text, guidance.image)
        return self._epsilon(coefficients, x.z_t, x, role="target")

    def source(self, x: Noised) -> Latents:
        """The same for the noisy sources themselves, without the instruction. Two UNet rows each, or one."""
        return self._epsilon(instruct_source_coefficients(self.guidance.at(x.t).image), x.s_t, x, role="source")

    def is_guided(self, t: int) -> bool:
        """See `SplitScore`."""
        return self.guidance.at(t).image != 1

    def unconditional(self, x: Noised, side: Side) -> Latents:
        """See `SplitScore`. One row each."""
        c_0, _, _ = self._split(x.t, side)
        return c_0 * self._epsilon({"00": 1.0}, x.z_t if side == "target" else x.s_t, x, role=side)

    def conditional(self, x: Noised, side: Side) -> Latents:
        """See `SplitScore`. Two rows for a particle, one at s_text = s_image; one for a source."""
        _, rest, coefficients = self._split(x.t, side)
        return rest * self._epsilon(coefficients, x.z_t if side == "target" else x.s_t, x, role=side)

    def _split(self, t: int, side: Side) -> tuple[float, float, dict[InstructBranch, float]]:
        scales = self.guidance.at(t)
        of_target = instruct_coefficients(scales.text, scales.image)
        return split(of_target if side == "target" else instruct_source_coefficients(scales.image), "00")

    @property
    def sites(self) -> tuple[Site, ...]:
        """Those of the prior's UNet."""
        return self.prior.denoiser.sites

    @property
    def source_branch(self) -> Mapping[str, str]:
        """A source has no sentence: IT is compared with I0."""
        return {"00": "00", "I0": "I0", "IT": "I0"}

    @property
    def wordless_branch(self) -> Mapping[str, str]:
        """Without the instruction IT is I0."""
        return self.source_branch

    def read(self, role: Role) -> tuple[Tokens, ...]:
        """The instructions; none of sources."""
        return self.sentences.tokens[1:] if role == "target" else ()

    def encode(self, sentences: Sequence[str]) -> tuple[Float[Tensor, "k l d"], tuple[Tokens, ...]]:
        """Embeddings and tokens of instructions. Raises UnknownPrompt for those that the prior does not know."""
        return self.prior.embed(sentences), tuple(self.prior.text.tokens(self.prior.known(s)) for s in sentences)

    def target_branch(self, x: Noised, branch: str) -> Latents:
        """One row each."""
        return self._epsilon({cast(InstructBranch, branch): 1.0}, x.z_t, x, role="target")

    def noise_in(self, output: Latents, x: Noised) -> Latents:
        """See `Controllable`."""
        return to_epsilon(output, x.z_t, x.t, schedule=self.schedule, prediction=self.prior.prediction)

    def output_of(self, e: Latents, x: Noised) -> Latents:
        """See `Controllable`."""
        return from_epsilon(e, x.z_t, x.t, schedule=self.schedule, prediction=self.prior.prediction)

    def controlled(self, controls: Sequence[Control]) -> AbstractContextManager[None]:
        """Within the context its predictions are controlled. Raises ValueError where that cannot be done."""
        return self.prior.denoiser.controlled(controls)

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
        """See `Steerable`: the row IT."""
        assert s is not None  # as particles of an editor have sources
        condition = self.prior.condition(s.to(self.prior.device))
        return self.prior.read_energy(
            z_t, t, index, branch="IT", sentences=self.sentences, condition=condition, sites=sites,
            energy=energy, controls=controls, gradient=gradient,
        )  # fmt: skip

    def feature_gradient(self, x: Noised, site: FeatureSite, loss: FeatureLoss) -> Latents:
        """Gradient of a loss between features of particles (branch IT) and of their sources (branch I0)."""
        device = self.prior.device
        condition = self.prior.condition(x.s.to(device))
        sentence = ready(self.sentences.rows(x.index), device)

        def rows_of(number: Int64[Tensor, " n"]) -> MakeRowsOf:
            return lambda z, i: (torch.cat([z, condition[i]], dim=1), self.sentences.text[number[i]])

        return self.prior.denoiser.feature_gradient(
            x.z_t.to(device),
            x.s_t.to(device),
            x.t,
            make_target=rows_of(sentence),
            make_source=rows_of(torch.zeros_like(sentence)),
            layers=site,
            loss=loss,
        ).to(x.z_t)

    def perceptual_features(self, z: Latents) -> Float[Tensor, "n d"]:
        """Of the prior's codec, for kernels on perceptual distance."""
        return self.prior.codec.perceptual_features(z).to(z)

    @torch.no_grad()
    def predict(
        self,
        coefficients: Mapping[InstructBranch, float],
        z_in: Latents,
        t: int | Num[Tensor, ""],
        s: Latents,
        index: Index,
        *,
        role: Role = "target",
    ) -> Float32[Tensor, "n c h w"]:
        """The guided output of the UNet (epsilon or v), on the prior's device."""
        device = self.prior.device
        z_in, n = z_in.to(device), len(z_in)
        condition = self.prior.condition(s.to(device))
        read = self.sentences.rows(index)
        sentence, said_by, particles = ready(read, device), numbers(read), numbers(index)

        def branches(names: Sequence[InstructBranch]) -> Sequence[Tensor]:
            sees, reads = (ready([name in some for name in names], device) for some in (SEEING, READING))

            def rows(r: Int64[Tensor, " r"]) -> tuple[Tensor, Tensor]:
                branch, i = r // n, r % n
                seen = torch.where(sees[branch][:, None, None, None], condition[i], 0.0)
                number = torch.where(reads[branch], sentence[i], 0)
                return torch.cat([z_in[i], seen], dim=1), self.sentences.text[number]

            named = Rows.of(
                role,
                names,
                particles,
                lambda name, i: self.sentences.tokens[said_by[i] if name in READING else 0],
                noise=float(t) / self.schedule.num_timesteps,
                size_lat=(z_in.shape[-2], z_in.shape[-1]),
            )
            outputs = self.prior.denoiser.predict(rows, named, t)
            return outputs.chunk(len(names))

        with self.prior.showing(index, s, z_in.shape):
            return guided(coefficients, branches)

    def _epsilon(self, coefficients: Mapping[InstructBranch, float], x_t: Latents, x: Noised, *, role: Role) -> Latents:
        """Noise in `x_t`, particles or sources of `x`."""
        output = self.predict(coefficients, x_t, x.t, x.s, x.index, role=role).to(x_t)
        return to_epsilon(output, x_t.detach(), x.t, schedule=self.schedule, prediction=self.prior.prediction)
