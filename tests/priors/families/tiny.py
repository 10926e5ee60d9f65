"""Tiny random pipelines of modern families, built from configs alone: no network, seconds each."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from csd3d.priors.families.sd3_instruct import StableDiffusion3InstructPix2PixPipeline

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
TEMPLATE_WORDS = (
    "system", "user", "assistant", "\n", "Describe", " the", " key", " features", " of", " input", " image", " color",
    " shape", " size", " texture", " objects", " background", " then", " explain", " how", " user", "'s", " text",
    " instruction", " should", " alter", " or", " modify", " Generate", " a", " new", " that", " meets",
    " requirements",    " while", " maintaining", " consistency", " with", " original", " where", " appropriate",
)  # fmt: skip
"""A real tokenizer has them as single tokens; without, templates would be ten times longer than what is cut off."""


def _bytes() -> list[str]:
    """The printable symbols of the 256 bytes, in byte order."""
    own = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in own else chr(next(others)) for byte in range(256)]


def clip_tokenizer() -> Any:
    symbols = sorted(_bytes())
    names = [*symbols, *(s + "</w>" for s in symbols), "<|startoftext|>", "<|endoftext|>"]
    vocab = {name: i for i, name in enumerate(names)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def t5_tokenizer() -> Any:
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("\u2581", -2.0),
        *((chr(c), -3.0) for c in range(33, 127)),
    ]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def qwen_tokenizer(words: Iterable[str] = ()) -> Any:
    """Byte-level, with one token for each of `words`."""
    symbols = _bytes()
    vocab, merges = {s: i for i, s in enumerate(sorted(symbols))}, []
    for word in words:
        spelled = [symbols[byte] for byte in word.encode()]
        while len(spelled) > 1:
            pair = (spelled[0], spelled[1])
            if pair not in merges:
                merges.append(pair)
            vocab.setdefault("".join(pair), len(vocab))
            spelled = ["".join(pair), *spelled[2:]]
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocab, merges=merges, model_max_length=1024)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


def clip_text(tokenizer: Any, width: int, *, projected: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, projection_dim=width, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def t5_text(tokenizer: Any, width: int) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(tokenizer), d_model=width, d_kv=width // 2, d_ff=2 * width, num_layers=1, num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


def kl(latent: int = 4, widths: tuple[int, ...] = (8, 16), **more: Any) -> Any:
    blocks: dict[str, Any] = {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
    }
    return diffusers.AutoencoderKL(**blocks, latent_channels=latent, norm_num_groups=4, layers_per_block=1, **more)


FLUX_KL = {"shift_factor": 0.1159, "scaling_factor": 0.3611, "use_quant_conv": False, "use_post_quant_conv": False}


def flow() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)


def euler() -> Any:
    return diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )


def unet(**more: Any) -> Any:
    blocks: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return diffusers.UNet2DConditionModel(
        sample_size=16, out_channels=4, layers_per_block=1, norm_num_groups=4, **blocks, **more
    )


def sdxl(*, editor: bool, cosxl: bool = False) -> Any:
    tokenizer, tokenizer_2 = clip_tokenizer(), clip_tokenizer()
    net = unet(
        in_channels=8 if editor else 4, attention_head_dim=(2, 4), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1, 2),
        cross_attention_dim=48, projection_class_embeddings_input_dim=8 * 6 + 32,
    )  # fmt: skip
    scheduler = euler()
    if cosxl:
        scheduler = diffusers.EDMEulerScheduler(
            sigma_min=0.002, sigma_max=120.0, sigma_data=1.0, prediction_type="v_prediction"
        )
    parts: dict[str, Any] = {
        "vae": kl(force_upcast=True, scaling_factor=0.13025), "text_encoder": clip_text(tokenizer, 16),
        "tokenizer": tokenizer,
        "text_encoder_2": clip_text(tokenizer_2, 32, projected=True), "tokenizer_2": tokenizer_2, "unet": net,
        "scheduler": scheduler, "add_watermarker": False,
    }  # fmt: skip
    if editor:
        return diffusers.StableDiffusionXLInstructPix2PixPipeline(**parts, is_cosxl_edit=cosxl)
    return diffusers.StableDiffusionXLPipeline(**parts)


def sd3(*, editor: bool = False) -> Any:
    tokenizer, tokenizer_3 = clip_tokenizer(), t5_tokenizer()
    net = diffusers.SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=8 if editor else 4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32,
        out_channels=4, pos_embed_max_size=32, qk_norm="rms_norm",
    )  # fmt: skip
    cls = StableDiffusion3InstructPix2PixPipeline if editor else diffusers.StableDiffusion3Pipeline
    return cls(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl(4, shift_factor=0.0609, scaling_factor=1.5305),
        text_encoder=clip_text(tokenizer, 16, projected=True), tokenizer=tokenizer,
        text_encoder_2=clip_text(tokenizer, 16, projected=True), tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_text(tokenizer_3, 32), tokenizer_3=tokenizer_3, transformer=net,
    )  # fmt: skip


def flux(*, editor: bool) -> Any:
    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
    net = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    cls = diffusers.FluxKontextPipeline if editor else diffusers.FluxPipeline
    return cls(
        scheduler=flow(), vae=kl(4, **FLUX_KL), text_encoder=clip_text(tokenizer, 16), tokenizer=tokenizer,
        text_encoder_2=t5_text(tokenizer_2, 32), tokenizer_2=tokenizer_2, transformer=net,
    )  # fmt: skip


def qwen3_config(tokenizer: Any, *, layers: int) -> Any:
    return transformers.Qwen3Config(
        hidden_size=16, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=2,
        head_dim=8, vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def klein(*, distilled: bool = False) -> Any:
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = CHAT + "<|im_start|>assistant\n"
    text = transformers.Qwen3ForCausalLM(qwen3_config(tokenizer, layers=28))
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 16),
    }
    vae = diffusers.AutoencoderKLFlux2(
        **blocks, layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    assert vae.bn.running_mean is not None
    assert vae.bn.running_var is not None
    vae.bn.running_mean.copy_(torch.linspace(-0.3, 0.4, 16))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, 16))
    net = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    return diffusers.Flux2KleinPipeline(
        scheduler=flow(), vae=vae, text_encoder=text, tokenizer=tokenizer, transformer=net, is_distilled=distilled
    )


def processor(name: str) -> Any:
    images = transformers.Qwen2VLImageProcessor(
        patch_size=14, temporal_patch_size=2, merge_size=2, min_pixels=4 * 28 * 28, max_pixels=16 * 28 * 28
    )
    video = "Qwen3VLVideoProcessor" if name.startswith("Qwen3") else "Qwen2VLVideoProcessor"
    videos = getattr(transformers, video)(patch_size=14, temporal_patch_size=2, merge_size=2)
    return getattr(transformers, name)(
        image_processor=images, tokenizer=qwen_tokenizer(TEMPLATE_WORDS), video_processor=videos, chat_template=CHAT
    )


def vision_language(tokenizer: Any, which: str) -> Any:
    number = tokenizer.convert_tokens_to_ids
    ids = {
        "image_token_id": number("<|image_pad|>"), "video_token_id": number("<|video_pad|>"),
        "vision_start_token_id": number("<|vision_start|>"), "vision_end_token_id": number("<|vision_end|>"),
    }  # fmt: skip
    text: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": len(tokenizer), "rope_theta": 1e6, "bos_token_id": None,
        "eos_token_id": None,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
    }  # fmt: skip
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
        "patch_size": 14,
    }
    if which == "Qwen3VL":
        text |= {"head_dim": 8, "pad_token_id": None}
        vision |= {"deepstack_visual_indexes": [0]}
        config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
        return transformers.Qwen3VLForConditionalGeneration(config)
    vision |= {"fullatt_block_indexes": [1]}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen(kind: str) -> Any:
    z = 4
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=12, z_dim=z, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1] * z, latents_std=[1.3] * z,
    )  # fmt: skip
    net = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=4 * z, out_channels=z, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, guidance_embeds=False, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    read = processor("Qwen2VLProcessor")
    parts = {
        "scheduler": flow(), "vae": vae, "text_encoder": vision_language(read.tokenizer, "Qwen2_5_VL"),
        "tokenizer": read.tokenizer, "transformer": net,
    }  # fmt: skip
    if kind == "make":
        return diffusers.QwenImagePipeline(**parts)
    cls = diffusers.QwenImageEditPlusPipeline if kind == "plus" else diffusers.QwenImageEditPipeline
    return cls(**parts, processor=read)


def longcat() -> Any:
    read = processor("Qwen2VLProcessor")
    net = diffusers.LongCatImageTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    return diffusers.LongCatImageEditPipeline(
        scheduler=flow(), vae=kl(16, (8, 8, 8, 8), shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=vision_language(read.tokenizer, "Qwen2_5_VL"), tokenizer=read.tokenizer, text_processor=read,
        transformer=net,
    )  # fmt: skip


def dreamlite(*, mobile: bool = False) -> Any:
    read = processor("Qwen3VLProcessor")
    blocks: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        "up_block_types": ("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
    }
    net = diffusers.DreamLiteUNetModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4, **blocks,
        attention_head_dim=8, cross_attention_dim=16, transformer_layers_per_block=1,
    )  # fmt: skip
    vae = diffusers.AutoencoderTiny(
        in_channels=3, out_channels=3, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip
    cls = diffusers.DreamLiteMobilePipeline if mobile else diffusers.DreamLitePipeline
    return cls(
        text_encoder=vision_language(read.tokenizer, "Qwen3VL"), tokenizer=read.tokenizer, processor=read, vae=vae,
        unet=net, scheduler=flow(),
    )  # fmt: skip


def pixart(*, alpha: bool = False) -> Any:
    """Sigma; or alpha of 1024 px, which is told the size and shape of the picture."""
    tokenizer, heads = t5_tokenizer(), 3 if alpha else 2
    net = diffusers.PixArtTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1,
        cross_attention_dim=8 * heads, caption_channels=32, sample_size=128 if alpha else 32, patch_size=2,
        use_additional_conditions=alpha,
    )  # fmt: skip
    scheduler: Any = diffusers.DPMSolverMultistepScheduler(
        solver_order=1, beta_start=0.0001, beta_end=0.02, beta_schedule="linear"
    )
    return (diffusers.PixArtAlphaPipeline if alpha else diffusers.PixArtSigmaPipeline)(
        tokenizer=tokenizer, text_encoder=t5_text(tokenizer, 32), vae=kl(4, scaling_factor=0.13025), transformer=net,
        scheduler=scheduler,
    )  # fmt: skip


def sana() -> Any:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "\u2581", *(chr(c) for c in range(33, 127))]
    tokenizer: Any = transformers.GemmaTokenizer(
        vocab={p: i for i, p in enumerate(pieces)}, merges=[], model_max_length=512
    )
    text = transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, head_dim=8, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    coder: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        coder |= {
            f"{side}_block_types": ("ResBlock", "EfficientViTBlock"), f"{side}_block_out_channels": (8, 8),
            f"{side}_layers_per_block": (1, 1), f"{side}_qkv_multiscales": ((), (5,)),
        }  # fmt: skip
    vae = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, downsample_block_type="conv", upsample_block_type="interpolate",
        scaling_factor=0.41407, **coder,
    )  # fmt: skip
    net = diffusers.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=8,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        sample_size=32,
    )  # fmt: skip
    scheduler: Any = diffusers.DPMSolverMultistepScheduler(
        solver_order=1, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return diffusers.SanaPipeline(
        tokenizer=tokenizer, text_encoder=text, vae=vae, transformer=net, scheduler=scheduler
    )  # fmt: skip


def lucy() -> Any:
    tokenizer = t5_tokenizer()
    vae = diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1] * 4, latents_std=[1.3] * 4
    )
    net = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=8, out_channels=4, text_dim=16, freq_dim=16,
        ffn_dim=32, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip
    text = transformers.UMT5EncoderModel(
        transformers.UMT5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )
    return diffusers.LucyEditPipeline(
        tokenizer=tokenizer, text_encoder=text, vae=vae, transformer=net, expand_timesteps=True,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def z_image() -> Any:
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = CHAT + "<|im_start|>assistant\n"
    text = transformers.Qwen3Model(qwen3_config(tokenizer, layers=2))
    net = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=24, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[4, 4, 4], axes_lens=[1024, 64, 64],
    )  # fmt: skip
    return diffusers.ZImagePipeline(
        scheduler=flow(), vae=kl(4, **FLUX_KL), text_encoder=text, tokenizer=tokenizer, transformer=net
    )


CLIPS: dict[str, Callable[[], Any]] = {"lucy": lucy}
"""Those of clips."""
FAMILIES: dict[str, Callable[[], Any]] = {
    "klein": klein,
    "klein-distilled": lambda: klein(distilled=True),
    "dreamlite": dreamlite,
    "dreamlite-mobile": lambda: dreamlite(mobile=True),
    "sdxl-ip2p": lambda: sdxl(editor=True),
    "cosxl": lambda: sdxl(editor=True, cosxl=True),
    "kontext": lambda: flux(editor=True),
    "qwen-edit": lambda: qwen("edit"),
    "qwen-plus": lambda: qwen("plus"),
    "longcat": longcat,
    "sd3-ip2p": lambda: sd3(editor=True),
    "sdxl": lambda: sdxl(editor=False),
    "sd3": sd3,
    "flux": lambda: flux(editor=False),
    "qwen-image": lambda: qwen("make"),
    "z-image": z_image,
    "pixart": pixart,
    "pixart-alpha": lambda: pixart(alpha=True),
    "sana": sana,
}
"""Each by a short name."""


def write_family(name: str, directory: Path) -> Path:
    """Write a tiny random pipeline; the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = (FAMILIES | CLIPS)[name]()
    pipe.save_pretrained(directory)
    return directory
