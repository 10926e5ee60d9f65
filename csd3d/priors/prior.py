"""What every loaded prior has, and how it is loaded: one way for editors and text-to-image models, big or small."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from csd3d.engine.regularisers import Layers
from csd3d.engine.schedule import Schedule
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.codec import Codec
from csd3d.priors.networks.denoiser import Denoiser, Prediction
from csd3d.priors.networks.text import PromptEncoder
from csd3d.priors.prompts.vocabulary import Vocabulary
from csd3d.priors.prompts.words import Words, read_known
from csd3d.priors.store.load import fetch, load_parts, pick_device, pick_dtype, read_schedule
from csd3d.priors.store.resolve import Kind, resolve

Sampler = Literal["own", "ddim"]
P = TypeVar("P", bound="Prior")
CALLED: dict[Kind, str] = {"instruct": "an instruction editor", "text-to-image": "a text-to-image model"}


@dataclass(frozen=True, eq=False)
class Prior:
    """A diffusion model, loaded: `InstructPrior` or `TextToImagePrior`."""

    kind: ClassVar[Kind]
    """What it must be to be loaded."""

    name: str
    """As it was asked for."""
    path: Path
    """The directory it was read from."""
    builtin: bool
    """It is one of the small ones that come along."""
    codec: Codec
    """Between pictures and latents."""
    schedule: Schedule
    """What its UNet was trained with."""
    vocabulary: Vocabulary | Words | None
    """What it understands; None when it takes any sentence."""
    device: torch.device
    dtype: torch.dtype
    prediction: Prediction
    """What its UNet predicts; scores are always epsilon."""
    _denoiser: Denoiser = field(repr=False)
    _text: PromptEncoder = field(repr=False)
    _chunks: tuple[Chunks, ...] = field(repr=False)
    _scheduler: Any = field(repr=False)

    @classmethod
    def load(
        cls: type[P],
        name: str | Path = "builtin",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        offline: bool = False,
        memory_gb: float | None = None,
        compiled: bool = False,
        checkpointing: bool = False,
    ) -> P:
        """Load a prior.

        Args:
            name: "builtin:instruct" (= "builtin"), "builtin:t2i", a directory in diffusers layout, or a hub id.
            device: None takes CUDA when there is one.
            dtype: Of the networks; None takes float16 on CUDA and float32 elsewhere. Scores and latents are float32.
            revision: Of a hub id: branch, tag or commit.
            offline: Ask the hub's cache only.
            memory_gb: For the activations of one UNet or codec call; None plans with what is free.
            compiled: Pass the UNet through torch.compile: slow to start, then faster.
            checkpointing: Where gradients go through the UNet (CDS), compute activations twice: slower, less memory.

        Raises:
            FileNotFoundError: There is no such directory, or the hub id cannot be had.
            ValueError: What is there cannot be read or is a prior of another kind, or a setting makes no sense.
        """
        resolved = resolve(name)
        chosen = pick_device(device)
        precision = pick_dtype(dtype, chosen)
        path = fetch(resolved, revision=revision, offline=offline, half=precision != torch.float32)
        parts = load_parts(path, device=chosen, dtype=precision)
        if parts.kind != cls.kind:
            raise ValueError(f"prior {resolved.name!r}: expected {CALLED[cls.kind]}, got {CALLED[parts.kind]}")
        schedule, prediction = read_schedule(parts.scheduler)
        unet_chunks, codec_chunks = (Chunks(chosen, _budget_bytes(memory_gb)) for _ in range(2))
        return cls(
            name=resolved.name,
            path=path,
            builtin=resolved.builtin,
            codec=Codec(parts.vae, chunks=codec_chunks),
            schedule=schedule,
            vocabulary=read_known(path),
            device=chosen,
            dtype=parts.unet.dtype,
            prediction=prediction,
            _denoiser=Denoiser(parts.unet, chunks=unet_chunks, compiled=compiled, checkpointing=checkpointing),
            _text=PromptEncoder(parts.tokenizer, parts.text_encoder),
            _chunks=(unet_chunks, codec_chunks),
            _scheduler=parts.scheduler,
        )

    @property
    def notes(self) -> list[str]:
        """What happened that a person should know: prompts that were cut, chunks that were halved."""
        return [*self._text.notes, *(note for chunks in self._chunks for note in chunks.notes)]

    def require_layers(self, layers: Layers) -> None:
        """Raises ValueError if the UNet has no such layers to take features from."""
        self._denoiser.require_layers(layers)

    def copy_unet(self) -> nn.Module:
        """A copy of the UNet that learns, in float32 on the prior's device."""
        return self._denoiser.copy_unet()

    def embed(self, sentences: Sequence[str]) -> Float[Tensor, "k l d"]:
        """Text embeddings of sentences, float32 on the prior's device. Raises UnknownPrompt as scores do."""
        return self._text.encode([self._known(s) for s in sentences]).float().to(self.device)

    def _known(self, sentence: str) -> str:
        """The sentence as the prior learnt it. Raises UnknownPrompt when it knows a closed set without this one."""
        return self.vocabulary.match(sentence) if self.vocabulary is not None and sentence.strip() else sentence.strip()

    def denoise(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        shape: Sequence[int],
        noise: Float[Tensor, "m c h w"] | None,
        rng: torch.Generator,
        *,
        steps: int,
        sampler: Sampler,
    ) -> Float[Tensor, "n c h w"]:
        """Latents of `shape` from noise, as the diffusers pipelines make them.

        `predict(z_in, t)` is the guided output of the UNet for scaled latents. `noise`, unit variance, is drawn from
        `rng` where there is none; one row of it (m = 1) is shared.
        """
        if noise is None:
            noise = torch.randn(*shape, generator=rng)
        if noise.shape[0] not in (1, shape[0]) or tuple(noise.shape[1:]) != tuple(shape[1:]):
            raise ValueError(f"noise: expected shape {tuple(shape)} or one row of it, got {tuple(noise.shape)}")
        scheduler = self._fresh_scheduler(sampler)
        scheduler.set_timesteps(steps, device=self.device)
        random = {"generator": rng} if "generator" in inspect.signature(scheduler.step).parameters else {}
        z = noise.to(self.device, torch.float32).expand(*shape) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            z = scheduler.step(predict(scheduler.scale_model_input(z, t), t), t, z, **random).prev_sample
        return z

    def _fresh_scheduler(self, sampler: Sampler) -> Any:
        """A scheduler of our own to step: the loaded one is never changed."""
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        config = self._scheduler.config
        if sampler == "own":
            return type(self._scheduler).from_config(config)
        last = config.get("set_alpha_to_one", False)  # what a config does not say, DDIM would fill in for pixels
        return DDIMScheduler.from_config(config, clip_sample=False, thresholding=False, set_alpha_to_one=last)


def _budget_bytes(memory_gb: float | None) -> int | None:
    if memory_gb is None:
        return None
    if not memory_gb > 0:
        raise ValueError(f"memory_gb: expected more than 0, got {memory_gb}")
    return max(1, int(memory_gb * 1e9))
