"""The score of an instruction editor (InstructPix2Pix, Brooks et al. 2023), and its ordinary sampler.

Its UNet reads a noisy latent beside the latent of the source image, and a sentence. Three branches make one prediction:

    branch    source image    sentence
    00        zeros           ""
    I0        s               ""
    IT        s               the instruction

The source prediction of CSD-Edit has no sentence, so it takes the first two only: five UNet rows a particle, not six.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32, Int, Int64, Num
from torch import Tensor

from csd3d.engine.guidance import instruct_guidance
from csd3d.engine.schedule import Schedule
from csd3d.priors.chunks import Chunks
from csd3d.priors.codec import Codec
from csd3d.priors.denoiser import Denoiser, Prediction, to_epsilon
from csd3d.priors.load import Parts, fetch, load_parts, pick_device, pick_dtype, read_schedule
from csd3d.priors.resolve import resolve
from csd3d.priors.text import PromptEncoder
from csd3d.priors.vocabulary import FILE_NAME, Vocabulary

Sampler = Literal["own", "ddim"]


@dataclass(frozen=True, eq=False)
class InstructPrior:
    """An instruction editor, loaded. Make one with `InstructPrior.load`."""

    name: str
    """As it was asked for."""
    path: Path
    """The directory it was read from."""
    builtin: bool
    """It is the small one that comes along."""
    codec: Codec
    """Between pictures and latents."""
    schedule: Schedule
    """What its UNet was trained with."""
    vocabulary: Vocabulary | None
    """The sentences it knows; None when it takes any."""
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
        cls,
        name: str | Path = "builtin",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        offline: bool = False,
        memory_gb: float | None = None,
        compiled: bool = False,
    ) -> "InstructPrior":
        """Load a prior.

        Args:
            name: "builtin", a directory in diffusers layout, or a hub id.
            device: None takes CUDA when there is one.
            dtype: Of the networks; None takes float16 on CUDA and float32 elsewhere. Scores and latents are float32.
            revision: Of a hub id: branch, tag or commit.
            offline: Ask the hub's cache only.
            memory_gb: For the activations of one UNet or codec call; None plans with what is free.
            compiled: Pass the UNet through torch.compile: slow to start, then faster.

        Raises:
            FileNotFoundError: There is no such directory, or the hub id cannot be had.
            ValueError: What is there is not an instruction editor that can be read, or a setting makes no sense.
        """
        resolved = resolve(name)
        chosen = pick_device(device)
        precision = pick_dtype(dtype, chosen)
        path = fetch(resolved, revision=revision, offline=offline, half=precision != torch.float32)
        parts = load_parts(path, device=chosen, dtype=precision)
        if parts.kind != "instruct":
            raise ValueError(f"prior {resolved.name!r}: expected an instruction editor, got a {parts.kind} model")
        return cls._from_parts(
            parts, resolved.name, path, resolved.builtin, _budget_bytes(memory_gb), compiled=compiled
        )

    @classmethod
    def _from_parts(
        cls, parts: Parts, name: str, path: Path, builtin: bool, budget_bytes: int | None, *, compiled: bool
    ) -> "InstructPrior":
        schedule, prediction = read_schedule(parts.scheduler)
        words = path / FILE_NAME
        device = parts.unet.device
        unet_chunks, codec_chunks = (Chunks(device, budget_bytes) for _ in range(2))
        return cls(
            name=name,
            path=path,
            builtin=builtin,
            codec=Codec(parts.vae, chunks=codec_chunks),
            schedule=schedule,
            vocabulary=Vocabulary.load(words) if words.is_file() else None,
            device=device,
            dtype=parts.unet.dtype,
            prediction=prediction,
            _denoiser=Denoiser(parts.unet, chunks=unet_chunks, compiled=compiled),
            _text=PromptEncoder(parts.tokenizer, parts.text_encoder),
            _chunks=(unet_chunks, codec_chunks),
            _scheduler=parts.scheduler,
        )

    @property
    def notes(self) -> list[str]:
        """What happened that a person should know: prompts that were cut, chunks that were halved."""
        return [*self._text.notes, *(note for chunks in self._chunks for note in chunks.notes)]

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
        sentences = [prompt] if isinstance(prompt, str) else list(prompt)
        if not sentences:
            raise ValueError("prompt: expected a sentence or more, got none")
        if assign is not None and not bool(((assign >= 0) & (assign < len(sentences))).all()):
            raise ValueError(f"assign: expected numbers from 0 to {len(sentences) - 1}, got {assign.tolist()}")
        if len(sentences) == 1:
            assign = None
        text = self._text.encode(["", *(self._known(sentence) for sentence in sentences)])
        return InstructScore(self, text, assign, s_text, s_image)

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
        if noise is None:
            noise = torch.randn(s.shape, generator=rng)
        if noise.shape[0] not in (1, len(s)) or noise.shape[1:] != s.shape[1:]:
            raise ValueError(f"noise: expected shape {tuple(s.shape)} or one row of it, got {tuple(noise.shape)}")
        index = torch.arange(len(s), device=self.device)
        scheduler = self._fresh_scheduler(sampler)
        scheduler.set_timesteps(steps, device=self.device)
        random = {"generator": rng} if "generator" in inspect.signature(scheduler.step).parameters else {}
        z = noise.to(self.device, torch.float32).expand_as(s) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            branches = score.branches(scheduler.scale_model_input(z, t), t, s, index, count=3)
            output = instruct_guidance(*branches, s_text=s_text, s_image=s_image)
            z = scheduler.step(output, t, z, **random).prev_sample
        return self.codec.decode(z).to(rgb.device)

    def _known(self, sentence: str) -> str:
        return self.vocabulary.match(sentence) if self.vocabulary is not None and sentence.strip() else sentence.strip()

    def _fresh_scheduler(self, sampler: Sampler) -> Any:
        """A scheduler of our own to step: the loaded one is never changed."""
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        cls = DDIMScheduler if sampler == "ddim" else type(self._scheduler)
        return cls.from_config(self._scheduler.config)


@dataclass(frozen=True, eq=False)
class InstructScore:
    """The Score that the engine drives, for one or several instructions. Make one with `InstructPrior.score`."""

    prior: InstructPrior
    text: Float[Tensor, "k l d"]
    """Row 0: no text. Row 1 + p: sentence p."""
    assign: Int[Tensor, " m"] | None
    """Which sentence each particle takes; None: the only one, or the one of its own number."""
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
        sentence = self._sentence_rows(index).to(device)

        def rows(r: Int64[Tensor, " r"]) -> tuple[Tensor, Tensor]:
            branch, i = r // n, r % n
            seen = torch.where((branch >= 1)[:, None, None, None], condition[i], 0.0)
            said = torch.where(branch == 2, sentence[i], 0)
            return torch.cat([z_in[i], seen], dim=1), self.text[said]

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

    def _sentence_rows(self, index: Int[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Row of `text` that each particle reads."""
        index = index.long()
        if len(self.text) == 2:
            return torch.ones_like(index)
        most = len(self.text) - 1 if self.assign is None else len(self.assign)
        if bool(((index < 0) | (index >= most)).any()):
            raise ValueError(f"index: expected 0 to {most - 1}, the particles with a prompt, got {index.tolist()}")
        return 1 + (index if self.assign is None else self.assign.to(index)[index])


def _budget_bytes(memory_gb: float | None) -> int | None:
    if memory_gb is None:
        return None
    if not memory_gb > 0:
        raise ValueError(f"memory_gb: expected more than 0, got {memory_gb}")
    return max(1, int(memory_gb * 1e9))
