"""Any of diffusers' autoencoders as a codec: latents of zero mean and unit variance, about, as the networks read them.

    latents = (the autoencoder's own - mean) / std

mean, std   by its config: shift and scaling factor; one of each for each channel (SDXL variants, Qwen); one for each
            channel and place of a 2 x 2 patch, from batch-norm statistics (FLUX.2)
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from csd3d.priors.families.pictures import Pictures
from csd3d.priors.memory import codec_bytes
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.codec import require_finite, require_sides


class FamilyCodec:
    """Encodes rgb in [0, 1] to latents and back, a few pictures at a time.

    Latents are float32 on the device of the pictures. Encoding takes the posterior's mode. Gradients flow through both
    directions when the input asks for them.
    """

    def __init__(self, vae: nn.Module, *, factor: int, multiple_px: int, chunks: Chunks) -> None:
        """`factor`: px along a latent; `multiple_px`: sides of pictures are multiples of this many px."""
        self._vae: Any = vae  # each class has a config of its own
        self._chunks = chunks
        self.factor = factor
        self.multiple_px = multiple_px
        self.pictures: Pictures | None = None
        """Where encoded pictures are kept, for an editor that looks at them; None: they are not."""
        config = self._vae.config
        self.channels: int = int(config.get("latent_channels") or config.get("z_dim"))
        """Channels of a latent."""
        self._is_video = "temperal_downsample" in config  # diffusers' spelling; such latents have an axis of time

    def encode(self, rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Latents of pictures. Raises ValueError when a side is no multiple of `multiple_px`."""
        height_px, width_px = require_sides(rgb, self.multiple_px)

        def some(rows: slice) -> Tensor:
            out = self._vae.encode(self._inside(2 * rgb[rows].float() - 1))
            if hasattr(out, "latent_dist"):
                z = out.latent_dist.mode()
            else:
                z = out.latents if hasattr(out, "latents") else out.latent
            z = (z.squeeze(2) if self._is_video else z).float()
            mean, std = self._statistics(z)
            return ((z - mean) / std).contiguous()

        z = self._chunks.map(some, len(rgb), row_bytes=self._row_bytes(height_px, width_px)).to(rgb.device)
        if self.pictures is not None:
            self.pictures.keep(z, rgb)
        return z

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Pictures of latents, clamped to [0, 1], float32.

        Raises:
            FloatingPointError: The autoencoder gave something that is no number.
        """
        height_px, width_px = (self.factor * side for side in z.shape[-2:])

        def some(rows: slice) -> Tensor:
            decoded = self._vae.decode(self._inside(self.own(z[rows].float())), return_dict=False)[0]
            decoded = (decoded[:, :, 0] if self._is_video else decoded).float()
            require_finite(decoded, rows)
            return (decoded.contiguous() / 2 + 0.5).clamp(0, 1)

        return self._chunks.map(some, len(z), row_bytes=self._row_bytes(height_px, width_px)).to(z.device)

    def own(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The autoencoder's own latents, not normalised."""
        mean, std = self._statistics(z)
        return z * std + mean

    def _inside(self, x: Tensor) -> Tensor:
        x = x.to(self._chunks.device, self._vae.dtype)
        return x.unsqueeze(2) if self._is_video else x

    def _statistics(self, like: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor]:
        """mean and std, broadcast over latents like these."""
        config, c = self._vae.config, self.channels
        if hasattr(self._vae, "bn"):
            h, w = like.shape[-2:]
            norm = self._vae.bn
            both = norm.running_mean, (norm.running_var + config.batch_norm_eps).sqrt()
            mean, std = (x.to(like).view(c, 1, 2, 1, 2).expand(c, h // 2, 2, w // 2, 2).reshape(c, h, w) for x in both)
            return mean, std
        scaling = config.get("scaling_factor") or 1.0
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mean, std = (torch.tensor(config[k]).to(like).view(c, 1, 1) for k in ("latents_mean", "latents_std"))
            return mean, std / scaling
        shift = config.get("shift_factor") or 0.0
        return torch.tensor(float(shift)).to(like), torch.tensor(1.0 / scaling).to(like)

    def _row_bytes(self, height_px: int, width_px: int) -> int:
        return codec_bytes(self._vae.config, height_px * width_px, itemsize=self._vae.dtype.itemsize)


def read_factor(pipe: Any) -> int:
    """px along one side of a latent, as a pipeline says."""
    return int(pipe.vae_scale_factor_spatial if hasattr(pipe, "vae_scale_factor_spatial") else pipe.vae_scale_factor)
