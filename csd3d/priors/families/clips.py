"""Clips as latents: autoencoders of video, which compress time too, and windows of a clip as particles.

A causal autoencoder makes f latent frames of 1 + t (f - 1) frames: one of the first, and one of every t that follow. A
window of f latent frames, [f c h w], is a particle [c*f h w] to the engine, which does not ask what channels are.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.priors.families.codec import FamilyCodec
from csd3d.priors.networks.codec import require_finite


def fold(window: Float[Tensor, "f c h w"]) -> Float[Tensor, "d h w"]:
    """A window of latent frames as a particle, d = c f."""
    return window.transpose(0, 1).flatten(0, 1)


def unfold(particle: Float[Tensor, "d h w"], channels: int) -> Float[Tensor, "f c h w"]:
    """The window that `fold` makes a particle of."""
    return particle.unflatten(0, (channels, -1)).transpose(0, 1)


class ClipCodec(FamilyCodec):
    """Encodes clips, and decodes them."""

    @property
    def stride(self) -> int:
        """t: frames that a latent frame stands for, but for the first."""
        return int(self._vae.config["scale_factor_temporal"])

    def frames_of(self, latents: int) -> int:
        """Frames of a clip of so many latent frames."""
        return self.stride * (latents - 1) + 1

    def latents_of(self, frames: int) -> int:
        """Latent frames that a clip of so many frames takes; the last one may stand for more than there are."""
        return -(-(frames - 1) // self.stride) + 1

    def encode_clip(self, rgb: Float[Tensor, "F 3 H W"]) -> Float[Tensor, "f c h w"]:
        """Latent frames of a clip in [0, 1]. Raises ValueError for a number of frames that no latents stand for, and
        for sides that are no multiples of `multiple_px`."""
        count, height_px, width_px = len(rgb), *rgb.shape[-2:]
        if count % self.stride != 1 % self.stride:
            raise ValueError(f"frames: expected 1 more than a multiple of {self.stride}, got {count}")
        if height_px % self.multiple_px or width_px % self.multiple_px:
            raise ValueError(
                f"rgb: expected sides that are multiples of {self.multiple_px} px, got {width_px}x{height_px}"
            )
        x = (2 * rgb.float() - 1).transpose(0, 1)[None]
        own = self._vae.encode(x.to(self._chunks.device, self._vae.dtype)).latent_dist.mode().float()
        mean, std = self._statistics(own[:, :, 0])
        return ((own[0].transpose(0, 1) - mean) / std).contiguous().to(rgb.device)

    @torch.no_grad()
    def decode_clip(self, z: Float[Tensor, "f c h w"]) -> Float[Tensor, "F 3 H W"]:
        """The clip of latent frames, clamped to [0, 1]. Raises FloatingPointError for what is no number."""
        mean, std = self._statistics(z)
        own = (z.float() * std + mean).transpose(0, 1)[None].to(self._chunks.device, self._vae.dtype)
        rgb = self._vae.decode(own, return_dict=False)[0][0].transpose(0, 1).float()
        require_finite(rgb, slice(0, len(rgb)))
        return (rgb / 2 + 0.5).clamp(0, 1).to(z.device)

    def decode(self, z: Float[Tensor, "n d h w"]) -> Float[Tensor, "n 3 H W"]:
        """A picture of each particle: the middle frame of its window. Raises as `decode_clip` does."""
        clips = (self.decode_clip(unfold(particle, self.channels)) for particle in z)
        return torch.stack([clip[len(clip) // 2] for clip in clips])

    def own(self, z: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
        """The autoencoder's own latents of particles, not normalised."""
        mean, std = self._statistics(z)
        return torch.stack([fold(unfold(particle, self.channels) * std + mean) for particle in z])
