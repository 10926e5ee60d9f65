"""The codec: a small AutoencoderKL, factor 8, four latent channels, for world pictures and photographs alike."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scripts.training.loop import Plan, autocast_on, train, use_fast_norm
from scripts.training.pictures import holds_photos, number_of, read_shard, shards

CHANNELS = (16, 32, 96, 160)
CROP_PX, MAX_SHARDS = 64, 120
KL_WEIGHT = 2e-6
LATENT_NOISE = 0.05
"""Noise on the latents in training, in their standard deviations: the decoder forgives a denoiser's small errors."""


def make_codec(scaling_factor: float = 1.0) -> AutoencoderKL:
    """The untrained model."""
    settings = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": CHANNELS,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 128,
        "mid_block_add_attention": False,
        "scaling_factor": scaling_factor,
    }
    model = AutoencoderKL.from_config(settings)
    assert isinstance(model, AutoencoderKL)
    return model


class PictureStore:
    """Shards in memory, world and photographs apart; draws random crops."""

    def __init__(self, folder: Path, *, limit: int, world_per_group: int = 4, photos_per_group: int = 2) -> None:
        self.world: list[UInt8[Tensor, "m 3 S S"]] = []
        self.photo: list[UInt8[Tensor, "m 3 S S"]] = []
        for path in shards(folder)[:limit]:
            images, _ = read_shard(path)
            if holds_photos(number_of(path)):
                self.photo.append(images[:, :photos_per_group].flatten(0, 1))
            else:
                self.world.append(images[:, :world_per_group].flatten(0, 1))

    def draw(self, count: int, crop_px: int, photo_share: float, rng: torch.Generator) -> Float[Tensor, "n 3 s s"]:
        """Crops in [0, 1] on multiples of one pixel, mirrored half the time."""
        out = []
        for u in torch.rand(count, 6, generator=rng).tolist():
            pool = self.photo if self.photo and u[0] < photo_share else self.world
            shard = pool[int(u[1] * len(pool))]
            image = shard[int(u[2] * len(shard))]
            room = image.shape[-1] - crop_px
            y, x = round(u[3] * room), round(u[4] * room)
            crop = image[:, y : y + crop_px, x : x + crop_px]
            out.append(crop.flip(-1) if u[5] < 0.5 else crop)
        return torch.stack(out).float() / 255


@dataclass(frozen=True)
class CodecWork:
    """One training run of the codec; called once in every process."""

    pictures: Path
    out: Path
    plan: Plan
    batch: int = 8
    photo_share: float = 0.35
    device: str = "cpu"
    start_from: Path | None = None
    """A trained codec to go on from. Its latents drift, so whatever was trained on them has to learn on as well."""

    def __call__(self) -> None:
        torch.manual_seed(self.plan.seed)
        store = PictureStore(self.pictures, limit=MAX_SHARDS)
        model = make_codec()
        nn.Module.to(model, self.device)
        use_fast_norm(model)
        if self.start_from:
            model.load_state_dict(load_file(self.start_from))

        def loss_of(step: int, rng: torch.Generator) -> Tensor:
            rgb = store.draw(self.batch, CROP_PX, self.photo_share, rng).to(self.device) * 2 - 1
            with autocast_on(self.device):
                posterior = model.encode(rgb).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
                mean = posterior.mean.float()
                noise = torch.randn(mean.shape, generator=rng).to(mean)
                noisy = mean + LATENT_NOISE * mean.detach().std() * noise
                out = model.decode(noisy).sample.float()  # pyright: ignore[reportAttributeAccessIssue]
            kl = 0.5 * (mean**2).mean()
            return ((out - rgb) ** 2).mean((1, 2, 3)).add(1e-4).sqrt().mean() + KL_WEIGHT * kl * 1e2

        ema = train(model, loss_of, self.plan, self.out / "codec.state")
        self.out.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in (model.state_dict() | ema).items()}, self.out / "codec.safetensors")


def load_codec(path: Path, *, scaling_factor: float = 1.0) -> AutoencoderKL:
    """The trained codec from a `codec.safetensors`."""
    model = make_codec(scaling_factor)
    model.load_state_dict(load_file(path))
    return model.eval()
