"""A tiny random prior in exactly the layout of the big ones: the tests' stand-in for trained weights."""

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel

from csd3d.priors.families.table import Kind
from csd3d.priors.store.save import make_tokenizer, save_prior

VOCABULARY = {
    "edits": {
        "snow": {"kind": "weather", "wordings": ["make it snowy", "cover everything with snow"]},
        "night": {"kind": "time", "wordings": ["make it night", "turn day into night"]},
        "colour ball red": {"kind": "colour", "wordings": ["make the ball red", "paint the ball red"]},
    }
}
SENTENCES = [wording for edit in VOCABULARY["edits"].values() for wording in edit["wordings"]]


def write_tiny_prior(
    directory: Path,
    *,
    kind: Kind = "instruct",
    prediction: Literal["epsilon", "v_prediction"] = "epsilon",
    closed: bool = True,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    stock: bool = False,
    sample_size: int | None = None,
) -> Path:
    """Write it and return the directory. `closed`: it comes with a vocabulary.json. `stock`: a UNet as that of Stable
    Diffusion 2, which has neither pooled text nor scale_shift. `sample_size`: side in latents that it says it was
    trained at."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = make_tokenizer(SENTENCES, max_length=16)
        blocks: dict[str, Any] = {  # diffusers annotates these as tuples of one
            "block_out_channels": (4, 4, 4, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
        }
        vae = AutoencoderKL(
            **blocks,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            scaling_factor=0.5,
        )
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=len(tokenizer) - 2,
            eos_token_id=len(tokenizer) - 1,
            pad_token_id=len(tokenizer) - 1,
        )
        own: dict[str, Any] = {
            "addition_embed_type": "text",
            "resnet_time_scale_shift": "scale_shift",
            "attention_head_dim": 2,
        }
        if stock:
            own = {"attention_head_dim": (2, 4), "use_linear_projection": True}
        unet = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=8 if kind == "instruct" else 4,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=64,
            **own,
        )
        scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction,
        )
        parts = (vae, CLIPTextModel(text), tokenizer, unet, scheduler)
        return save_prior(directory, *parts, VOCABULARY if closed else None, kind=kind, dtype=dtype)
