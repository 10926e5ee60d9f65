"""The score of a text-to-image model (Stable Diffusion 1.x and 2.x), and its ordinary sampler.

Its UNet reads a noisy latent and a caption; two branches, without and with the caption, make one prediction:

    eps_w(z_t | y) = eps(z_t | "") + w (eps(z_t | y) - eps(z_t | ""))        w = `s_text`; w = 1 needs one branch

The target caption says what the result is to show. The source caption, for the source baseline of DDS and CDS, says
what the source shows; SDS and CSD have none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float32, Int, Int64, Num
from torch import Tensor

from csd3d.engine.guidance import text_guidance
from csd3d.engine.regularisers import FeatureLoss, Layers
from csd3d.engine.schedule import Schedule
from csd3d.priors.networks.denoiser import MakeRowsOf, to_epsilon
from csd3d.priors.prior import Prior, Sampler
from csd3d.priors.prompts.sentences import Sentences, encode_sentences
from csd3d.priors.store.resolve import Kind


@dataclass(frozen=True, eq=False)
class TextToImagePrior(Prior):
    """A text-to-image model, loaded. Make one with `TextToImagePrior.load`."""

    kind: ClassVar[Kind] = "text-to-image"

    def score(
        self,
        prompt: str | Sequence[str],
        *,
        s_text: float,
        source_prompt: str | Sequence[str] | None = None,
        assign: Int[Tensor, " m"] | None = None,
    ) -> "TextToImageScore":
        """The engine's Score for a caption of the result and, for the source baseline, one of the source.

        Args:
            prompt: One caption for all particles, or several. "" means no text.
            s_text: Guidance scale of both captions; 1 = none.
            source_prompt: One caption of the source, or several. None: only the noise baseline can be used.
            assign: With several captions: particle i takes caption `assign[i]`. None: particle i takes caption i.

        Raises:
            UnknownPrompt: The prior knows a closed set of words, and a caption holds another one.
            ValueError: No caption, or `assign` points past the last one.
        """
        target = encode_sentences(self._text, prompt, assign, self._known)
        if source_prompt is None:
            return TextToImageScore(self, target, None, s_text)
        several = not isinstance(source_prompt, str) and len(source_prompt) > 1
        source = encode_sentences(
            self._text, source_prompt, assign if several else None, self._known, name="source_prompt"
        )
        return TextToImageScore(self, target, source, s_text)

    @torch.no_grad()
    def sample(
        self,
        prompt: str | Sequence[str],
        count: int,
        *,
        s_text: float,
        size_lat: tuple[int, int],
        rng: torch.Generator,
        steps: int = 50,
        noise: Float[Tensor, "m c h w"] | None = None,
        sampler: Sampler = "own",
    ) -> Float[Tensor, "{count} 3 H W"]:
        """Make `count` pictures in [0, 1], each for itself, as the diffusers pipeline does.

        Args:
            prompt: One caption, or one a picture.
            size_lat: Height and width in latents (`codec.factor` pixels each).
            rng: On the CPU. Draws the first noise, and that of the steps when the sampler is a random one.
            steps: Denoising steps.
            noise: The first noise, unit variance, instead of drawing it; one row (m = 1) is shared by all pictures.
            sampler: "own", the class that the prior's directory names, or "ddim".

        Raises:
            ValueError, UnknownPrompt: As `score` does.
        """
        score = self.score(prompt, s_text=s_text)
        index = torch.arange(count, device=self.device)

        def predict(z_in: Tensor, t: Tensor) -> Tensor:
            return score.predict(score.prompt, z_in, t, index)

        shape = (count, self.codec.channels, *size_lat)
        return self.codec.decode(self.denoise(predict, shape, noise, rng, steps=steps, sampler=sampler))


@dataclass(frozen=True, eq=False)
class TextToImageScore:
    """The Score that the engine drives. Make one with `TextToImagePrior.score`."""

    prior: TextToImagePrior
    prompt: Sentences
    source_prompt: Sentences | None
    s_text: float

    @property
    def schedule(self) -> Schedule:
        """The prior's."""
        return self.prior.schedule

    def target(
        self, z_t: Float[Tensor, "n c h w"], t: int, s: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """Guided noise prediction for edited particles under their caption. Two UNet rows each, one at `s_text` 1.

        Args:
            z_t: Noisy latents, in any precision, on any device; the prediction comes back in the same.
            t: Timestep of the prior's training.
            s: Not looked at.
            index: Global number of each particle, which picks its caption.
        """
        return self._epsilon(self.prompt, z_t, t, index)

    def source(
        self, s_t: Float[Tensor, "n c h w"], t: int, s: Float[Tensor, "n c h w"], index: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """The same for the noisy sources under the caption of the source. Raises ValueError if there is none."""
        return self._epsilon(self._require_source(), s_t, t, index)

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
        """Gradient of a loss between features of particles and of sources, each under its own caption, unguided.

        Raises ValueError if there is no caption of the source.
        """
        device = self.prior.device
        target, source = self.prompt, self._require_source()

        def rows_of(caption: Sentences) -> MakeRowsOf:
            sentence = caption.rows(index).to(device)
            return lambda z, i: (z, caption.text[sentence[i]])

        return self.prior._denoiser.feature_gradient(
            z_t.to(device),
            s_t.to(device),
            t,
            make_target=rows_of(target),
            make_source=rows_of(source),
            layers=layers,
            loss=loss,
        ).to(z_t)

    def _require_source(self) -> Sentences:
        if self.source_prompt is None:
            raise ValueError(
                "source_prompt: expected a caption of the source, with which the result is compared, got none"
            )
        return self.source_prompt

    @torch.no_grad()
    def predict(
        self, caption: Sentences, z_in: Float[Tensor, "n c h w"], t: int | Num[Tensor, ""], index: Int[Tensor, " n"]
    ) -> Float32[Tensor, "n c h w"]:
        """The guided output of the UNet (epsilon or v), on the prior's device."""
        device = self.prior.device
        z_in, n = z_in.to(device), len(z_in)
        sentence = caption.rows(index).to(device)
        guided = self.s_text != 1

        def rows(r: Int64[Tensor, " r"]) -> tuple[Tensor, Tensor]:
            branch, i = r // n, r % n
            said = torch.where(branch == 1, sentence[i], 0) if guided else sentence[i]
            return z_in[i], caption.text[said]

        height_lat, width_lat = z_in.shape[-2:]
        out = self.prior._denoiser.predict(rows, 2 * n if guided else n, t, size_lat=(height_lat, width_lat))
        return text_guidance(out[:n], out[n:], self.s_text) if guided else out

    def _epsilon(self, caption: Sentences, z_t: Tensor, t: int, index: Tensor) -> Float[Tensor, "n c h w"]:
        output = self.predict(caption, z_t, t, index).to(z_t)
        return to_epsilon(output, z_t.detach(), t, schedule=self.schedule, prediction=self.prior.prediction)
