"""Priors in the shape of Stable Diffusion: an autoencoder, a UNet, a CLIP text encoder and a scheduler, from diffusers.

One way of loading for editors and text-to-image models, big or small; how predictions are made is each kind's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from csd3d.attention.control import Control
from csd3d.attention.presets import Attention
from csd3d.attention.rows import Rows
from csd3d.attention.score import MapEnergy, MapsRead
from csd3d.attention.sites import Site
from csd3d.engine.config import CsdConfig
from csd3d.engine.residuals import Score
from csd3d.engine.types import Index, Latents, numbers
from csd3d.priors.defaults import native_px
from csd3d.priors.guards import load_guard
from csd3d.priors.loading import PLAIN, Loading
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.codec import VaeCodec
from csd3d.priors.networks.denoiser import Denoiser, Prediction, ready
from csd3d.priors.networks.sampler import Before, Predict, Sampler, denoise, fresh_scheduler
from csd3d.priors.networks.text import PromptEncoder, sentence_length
from csd3d.priors.prior import Prior, Prompts
from csd3d.priors.prompts.sentences import Sentences, encode_sentences
from csd3d.priors.prompts.vocabulary import Vocabulary
from csd3d.priors.prompts.words import Words, read_known, with_learnt
from csd3d.priors.store.additions import add_apart, add_to
from csd3d.priors.store.device import pick_device, pick_dtype
from csd3d.priors.store.load import load_parts, locate, read_schedule
from csd3d.priors.store.resolve import Resolved, require_kind, resolve
from csd3d.priors.store.savings import read_on, require_savings, save_memory

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

P = TypeVar("P", bound="LatentDiffusion")


@dataclass(frozen=True, eq=False)
class LatentDiffusion(Prior):
    """A latent diffusion model (Rombach et al. 2022), loaded: `InstructPrior` or `TextToImagePrior`."""

    codec: VaeCodec
    """Between pictures and latents."""
    vocabulary: Vocabulary | Words | None
    """What it understands; None when it takes any sentence."""
    dtype: torch.dtype
    """Precision of its networks."""
    prediction: Prediction
    """What its UNet predicts; scores are always epsilon."""
    denoiser: Denoiser = field(repr=False)
    """Its UNet."""
    text: PromptEncoder = field(repr=False)
    """Its text encoder."""
    scheduler: "SchedulerMixin" = field(repr=False)
    """As loaded; never changed."""
    chunks: tuple[Chunks, ...] = field(repr=False)
    """How calls of its networks are split."""

    @classmethod
    def load(
        cls: type[P],
        name: str | Path | Resolved = "builtin",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        offline: bool = False,
        memory_gb: float | None = None,
        compiled: bool = False,
        checkpointing: bool = False,
        how: Loading = PLAIN,
    ) -> P:
        """Load a prior.

        Args:
            name: "builtin:instruct" (= "builtin"), "builtin:t2i", a directory in diffusers layout, a safetensors file,
                a hub id, or what one of these was resolved to.
            device: None takes CUDA when there is one.
            dtype: Of the networks; None takes float16 on CUDA and float32 elsewhere. Scores and latents are float32.
            revision: Of a hub id: branch, tag or commit.
            offline: Ask the hub's cache only.
            memory_gb: For the activations of one UNet or codec call; None plans with what is free.
            compiled: Pass the UNet through torch.compile: slow to start, then faster.
            checkpointing: Where gradients go through the UNet (CDS), compute activations twice: slower, less memory.
            how: What is put into it.

        Raises:
            FileNotFoundError: There is no such directory, or the hub id cannot be had.
            ValueError: What is there cannot be read or is a prior of another kind, or a setting makes no sense.
        """
        resolved = name if isinstance(name, Resolved) else resolve(name, how)
        chosen = pick_device(device)
        precision = pick_dtype(dtype, chosen)
        found = locate(resolved, revision=revision, offline=offline or how.offline, half=precision != torch.float32)
        assert found.path is not None
        assert found.kind is not None
        require_kind(found, cls.kind)
        require_savings(how, chosen, whole=False)
        parts = load_parts(
            found.path, device=read_on(how, chosen), dtype=precision, kind=found.kind, weights=found.weights
        )
        vocabulary = with_learnt(read_known(found.path), how, title=found.name)
        said = add_to(parts.holder(), how, title=found.name) if how.lora or how.embedding else []
        length = sentence_length(parts.tokenizer, parts.text_encoder)
        learnt = add_apart(how, parts.tokenizer, parts.unet, length, title=found.name)
        if learnt and how.control is not None:
            raise ValueError("embedding: expected words that all layers read alike beside --control, got one for each")
        held = {"unet": parts.unet, "text_encoder": parts.text_encoder, "vae": parts.vae}
        also = save_memory(parts.unet, held, how, chosen)
        schedule, prediction = read_schedule(parts.scheduler)
        unet_chunks, codec_chunks = (Chunks(chosen, _budget_bytes(memory_gb), also=a) for a in (also, ()))
        codec = VaeCodec(parts.vae, chunks=codec_chunks)
        denoiser = Denoiser(parts.unet, chunks=unet_chunks, compiled=compiled, checkpointing=checkpointing)
        denoiser.guard = load_guard(how, parts.unet, codec, title=found.name, device=chosen)
        return cls(
            name=found.name,
            path=found.path,
            builtin=found.builtin,
            device=chosen,
            codec=codec,
            schedule=schedule,
            native_px=native_px(parts.unet.config, codec.factor),
            vocabulary=vocabulary,
            dtype=parts.unet.dtype,
            prediction=prediction,
            denoiser=denoiser,
            guard=denoiser.guard,
            text=PromptEncoder(parts.tokenizer, parts.text_encoder, learnt),
            scheduler=parts.scheduler,
            chunks=(unet_chunks, codec_chunks),
            how=how,
            weights=found.weights,
            said=said,
        )

    @property
    def notes(self) -> list[str]:
        """What happened so far that a person should know: what was put in, prompts that were cut, chunks halved."""
        return [*self.said, *self.text.notes, *(note for chunks in self.chunks for note in chunks.notes)]

    @property
    def rows_done(self) -> int:
        """Of its UNet."""
        return self.chunks[0].done

    def require(self, csd: CsdConfig, prompts: Prompts) -> None:
        """Raises ValueError if a regulariser asks for features of layers that the UNet has not."""
        if csd.regulariser != "none":
            self.denoiser.require_layers(csd.nce_layers)

    def attended(self, score: Score, attention: Attention) -> Score:
        """See `Prior.attended`. Raises ValueError too where layers are on several GPUs, which controls do not see."""
        if attention.asks and self.how.device_map != "none":
            raise ValueError(
                "attention: expected none (no --share, --attention, --steer) with --device-map balanced, got some"
            )
        return super().attended(score, attention)

    def copy_unet(self) -> nn.Module:
        """A copy of the UNet that learns, in float32 on the prior's device."""
        return self.denoiser.copy_unet()

    def embed(self, sentences: Sequence[str]) -> Float[Tensor, "k l d"]:
        """Text embeddings of sentences, float32 on the prior's device. Raises UnknownPrompt as scores do."""
        return self.text.encode([self.known(s) for s in sentences]).float().to(self.device)

    def encode_target(self, prompts: Prompts) -> Sentences:
        """The target sentences and the negative one, encoded. Raises what `score` raises for them."""
        return encode_sentences(self.text, prompts.target, prompts.assign, self.known, negative=prompts.negative)

    def encode_source(self, prompts: Prompts) -> Sentences | None:
        """The captions of the source and the negative one, encoded; None: there are none."""
        if prompts.source is None:
            return None
        several = not isinstance(prompts.source, str) and len(prompts.source) > 1
        assign = prompts.assign if several else None
        return encode_sentences(
            self.text, prompts.source, assign, self.known, negative=prompts.negative, name="source_prompt"
        )

    @property
    def things(self) -> tuple[str, ...]:
        """See `Prior.things`."""
        return self.vocabulary.groups.get("things", ()) if isinstance(self.vocabulary, Words) else ()

    def kinds_of(self, sentences: Sequence[str]) -> tuple[str, ...]:
        """See `Prior.kinds_of`. Raises UnknownPrompt for a sentence that it does not know."""
        if not self.builtin or not isinstance(self.vocabulary, Vocabulary):
            return ()
        return tuple(self.vocabulary.edits[self.vocabulary.lookup(sentence)[0]].kind for sentence in sentences)

    def known(self, sentence: str) -> str:
        """The sentence as the prior learnt it. Raises UnknownPrompt when it knows a closed set without this one."""
        return self.vocabulary.match(sentence) if self.vocabulary is not None and sentence.strip() else sentence.strip()

    def read_energy(
        self,
        z_t: Latents,
        t: int,
        index: Index,
        *,
        branch: str,
        sentences: Sentences,
        condition: Latents | None = None,
        sites: Sequence[Site],
        energy: MapEnergy,
        controls: Sequence[Control],
        gradient: bool,
    ) -> MapsRead:
        """See `Steerable.read_energy`: of the row of a branch that reads the sentence, and `condition` if there is one
        beside each noisy latent. Values come back where `z_t` is."""
        read = sentences.rows(index)
        sentence, said_by = ready(read, self.device), numbers(read)
        rows = Rows.of(
            "target",
            [branch],
            numbers(index),
            lambda _, i: sentences.tokens[said_by[i]],
            noise=float(t) / self.schedule.num_timesteps,
            size_lat=(z_t.shape[-2], z_t.shape[-1]),
        )

        def make(z: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
            x = z if condition is None else torch.cat([z, condition[i].to(z)], 1)
            return x, sentences.text[sentence[i]]

        found = self.denoiser.map_energy(
            z_t.to(self.device), t, rows, make=make, sites=sites, energy=energy, controls=controls, gradient=gradient
        )
        return found.where(z_t)

    def denoise(
        self,
        predict: Predict,
        shape: Sequence[int],
        noise: Float[Tensor, "m c h w"] | None,
        rng: torch.Generator,
        *,
        steps: int,
        sampler: Sampler = "ddim",
        before: Before | None = None,
        part: slice = slice(None),
    ) -> Float[Tensor, "n c h w"]:
        """Latents of `shape` from noise, as the diffusers pipelines make them; see `networks.sampler.denoise`."""
        stepper = fresh_scheduler(self.scheduler, sampler)
        stepper.set_timesteps(steps, device=self.device)
        return denoise(stepper, predict, shape, noise, rng, device=self.device, before=before, part=part)


def _budget_bytes(memory_gb: float | None) -> int | None:
    if memory_gb is None:
        return None
    if not memory_gb > 0:
        raise ValueError(f"memory_gb: expected more than 0, got {memory_gb}")
    return max(1, int(memory_gb * 1e9))
