"""Between pictures and latents: the autoencoder of a latent diffusion model (Rombach et al. 2022)."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from csd3d.priors.families.pictures import Pictures
from csd3d.priors.memory import codec_bytes
from csd3d.priors.networks.chunks import Chunks

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


class VaeCodec:
    """Encodes rgb in [0, 1] to scaled latents and back, a few pictures at a time.

    Latents are float32 on the device of the pictures, whatever the autoencoder itself runs in. Encoding takes the
    posterior's mode, not a sample, so equal pictures have equal latents. Gradients flow through both directions when
    the input asks for them; the weights never do.
    """

    def __init__(self, vae: "AutoencoderKL", *, chunks: Chunks) -> None:
        self._vae = vae
        self._chunks = chunks
        self.pictures: Pictures | None = None
        """Where encoded pictures are kept, for a guard that looks at them; None: they are not."""
        self.scaling: float = float(vae.config["scaling_factor"])
        """Latents are the autoencoder's own times this, about unit variance."""
        self.factor: int = 2 ** (len(vae.config["block_out_channels"]) - 1)
        """Pixels along one side of a latent."""
        self.channels: int = int(vae.config["latent_channels"])
        """Channels of a latent."""

    def encode(self, rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Latents of pictures. Raises ValueError when a side is no multiple of `factor`."""
        height_px, width_px = require_sides(rgb, self.factor)

        def some(rows: slice) -> Tensor:
            x = self._inside(2 * rgb[rows].float() - 1)
            # diffusers types its outputs as tuples
            posterior = self._vae.encode(x).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
            return posterior.mode().float().contiguous() * self.scaling

        z = self._chunks.map(some, len(rgb), row_bytes=self.row_bytes(height_px, width_px)).to(rgb.device)
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
            x = self._inside(z[rows].float() / self.scaling)
            # diffusers types its outputs as tuples
            decoded = self._vae.decode(x).sample  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
            require_finite(decoded, rows)
            return (decoded.float().contiguous() / 2 + 0.5).clamp(0, 1)

        return self._chunks.map(some, len(z), row_bytes=self.row_bytes(height_px, width_px)).to(z.device)

    def perceptual_features(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """What the first layers of the decoder make of latents, in which equal steps are about equally visible.

        Of every map, the middle block's and that of the first block that enlarges, channels are normalised to unit
        length at each place, as in LPIPS (Zhang et al. 2018), and the squared distance of two rows is a sum over maps
        of their mean over places, times h w. Float32, differentiable, on the device of `z`.
        """
        height, width = z.shape[-2:]

        def some(rows: slice) -> Tensor:
            x = self._inside(z[rows].float() / self.scaling)
            if self._vae.post_quant_conv is not None:
                x = self._vae.post_quant_conv(x)
            decoder = self._vae.decoder
            assert decoder.mid_block is not None
            middle = decoder.mid_block(decoder.conv_in(x))
            maps = (middle, decoder.up_blocks[0](middle))
            units = [functional.normalize(m.float(), dim=1) * (height * width / m[0, 0].numel()) ** 0.5 for m in maps]
            return torch.cat([unit.flatten(1) for unit in units], dim=1)

        row_bytes = self.row_bytes(height * self.factor, width * self.factor)
        return self._chunks.map(some, len(z), row_bytes=row_bytes).to(z.device)

    def _inside(self, x: Tensor) -> Tensor:
        x = x.to(self._chunks.device, self._vae.dtype)
        return x.contiguous(memory_format=torch.channels_last)  # convolutions are faster so

    def row_bytes(self, height_px: int, width_px: int) -> int:
        """Memory that one more picture is planned to take during a call, in bytes."""
        return codec_bytes(self._vae.config, height_px * width_px, itemsize=self._vae.dtype.itemsize)


def require_sides(rgb: Float[Tensor, "n 3 H W"], multiple_px: int) -> tuple[int, int]:
    """Height and width in px. Raises ValueError where a side is no multiple of `multiple_px`, or 0."""
    height_px, width_px = rgb.shape[-2:]
    if height_px % multiple_px or width_px % multiple_px or not height_px or not width_px:
        raise ValueError(f"rgb: expected sides that are multiples of {multiple_px} px, got {width_px}x{height_px}")
    return height_px, width_px


def require_finite(decoded: Float[Tensor, "m 3 H W"], rows: slice) -> None:
    """Raises `FloatingPointError` that says which of the pictures `rows` are not finite, if some are not."""
    finite = decoded.isfinite().flatten(1).all(1)
    if not finite.all():
        bad = [i for i, good in enumerate(finite.tolist(), start=rows.start) if not good]
        raise FloatingPointError(f"what the prior's autoencoder decodes is not finite, for pictures {bad}")
