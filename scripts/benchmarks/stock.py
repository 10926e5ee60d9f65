"""The stock diffusers pipeline of an instruction editor, in batches: nothing of ours lies between it and its result."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.codec import VaeCodec
from csd3d.priors.store.device import pick_device, pick_dtype
from csd3d.priors.store.load import fetch
from csd3d.priors.store.resolve import check_directory, resolve, weights_variant
from csd3d.priors.store.silence import quiet


class StockEditor:
    """InstructPix2Pix as diffusers samples it, and its codec."""

    def __init__(self, name: str, *, device: str | None, steps: int, batch: int) -> None:
        chosen = pick_device(device)
        dtype = pick_dtype(None, chosen)
        resolved = resolve(name)
        half = dtype == torch.float16
        self.path: Path = fetch(resolved, revision=None, offline=False, half=half)
        if (kind := check_directory(self.path)) != "instruct":
            raise ValueError(f"prior {name!r}: expected an instruction editor, got a {kind} model")
        self.local = resolved.path is not None
        with quiet():
            from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
                StableDiffusionInstructPix2PixPipeline,
            )

            pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(
                self.path, safety_checker=None, requires_safety_checker=False, use_safetensors=True,
                variant=weights_variant(self.path / "unet", ("fp16", None) if half else (None, "fp16")),
            )  # fmt: skip
            self._pipeline = pipeline.to(chosen, dtype)
        self._pipeline.set_progress_bar_config(disable=True)
        self._steps = steps
        self.batch = batch
        self.device = chosen
        self.codec = VaeCodec(self._pipeline.vae, chunks=Chunks(chosen))

    def edit(
        self,
        pictures: Float[Tensor, "n 3 H W"],
        sentences: Sequence[str],
        seeds: Sequence[int],
        *,
        s_text: float,
        s_image: float,
    ) -> Float[Tensor, "n 3 H W"]:
        """One picture each, in [0, 1] on the CPU. A picture's noise comes from its own seed, whatever its batch is."""
        result = self._pipeline(
            prompt=list(sentences),
            image=pictures,
            num_inference_steps=self._steps,
            guidance_scale=s_text,
            image_guidance_scale=s_image,
            generator=[torch.Generator().manual_seed(s) for s in seeds],
            output_type="pt",
        )
        return result.images.float().cpu()  # pyright: ignore[reportAttributeAccessIssue]

    @torch.no_grad()
    def reconstruct(self, pictures: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        """What the codec leaves of pictures."""
        return self.codec.decode(self.codec.encode(pictures))

    def fingerprint(self) -> str:
        """First 12 digits of the SHA-256 of all weight files in order: says which weights a table belongs to."""
        total = hashlib.sha256()
        for file in sorted(self.path.rglob("*.safetensors")):
            with file.open("rb") as f:
                while block := f.read(1 << 24):
                    total.update(block)
        return total.hexdigest()[:12]
