"""InstructPix2Pix on Stable Diffusion 3 (UltraEdit, Zhao et al. 2024), whose pipeline diffusers itself does not ship.

Checkpoints name a class of a file beside them, which would be a program of others to run. What it does is little: the
network reads source latents, normalised as the noisy ones, joined to them along channels; rows are IT, I0, 00, the last
with zeros for the picture. Guidance is that of InstructPix2Pix (Brooks et al. 2023, eq. 3).
"""

from typing import Any

import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline


class StableDiffusion3InstructPix2PixPipeline(StableDiffusion3Pipeline):
    """Loaded from their files by its own class; the parts are those of Stable Diffusion 3."""

    @torch.no_grad()
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # it needs a picture, and few of the options
        self,
        prompt: str,
        image: Any,
        *,
        negative_prompt: str = "",
        guidance_scale: float = 7.0,
        image_guidance_scale: float = 1.5,
        height: int | None = None,
        width: int | None = None,
        latents: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        num_inference_steps: int = 28,
        output_type: str = "pil",
    ) -> Any:
        """Edit a picture of `height` x `width`, or of its own size; returns what `output_type` asks for in a tuple."""
        device, dtype = self._execution_device, self.transformer.dtype
        encode: Any = self.encode_prompt  # whose optional arguments and results are not typed as such
        text, null, pooled, null_pooled = encode(
            prompt, None, None, device=device, negative_prompt=negative_prompt, do_classifier_free_guidance=True
        )
        states, pools = torch.cat([text, null, null]), torch.cat([pooled, null_pooled, null_pooled])
        rgb = self.image_processor.preprocess(image, height=height, width=width).to(device, self.vae.dtype)
        config: Any = self.vae.config
        own = self.vae.encode(rgb).latent_dist.mode()
        s = ((own - config.shift_factor) * config.scaling_factor).to(dtype)
        seen = torch.cat([s, s, torch.zeros_like(s)])
        if latents is None:
            latents = torch.randn(s.shape, generator=generator).to(device)
        x = latents.to(device, dtype)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        for t in self.scheduler.timesteps:
            rows = torch.cat([torch.cat([x] * 3), seen], dim=1)
            out = self.transformer(
                hidden_states=rows, timestep=t.expand(3), encoder_hidden_states=states, pooled_projections=pools,
                return_dict=False,
            )[0]  # fmt: skip
            both, sees, neither = out.chunk(3)
            velocity = neither + image_guidance_scale * (sees - neither) + guidance_scale * (both - sees)
            x = self.scheduler.step(velocity, t, x, return_dict=False)[0]
        if output_type == "latent":
            return (x,)
        decoded = self.vae.decode((x / config.scaling_factor + config.shift_factor).to(self.vae.dtype))[0]
        return (self.image_processor.postprocess(decoded, output_type=output_type),)
