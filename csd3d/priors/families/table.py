"""What differs between diffusers' pipelines: one row for each class. Light: imports no diffusers, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, cast

Kind = Literal["instruct", "text-to-image"]
"""The task of a prior: it follows instructions about a picture, or makes pictures of captions."""
Branch = Literal["00", "I0", "IT"]
"""A condition of the network: IT = picture and sentence, I0 = picture, 00 = neither. Without pictures: IT and 00."""
Layout = Literal["plain", "packed", "patched", "clip"]
"""Latents as a pipeline's `latents`: plain [n c h w], packed [n hw/4 4c] or patched [n 4c h/2 w/2]; of a clip of f
latent frames [n c f h w], which is [n c*f h w] to everybody else."""
Half = Literal["float16", "bfloat16"]


@dataclass(frozen=True)
class Family:
    """A pipeline class as a prior. What is not said here is found by recording it."""

    title: str
    """What people call the models."""
    kind: Kind
    """Its task."""
    branches: tuple[Branch, ...]
    """Rows of its network in one step, in their order, over all calls."""
    s_text: float
    """Default guidance scale of the text: what the pipeline itself takes, where that switches guidance on."""
    s_image: float = 1.0
    """Default guidance scale of the picture."""
    guides: bool = True
    """Whether its pipeline guides by text where nothing is said; a model that reads a scale of its own does not."""
    steps: int = 50
    """Of its sampler, where nothing is said."""
    text_scale: str | None = "guidance_scale"
    """Argument with which guidance by text is switched on; None: there is none."""
    text_offset: float = 0.0
    """By how much the scale of guidance is larger than that argument: 1 where it says c + s (c - u)."""
    image_scale: str | None = None
    """The same for guidance by the picture."""
    negative: bool = True
    """Whether it takes `negative_prompt`."""
    empty: str | None = None
    """The negative prompt where there is none, for pipelines that want one before they guide; None: leave it out."""
    layout: Layout = "plain"
    """Of its latents."""
    call: Mapping[str, object] = field(default_factory=dict[str, object])
    """More arguments of its call, such as those that keep it from choosing a size."""
    max_area: bool = False
    """Whether its call takes the area of the picture, `max_area`."""
    sized: bool = True
    """Whether its call takes `height` and `width`."""
    sized_by: str | None = None
    """Function of its module that chooses a size of about 1 MP for the source: while it is recorded, that is ours."""
    several: bool = False
    """Whether an editor's call takes several pictures: the source, and references after it."""
    picture_optional: bool = False
    """Whether an editor can be called without a picture, which makes the branch 00 that its guidance has not."""
    renormed: bool = False
    """Whether it scales a guided prediction to the norm of branch IT, token by token."""
    ours: bool = False
    """Whether its pipeline is in this room, as diffusers ships none."""
    mends: bool = False
    """Whether its pipeline mends broken characters of sentences, by ftfy; without that they are read as written."""
    spreads: bool = True
    """Whether its network's layers may lie on several GPUs: not where weights of its own meet what layers answer."""
    side_px: int | None = None
    """Shorter side of what it was trained on, where neither its pipeline nor its network says."""
    half: Half = "bfloat16"
    """Precision on CUDA."""
    needs: tuple[str, ...] = ()
    """Packages that it wants beside the core's."""

    @property
    def of_clips(self) -> bool:
        """Whether it edits clips: its particles are windows of one in time."""
        return self.layout == "clip"

    @property
    def distilled(self) -> "Family":
        """The same of models that predict in one branch, without guidance."""
        return replace(self, branches=("IT",), s_text=1.0, s_image=1.0)

    @property
    def s_sampled(self) -> float:
        """Guidance scale of the text in ordinary sampling, as its pipeline takes it."""
        return self.s_text if self.guides else 1.0


def _editor(title: str, branches: str, **more: Any) -> Family:  # fields of a row
    return Family(title, "instruct", tuple(cast(Branch, name) for name in branches.split()), **more)


def _maker(title: str, **more: Any) -> Family:  # fields of a row
    return Family(title, "text-to-image", **{"branches": ("00", "IT"), **more})


_DUAL = {"image_scale": "image_guidance_scale", "s_image": 1.5}
_TRUE_CFG = {"text_scale": "true_cfg_scale", "layout": "packed"}
_FLUX = {**_TRUE_CFG, "s_text": 2.5, "guides": False, "steps": 28, "empty": ""}
_QWEN = {**_TRUE_CFG, "s_text": 4.0, "empty": " ", "renormed": True}
_QWEN_EDIT = {**_QWEN, "sized_by": "calculate_dimensions", "needs": ("torchvision",)}
_UNBINNED = {"call": {"use_resolution_binning": False, "clean_caption": False}, "s_text": 4.5, "steps": 20}

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "StableDiffusionXLInstructPix2PixPipeline": _editor(
            "SDXL InstructPix2Pix, CosXL-Edit", "IT I0 00", s_text=5.0, half="float16", **_DUAL
        ),
        "StableDiffusion3InstructPix2PixPipeline": _editor(
            "SD3 InstructPix2Pix (UltraEdit)", "IT I0 00", s_text=7.0, ours=True, **_DUAL
        ),
        "DreamLitePipeline": _editor("DreamLite", "00 I0 IT", s_text=3.5, needs=("torchvision",), **_DUAL),
        "DreamLiteMobilePipeline": _editor(
            "DreamLite Mobile", "IT", s_text=1.0, text_scale=None, negative=False, needs=("torchvision",)
        ),
        "Flux2KleinPipeline": _editor(
            "FLUX.2 [klein]", "IT I0", s_text=4.0, negative=False, layout="patched", picture_optional=True,
            several=True,
        ),
        "FluxKontextPipeline": _editor(
            "FLUX.1 Kontext", "IT I0", picture_optional=True, max_area=True, call={"_auto_resize": False}, **_FLUX,
        ),
        "QwenImageEditPipeline": _editor("Qwen-Image-Edit", "IT I0", **_QWEN_EDIT),
        "QwenImageEditPlusPipeline": _editor("Qwen-Image-Edit-Plus (2509, 2511)", "IT I0", several=True, **_QWEN_EDIT),
        "LongCatImageEditPipeline": _editor(
            "LongCat-Image-Edit", "IT I0", s_text=4.5, layout="packed", sized=False, sized_by="calculate_dimensions",
            needs=("torchvision",),
        ),
        "LucyEditPipeline": _editor("Lucy Edit", "IT I0", s_text=5.0, layout="clip", mends=True, side_px=480),
        "StableDiffusionXLPipeline": _maker("SDXL", s_text=5.0, half="float16"),
        "StableDiffusion3Pipeline": _maker("Stable Diffusion 3, 3.5", s_text=7.0, steps=28),
        "FluxPipeline": _maker("FLUX.1", branches=("IT", "00"), **_FLUX),
        "QwenImagePipeline": _maker("Qwen-Image", branches=("IT", "00"), **_QWEN),
        "ZImagePipeline": _maker(
            "Z-Image", branches=("IT", "00"), s_text=6.0, text_offset=1.0, side_px=1024, spreads=False
        ),
        "PixArtSigmaPipeline": _maker("PixArt-Sigma", **_UNBINNED),
        "PixArtAlphaPipeline": _maker("PixArt-alpha", **_UNBINNED),
        "SanaPipeline": _maker("Sana", **_UNBINNED),
    }
)  # fmt: skip
"""Every class of pipeline that can be recorded, by its name in model_index.json."""
