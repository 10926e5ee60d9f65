"""Tiny random ControlNets, and a tiny depth model."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor


def write_control(prior: Path, folder: Path, *, embedding: tuple[int, ...] = (4, 4, 8, 8)) -> Path:
    """A ControlNet for the text-to-image model in `prior`; a picture has 2 px a latent for each but the last of
    `embedding`."""
    unet = UNet2DConditionModel.from_pretrained(str(prior / "unet"), local_files_only=True)
    assert isinstance(unet, UNet2DConditionModel)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=embedding)
        for name, weights in net.named_parameters():
            if name.startswith("controlnet_"):  # which begin as zeros
                torch.nn.init.normal_(weights, std=0.2)
    net.save_pretrained(folder)
    return folder


def write_depth(folder: Path) -> Path:
    """A depth model."""
    config = DPTConfig(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[4, 4, 4, 4], fusion_hidden_size=4, is_hybrid=False,
        use_auxiliary_head=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DPTForDepthEstimation(config)
        for name, weights in net.named_parameters():
            if name.startswith("head") or name.startswith("neck"):  # or all depths are about the same
                torch.nn.init.normal_(weights, std=0.5)
        net.save_pretrained(folder)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
