"""Clips as latents: autoencoders of video, which compress time too, and windows of a clip as particles.

A causal autoencoder makes f latent frames of 1 + t (f - 1) frames: one of the first, and one of every t that follow. A
window of f latent frames, [f c h w], is a particle [c*f h w] to the engine, which does not ask what channels are.

Clips are encoded and decoded a latent frame at a time, as Wan's autoencoder itself does: what its convolutions remember
of the frames before is carried on, so that pieces are those of the whole, and memory does not grow with the clip.
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from csd3d.priors.families.codec import FamilyCodec
from csd3d.priors.networks.codec import require_finite, require_sides


def fold(window: Float[Tensor, "f c h w"]) -> Float[Tensor, "d h w"]:
    """A window of latent frames as a particle, d = c f."""
    return window.transpose(0, 1).flatten(0, 1)


def unfold(particle: Float[Tensor, "d h w"], channels: int) -> Float[Tensor, "f c h w"]:
    """The window that `fold` makes a particle of."""
    return particle.unflatten(0, (channels, -1)).transpose(0, 1)


Remembered = list[Tensor | None]
"""What the convolutions of an encoder or a decoder keep of frames before, in order."""


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

    @property
    def _patch(self) -> int:
        """Pixels along one side of what the autoencoder reads as one, in columns first."""
        return int(self._vae.config.get("patch_size") or 1)

    def encode_clip(self, rgb: Float[Tensor, "F 3 H W"]) -> Float[Tensor, "f c h w"]:
        """Latent frames of a clip in [0, 1] of any length, on its device. Raises as `ClipEncoding` does."""
        return torch.cat(self.begin()(rgb, last=True))

    def decode_clip(self, z: Float[Tensor, "f c h w"]) -> Float[Tensor, "F 3 H W"]:
        """The clip of latent frames, clamped to [0, 1]. Raises FloatingPointError for what is no number."""
        return torch.cat(list(self.decode_frames(z.split(1)))).to(z.device)

    @torch.no_grad()
    def encode_next(self, rgb: Float[Tensor, "n 3 H W"], remembered: Remembered) -> Float[Tensor, "1 c h w"]:
        """The latent frame of the first frame of a clip, or of the next `stride` frames, after those that `remembered`
        is of, which is changed. Raises ValueError for sides that are no multiples of `multiple_px`."""
        require_sides(rgb, self.multiple_px)
        x = (2 * rgb.float() - 1).transpose(0, 1)[None].to(self._chunks.device, self._vae.dtype)
        if (side := self._patch) > 1:
            x = pixel_unshuffle(x[0].transpose(0, 1).mT, side).mT.transpose(0, 1)[None]
        moments = self._vae.quant_conv(self._vae.encoder(x, feat_cache=remembered, feat_idx=[0]))
        own = moments.chunk(2, dim=1)[0][0].transpose(0, 1).float()  # the posterior's mode
        mean, std = self._statistics(own)
        return ((own - mean) / std).contiguous().to(rgb.device)

    @torch.no_grad()
    def decode_frames(self, z: Iterable[Float[Tensor, "1 c h w"]]) -> Iterator[Float[Tensor, "n 3 H W"]]:
        """The clip of latent frames as they come, in [0, 1]: its first frame, and `stride` more of every latent frame
        that follows. Raises FloatingPointError for what is no number."""
        remembered = nothing_yet(self._vae.decoder)
        for k, latent in enumerate(z):
            mean, std = self._statistics(latent)
            own = (latent.float() * std + mean).transpose(0, 1)[None].to(self._chunks.device, self._vae.dtype)
            x = self._vae.post_quant_conv(own)
            x = self._vae.decoder(x, feat_cache=remembered, feat_idx=[0], first_chunk=k == 0)
            rgb = x[0].transpose(0, 1).float()
            if (side := self._patch) > 1:
                rgb = pixel_shuffle(rgb.mT, side).mT
            require_finite(rgb, slice(0, len(rgb)))
            yield (rgb / 2 + 0.5).clamp(0, 1)

    def decode(self, z: Float[Tensor, "n d h w"]) -> Float[Tensor, "n 3 H W"]:
        """A picture of each particle: the middle frame of its window. Raises as `decode_clip` does."""
        clips = (self.decode_clip(unfold(particle, self.channels)) for particle in z)
        return torch.stack([clip[len(clip) // 2] for clip in clips])

    def own(self, z: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
        """The autoencoder's own latents of particles, not normalised."""
        mean, std = self._statistics(z)
        return torch.stack([fold(unfold(particle, self.channels) * std + mean) for particle in z])

    def begin(self) -> "ClipEncoding":
        """The encoding of a clip that arrives in pieces."""
        return ClipEncoding(self, nothing_yet(self._vae.encoder))


class ClipEncoding:
    """The latent frames of a clip in [0, 1] whose frames arrive a few at a time. Make one with `ClipCodec.begin`."""

    def __init__(self, codec: ClipCodec, remembered: Remembered) -> None:
        self._codec, self._remembered = codec, remembered
        self._rest: Float[Tensor, "n 3 H W"] | None = None
        self._wanted = 1

    def __call__(self, rgb: Float[Tensor, "n 3 H W"], *, last: bool = False) -> list[Float[Tensor, "1 c h w"]]:
        """Those that are complete with the next frames. With the `last` ones all: the last frame is repeated where
        latents stand for more. Raises ValueError for sides that are no multiples of the codec's."""
        rest = rgb if self._rest is None else torch.cat([self._rest, rgb])
        found: list[Tensor] = []
        while len(rest) >= self._wanted or (last and len(rest)):
            some, rest = rest[: self._wanted], rest[self._wanted :]
            more = some[-1:].expand(self._wanted - len(some), -1, -1, -1)
            found.append(self._codec.encode_next(torch.cat([some, more]), self._remembered))
            self._wanted = self._codec.stride
        self._rest = rest
        return found


def nothing_yet(net: nn.Module) -> Remembered:
    """Before the first frame: room for as many as there may be."""
    return [None] * len(list(net.modules()))
