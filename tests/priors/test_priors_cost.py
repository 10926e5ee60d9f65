"""What a row is said to cost is what PyTorch counts on networks of released sizes, which have no weights here."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from csd3d.priors.cost import row_flops
from tests.priors.test_priors_memory import SDXL_SHAPED, STABLE_DIFFUSION

META = torch.device("meta")


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def counted(net: nn.Module, arguments: Mapping[str, Any]) -> float:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        net(**arguments, return_dict=False)
    return counter.get_total_flops()


@pytest.mark.slow
@pytest.mark.parametrize("config", [STABLE_DIFFUSION, {**SDXL_SHAPED, "transformer_layers_per_block": (1, 2, 4)}])
def test_unets_and_their_guards(config: dict[str, Any]) -> None:
    side = config["sample_size"]
    with META:
        unet: Any = UNet2DConditionModel.from_config(config)
        call = {"sample": torch.empty(1, 8, side, side), "timestep": torch.empty(())}
        call["encoder_hidden_states"] = torch.empty(1, 77, config["cross_attention_dim"])
        assert row_flops(shapes(unet), unet.config, side**2) == pytest.approx(counted(unet, call), rel=0.02)
        net: Any = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        call["controlnet_cond"] = torch.empty(1, 3, 8 * side, 8 * side)
        assert row_flops(shapes(net), net.config, side**2) == pytest.approx(counted(net, call), rel=0.15)


@pytest.mark.slow
def test_transformers_that_see_words_as_places() -> None:
    with META:
        net: Any = FluxTransformer2DModel.from_config({"num_layers": 2, "num_single_layers": 3})
        call = {"hidden_states": torch.empty(1, 2048, 64), "encoder_hidden_states": torch.empty(1, 512, 4096)}
        call |= {"img_ids": torch.zeros(2048, 3), "txt_ids": torch.zeros(512, 3), "timestep": torch.empty(1)}
        call["pooled_projections"] = torch.empty(1, 768)
        assert row_flops(shapes(net), net.config, 2048) == pytest.approx(counted(net, call), rel=0.05)


@pytest.mark.slow
def test_transformers_of_clips_that_look_at_words() -> None:
    with META:
        net: Any = WanTransformer3DModel.from_config({"num_layers": 2, "num_attention_heads": 24, "ffn_dim": 14336})
        call = {"hidden_states": torch.empty(1, 16, 5, 60, 104), "timestep": torch.empty(1)}
        call["encoder_hidden_states"] = torch.empty(1, 512, 4096)
        places = 5 * 30 * 52
        assert row_flops(shapes(net), net.config, places) == pytest.approx(counted(net, call), rel=0.05)
