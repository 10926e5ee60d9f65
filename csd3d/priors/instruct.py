"""The score of an instruction editor (InstructPix2Pix, Brooks et al. 2023), and its ordinary sampler.

Its UNet reads a noisy latent beside the latent of the source image, and a sentence. Three branches make one prediction:

    branch    source image    sentence
    00        zeros           ""
    I0        s               ""
    IT        s               the instruction

The source prediction of CSD-Edit has no sentence, so it takes the first two only: five UNet rows a particle, not six.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float32, Int, Int64, Num
from torch import Tensor

from csd3d.engine.guidance import instruct_guidance
from csd3d.engine.regularisers import FeatureLoss, Layers
from csd3d.engine.schedule import Schedule
from csd3d.priors.networks.denoiser import MakeRowsOf, to_epsilon
from csd3d.priors.prior import Prior, Sampler
from csd3d.priors.prompts.sentences import Sentences, encode_sentences
from csd3d.priors.store.resolve import Kind


@dataclass(frozen=True, eq=False)
class InstructPrior(Prior):
    """An instruction editor, loaded. Make one with `InstructPrior.load`."""

    kind: ClassVar[Kind] = "instruct"

    def score(
        self,
        prompt: str | Sequence[str],
        *,
        s_text: float,
        s_image: float,
        assign: Int[Tensor, " m"] | None = None,
    ) -> "InstructScore":
        """The engine's Score for an instruction.

        Args:
            prompt: One sentence for all particles, or several. "" means no instruction.
            s_text: Text guidance.
            s_image: Image guidance.
            assign: With several sentences: particle i takes sentence `assign[i]`. None: particle i takes sentence i.

        Raises:
            UnknownPrompt: The prior knows a closed set of sentences, and one of these is not among them.
            ValueError: No sentence, or `assign` points past the last one.
        """
        return InstructScore(self, encode_sentences(self._text, prompt, assign, self._known), s_text, s_image)

    @torch.no_grad()
    def sample(
        self,
        rgb: Float[Tensor, "n 3 H W"],
        prompt: str | Sequence[str],
        *,
        s_text: float,
        s_image: float,
        rng: torch.Generator,
        steps: int = 20,
        noise: Float[Tensor, "m c h w"] | None = None,
        sampler: Sampler = "own",
    ) -> Float[Tensor, "n 3 H W"]:
        """Edit each picture for itself, as the diffusers pipeline does: the baseline that collaboration is measured on.

        Args:
            rgb: Pictures in [0, 1], sides multiples of `codec.factor`.
            prompt: One sentence, or one a picture.
            rng: On the CPU. Draws the first noise, and that of the steps when the sampler is a random one.
            steps: Denoising steps.
            noise: The first noise, unit variance, instead of drawing it; one row (m = 1) is shared by all pictures.
            sampler: "own", the class that the prior's directory names, or "ddim".

        Raises:
            ValueError, UnknownPrompt: As `score` does.
        """
        score = self.score(prompt, s_text=s_text, s_image=s_image)
        s = self.codec.encode(rgb).to(self.device)
        index = torch.arange(len(s), device=self.device)

        def predict(z_in: Tensor, t: Tensor) -> Tensor:
            return instruct_guidance(*score.branches(z_in, t, s, index, count=3), s_text=s_text, s_image=s_image)

        z = self.denoise(predict, s.shape, noise, rng, steps=steps, sampler=sampler)
        return self.codec.decode(z).to(rgb.device)


@dataclass(frozen=True, eq=False)
class InstructScore:
    """The Score that the engine drives, for one or several instructions. Make one with `InstructPrior.score`."""

    prior: InstructPrior
    sentences: Sentences
    s_text: float
    s_image: float

    @property
    def schedule(self) -> Schedule:
        """The prior's."""
        return self.prior.schedule

    def target(
        self, z_t: Float[Tensor, "n c h w"], t: int, s: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """Guided noise prediction for edited particles, given their sources and the instruction. Three UNet rows each.

        Args:
            z_t: Noisy latents, in any precision, on any device; the prediction comes back in the same.
            t: Timestep of the prior's training.
            s: Clean, scaled latents of the sources.
            index: Global number of each particle, which picks its sentence.
        """
        e_00, e_I0, e_IT = self._epsilons(z_t, t, s, index, count=3)
        return instruct_guidance(e_00, e_I0, e_IT, s_text=self.s_text, s_image=self.s_image)

    def source(
        self, s_t: Float[Tensor, "n c h w"], t: int, s: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """The same for the noisy sources themselves, without the instruction. Two UNet rows each."""
        e_00, e_I0 = self._epsilons(s_t, t, s, index, count=2)
        return instruct_guidance(e_00, e_I0, e_I0, s_text=self.s_text, s_image=self.s_image)

    def feature_gradient(
        self,
        z_t: Float[Tensor, "n c h w"],
        s_t: Float[Tensor, "n c h w"],
        t: int,
        s: Float[Tensor, "n c h w"],
        index: Int[Tensor, " n"],
        *,
        layers: Layers,
        loss: FeatureLoss,
    ) -> Float[Tensor, "n c h w"]:
        """Gradient of a loss between features of particles (branch IT) and of their sources (branch I0)."""
        device = self.prior.device
        condition = s.to(device) / self.prior.codec.scaling
        sentence = self.sentences.rows(index).to(device)

        def rows_of(said: Int64[Tensor, " n"]) -> MakeRowsOf:
            return lambda z, i: (torch.cat([z, condition[i]], dim=1), self.sentences.text[said[i]])

        return self.prior._denoiser.feature_gradient(
            z_t.to(device),
            s_t.to(device),
            t,
            make_target=rows_of(sentence),
            make_source=rows_of(torch.zeros_like(sentence)),
            layers=layers,
            loss=loss,
        ).to(z_t)

    @torch.no_grad()
    def branches(
        self,
        z_in: Float[Tensor, "n c h w"],
        t: int | Num[Tensor, ""],
        s: Float[Tensor, "n c h w"],
        index: Int[Tensor, " n"],
        *,
        count: Literal[2, 3],
    ) -> tuple[Float32[Tensor, "n c h w"], ...]:
        """What the UNet itself says (epsilon or v) in the first `count` branches 00, I0, IT, on the prior's device."""
        device = self.prior.device
        z_in, n = z_in.to(device), len(z_in)
        condition = s.to(device) / self.prior.codec.scaling  # the editor was trained on unscaled source latents
        sentence = self.sentences.rows(index).to(device)

        def rows(r: Int64[Tensor, " r"]) -> tuple[Tensor, Tensor]:
            branch, i = r // n, r % n
            seen = torch.where((branch >= 1)[:, None, None, None], condition[i], 0.0)
            said = torch.where(branch == 2, sentence[i], 0)
            return torch.cat([z_in[i], seen], dim=1), self.sentences.text[said]

        height_lat, width_lat = z_in.shape[-2:]
        outputs = self.prior._denoiser.predict(rows, count * n, t, size_lat=(height_lat, width_lat))
        return outputs.chunk(count)

    def _epsilons(
        self, z_t: Tensor, t: int, s: Tensor, index: Tensor, *, count: Literal[2, 3]
    ) -> list[Float[Tensor, "n c h w"]]:
        return [
            to_epsilon(output.to(z_t), z_t.detach(), t, schedule=self.schedule, prediction=self.prior.prediction)
            for output in self.branches(z_t, t, s, index, count=count)
        ]
