"""What a call is planned to take is what tensors without memory, of networks of released sizes, say that it takes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import csd3d
from csd3d.priors.memory import codec_bytes, guard_bytes, network_bytes
from tests.live import bytes_of_a_row

BUILTIN = Path(csd3d.__file__).parent / "weights" / "instruct"
STABLE_DIFFUSION: dict[str, Any] = {
    "sample_size": 64, "in_channels": 8, "out_channels": 4, "cross_attention_dim": 768, "attention_head_dim": 8
}  # fmt: skip
SHAPE: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280), "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
}  # fmt: skip
"""Of Stable Diffusion, as far as it matters; diffusers has it as its default."""
SDXL_SHAPED: dict[str, Any] = {
    "sample_size": 128, "in_channels": 8, "out_channels": 4, "cross_attention_dim": 2048,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
}  # fmt: skip
"""Two transformers a level in place of up to ten: what is alive at once is the same."""
CODEC: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2, "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
FLUX: dict[str, Any] = {"num_layers": 1, "num_single_layers": 1}
"""FLUX.1's width, one layer of each kind."""


@contextmanager
def without_memory() -> Iterator[None]:
    """Half precision by default, on a device without tensors."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        torch.set_default_dtype(before)


def unet_row(config: dict[str, Any], size_lat: int, *, gradient: bool = False) -> float:
    """Bytes that one row of a UNet takes in half precision."""
    with without_memory():
        unet: Any = UNet2DConditionModel.from_config(config)
        unet.requires_grad_(False)

        def call(rows: int) -> Tensor:
            x = torch.empty(rows, unet.config["in_channels"], size_lat, size_lat).requires_grad_(gradient)
            text = torch.empty(rows, 77, unet.config["cross_attention_dim"])
            out = unet(x, torch.full((), 9), encoder_hidden_states=text, return_dict=False)[0]
            return torch.autograd.grad(out.float().sum(), x)[0] if gradient else out

        return bytes_of_a_row(call)


def decoded_picture(config: dict[str, Any], side_px: int) -> float:
    """Bytes that decoding one picture takes in half precision."""
    with without_memory(), torch.no_grad():
        vae: Any = AutoencoderKL.from_config(config)
        lat = side_px // 2 ** (len(vae.config["block_out_channels"]) - 1)
        return bytes_of_a_row(lambda n: vae.decode(torch.empty(n, vae.config["latent_channels"], lat, lat)).sample)


def flux_row(tokens: int) -> float:
    """Bytes that one row of FLUX takes in half precision, 512 tokens of words beside those of the picture."""
    with without_memory(), torch.no_grad():
        flux: Any = FluxTransformer2DModel.from_config(FLUX)

        def call(rows: int) -> Tensor:
            x = {"hidden_states": torch.empty(rows, tokens, 64), "encoder_hidden_states": torch.empty(rows, 512, 4096)}
            ids = {"img_ids": torch.zeros(tokens, 3), "txt_ids": torch.zeros(512, 3)}
            pooled = torch.empty(rows, 768)
            return flux(**x, **ids, pooled_projections=pooled, timestep=torch.empty(rows), return_dict=False)[0]

        return bytes_of_a_row(call)


def require_planned(found: float, planned: int) -> None:
    """Enough, and at most a third too much (so that `found` is within 30 % of `planned`)."""
    assert 0.7 * planned <= found <= planned, f"{found / 2**20:.1f} MB are taken, {planned / 2**20:.1f} MB planned"


def test_the_built_in_networks_take_less_than_planned() -> None:
    config = json.loads((BUILTIN / "unet" / "config.json").read_text())
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            found = unet_row(config, 16, gradient=gradient)
        assert 0 < found <= network_bytes(config, 16**2, itemsize=2, gradient=gradient)
    codec = json.loads((BUILTIN / "vae" / "config.json").read_text())
    assert 0 < decoded_picture(codec, 128) <= codec_bytes(codec, 128**2, itemsize=2)


def test_the_autoencoder_of_stable_diffusion() -> None:
    require_planned(decoded_picture(CODEC, 256), codec_bytes(CODEC, 256**2, itemsize=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "gradient"), [(STABLE_DIFFUSION, False), (STABLE_DIFFUSION, True), (SDXL_SHAPED, False)]
)
def test_networks_of_released_sizes(config: dict[str, Any], gradient: bool) -> None:
    with torch.set_grad_enabled(gradient):
        found = unet_row(config, 64, gradient=gradient)
    require_planned(found, network_bytes({**SHAPE, **config}, 64**2, itemsize=2, gradient=gradient))


@pytest.mark.slow
def test_a_transformer_of_released_size() -> None:
    config = {"num_attention_heads": 24, "attention_head_dim": 128}
    require_planned(flux_row(1024), network_bytes(config, 1024, itemsize=2))


def guarded_row(config: dict[str, Any], size_lat: int) -> float:
    """Bytes that one row of a UNet beside a ControlNet takes in half precision."""
    with without_memory(), torch.no_grad():
        unet: Any = UNet2DConditionModel.from_config(config)
        net: Any = ControlNetModel.from_unet(unet, load_weights_from_unet=False)

        def call(rows: int) -> Tensor:
            x, text = (
                torch.empty(rows, 8, size_lat, size_lat),
                torch.empty(rows, 77, unet.config["cross_attention_dim"]),
            )
            shown, t = torch.empty(rows, 3, 8 * size_lat, 8 * size_lat), torch.full((), 9)
            down, mid = net(x, t, encoder_hidden_states=text, controlnet_cond=shown, return_dict=False)
            more = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
            return unet(x, t, encoder_hidden_states=text, return_dict=False, **more)[0]

        return bytes_of_a_row(call)


@pytest.mark.slow
def test_a_guard_beside_a_network_of_released_size() -> None:
    config = {**SHAPE, **STABLE_DIFFUSION, "layers_per_block": 2}
    planned = network_bytes(config, 64**2, itemsize=2) + guard_bytes(config, 64**2, itemsize=2)
    require_planned(guarded_row(STABLE_DIFFUSION, 64), planned)
