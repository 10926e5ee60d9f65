"""Which prior a method is for, and the engine settings and picture size that suit a prior. Loads no weights."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal

from csd3d.attention.steer import Steering
from csd3d.engine.config import METHODS, PAPER, CsdConfig, Effort, Method
from csd3d.engine.sampling import By
from csd3d.priors.families.table import Family, Kind

Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""In which a prior computes: `auto` is float16 on CUDA and float32 elsewhere; runs take more (`csd3d.runs.job`)."""
USUAL_PX = 512
"""Side in px of the pictures that a prior was trained on, where its files do not say."""
USUAL_TIMESTEPS = 1000
"""Timesteps that a prior was trained with, of which settings speak."""
BUILTIN = replace(
    METHODS["csd-edit"], steps=20, lr=1.5, lr_decay=1.0, timesteps="descending", t_max=900, s_text=1.0, s_image=1.0
)
"""What suits the small built-in editor, by `scripts/benchmarks/tables/speed.md`: it needs no guidance."""
_BUILTIN_EFFORTS: Mapping[Effort, CsdConfig] = {
    "quick": replace(BUILTIN, steps=10, lr=2.25),
    "normal": BUILTIN,
    "careful": replace(BUILTIN, steps=40, lr=0.75),
}
SAMPLING_STEPS: Mapping[Kind, int] = {"instruct": 20, "text-to-image": 25}
"""Noise levels of `--by sampling`, which an instruction editor needs fewer of, as its source holds the picture."""
BUILTIN_SAMPLING_GUIDANCE = 1.5
"""Of both kinds, where the small built-in editor samples: `scripts/benchmarks/tables/video-sampling.md`."""
GenerateMethod = Literal["csd", "sds", "ddim"]
"""How pictures are made of captions: together, each for itself, or by the ordinary sampler."""
SAMPLER_STEPS, SAMPLER_GUIDANCE = 50, 7.5
"""Of the ordinary sampler of Stable Diffusion, as its pipeline takes them."""
Particle = Literal["frames", "windows"]
"""What an editor moves: frames of a clip, or windows of a picture and views of a scene."""
PUBLISHED_LR: Mapping[Particle, float] = {"frames": 0.08, "windows": 0.45}
"""Of `csd-edit` with a big instruction editor: a step as long as the published one. Published is the sum over all
particles divided by their number N: a step of lr (1 + (N - 1) k) / N weighted means, where k = 1 / (N + 1) is about
what the published kernel gives another particle. Of 24 frames that is 1.0 x 0.080, of 8 windows 2.0 x 0.222. Updates
are weighted means here."""
BUILTIN_CAPTION_GUIDANCE = 3.0
"""Text guidance of the published text-to-image methods on the small built-in model."""

_PUBLISHED_STEERING: Mapping[str, Any] = {"step": 20.0, "rounds": 20, "columns": "all", "sites": ""}
_BUILTIN_STEERING: dict[str, Any] = {
    "rms": 0.03, "rounds": 5, "columns": "words", "level": 1, "sites": "up_blocks.1.attentions.0",
}  # fmt: skip
"""What `suited` fills in."""
_BUILTIN_SEGMENTS: Mapping[Kind, float] = {"instruct": 0.02, "text-to-image": 0.1}


def default_prior(method: Method | None) -> str:
    """The built-in prior that a method is for: the instruction editor, or the text-to-image model."""
    return "builtin" if method in (None, "csd-edit") else "builtin:t2i"


def default_config(
    method: Method | None = None,
    *,
    builtin: bool,
    kind: Kind | None = "instruct",
    effort: Effort | None = None,
    family: Family | None = None,
    by: By = "moves",
    of: Particle = "windows",
) -> CsdConfig:
    """Engine settings for editing with a prior, a small built-in or a big one, by a named method (None: `csd-edit`),
    at an effort (None: normal).

    Efforts of the built-in editor are measured. Elsewhere `quick` is a quarter of the usual steps, each four times
    as long, and `careful` twice as many, each half as long.
    `dds` and `cds` are as published; `sds`, `csd`, and `csd-edit` on a text-to-image prior start from the same learning
    rate and timesteps. Under `csd-edit` a prior whose `kind` is not known yet (None) counts as an instruction editor.
    Guidance scales are those of the prior's `family`, if it is of one. `by` sampling there are no methods. `of`: what
    is moved, see `PUBLISHED_LR`.

    Raises:
        ValueError: a method for sampling.
    """
    if by == "sampling":
        if method is not None:
            raise ValueError(f"method: expected none with --by sampling, which moves nothing, got {method!r}")
        kind = kind if family is None else family.kind
        return _sampling_config(kind, builtin=builtin, effort=effort, family=family)
    if family is not None:
        of = "windows" if family.of_clips else of
        config = default_config(method, builtin=builtin, kind=family.kind, effort=effort, of=of)
        return replace(config, s_text=family.s_text, s_image=family.s_image)
    method, effort = method or "csd-edit", effort or "normal"
    if method == "csd-edit" and kind != "text-to-image":
        return _BUILTIN_EFFORTS[effort] if builtin else _at(effort, replace(METHODS["csd-edit"], lr=PUBLISHED_LR[of]))
    delta = PAPER["cds" if METHODS[method].regulariser == "patch-nce" else "dds"]
    config = replace(delta, residual=METHODS[method].residual, coupling=METHODS[method].coupling)
    return _at(effort, replace(config, s_text=BUILTIN_CAPTION_GUIDANCE) if builtin else config)


def _sampling_config(kind: Kind | None, *, builtin: bool, effort: Effort | None, family: Family | None) -> CsdConfig:
    """Settings of which sampling takes `steps`, `t_max`, `noise` and the guidance scales. Frames get the same noise, by
    which they agree, but for those of an editor of clips, which knows how they belong together; efforts are half and
    twice the usual steps."""
    captions = kind == "text-to-image"
    steps = SAMPLING_STEPS["text-to-image" if captions else "instruct"]
    config = replace(
        METHODS["csd-edit"], coupling="independent", t_max=1000,
        noise="independent" if family is not None and family.of_clips else "shared",
        steps=round(steps * {"quick": 0.5, "normal": 1.0, "careful": 2.0}[effort or "normal"]),
    )  # fmt: skip
    if family is not None:
        return replace(config, s_text=family.s_sampled, s_image=family.s_image)
    if not builtin:
        return config
    if captions:
        return replace(config, s_text=BUILTIN_CAPTION_GUIDANCE)
    return replace(config, s_text=BUILTIN_SAMPLING_GUIDANCE, s_image=BUILTIN_SAMPLING_GUIDANCE)


def for_timesteps(config: CsdConfig, num_timesteps: int) -> CsdConfig:
    """The same range of noise for a prior that was trained with another number of timesteps than `USUAL_TIMESTEPS`."""
    if num_timesteps == USUAL_TIMESTEPS:
        return config
    share = num_timesteps / USUAL_TIMESTEPS
    t_min, t_max, guide_min = (round(t * share) for t in (config.t_min, config.t_max, config.guide_min))
    guide_max = None if config.guide_max is None else max(round(config.guide_max * share), guide_min + 1)
    return replace(config, t_min=t_min, t_max=max(t_max, t_min + 1), guide_min=guide_min, guide_max=guide_max)


def _at(effort: Effort, usual: CsdConfig) -> CsdConfig:
    """The same way in fewer, longer steps, or in more and shorter ones."""
    share = {"quick": 0.25, "normal": 1.0, "careful": 2.0}[effort]
    every = max(1, round(usual.lr_decay_every * share))
    return replace(usual, steps=round(usual.steps * share), lr=usual.lr / share, lr_decay_every=every)


def generation_config(method: GenerateMethod, *, builtin: bool, family: Family | None = None) -> CsdConfig:
    """Engine settings for making pictures from noise, nearly all timesteps; of the ordinary sampler, `ddim`, only steps
    and guidance count, and of a family they are those of its pipeline."""
    config = replace(METHODS["sds" if method == "sds" else "csd"], t_max=980, lr_decay=1.0, optimizer="adam", lr=0.05)
    if method == "ddim":
        steps, s_text = (SAMPLER_STEPS, SAMPLER_GUIDANCE) if family is None else (family.steps, family.s_sampled)
        return replace(config, steps=steps, s_text=s_text)
    return replace(config, steps=200, s_text=7.5) if builtin else replace(config, steps=500, s_text=30.0)


def suited(steering: Steering, *, builtin: bool, pulls: bool = False) -> Steering:
    """Complete: what is None is as published, or what suits the small built-in model.

    That one looks mostly at padding, so only words are compared; at one site, where the peak of a noun says best
    whether the thing will be there; and moves are a share of the latent, of which more is needed where it `pulls`
    particles that are moved by the prior too.
    """
    usual = _BUILTIN_STEERING | ({"rms": 0.3} if pulls else {}) if builtin else _PUBLISHED_STEERING
    given = {f.name for f in fields(steering) if getattr(steering, f.name) is not None}
    given |= {"step", "rms"} if given & {"step", "rms"} else set()
    return replace(steering, **{name: value for name, value in usual.items() if name not in given})


def segment_threshold(kind: Kind, *, builtin: bool) -> float:
    """The divergence below which places are of one segment (`csd3d.attention.segments`): as published for Stable
    Diffusion; the small built-in priors, whose attention is softer, have less of it between any two places."""
    return _BUILTIN_SEGMENTS[kind] if builtin else 0.9


def feature_level(*, builtin: bool) -> int:
    """How often the maps were halved whose features tell points apart (`csd3d.attention.correspondences`): once, as
    Stable Diffusion's second block of the decoder leaves them; the built-in priors have maps of 8 x 8 places there."""
    return 0 if builtin else 1


def trained_side_lat(unet_config: Mapping[str, object]) -> int | None:
    """Shorter side in latents of what a UNet was trained on: `sample_size` of its config, a number or [height, width].

    None where it does not say, or says something else.
    """
    size = unet_config.get("sample_size")
    sides = size if isinstance(size, list | tuple) else [size]
    whole = [side for side in sides if type(side) is int and side > 0]
    return min(whole) if whole and len(whole) == len(sides) else None


def native_px(unet_config: Mapping[str, object], factor: int) -> int:
    """Side in px of the pictures that a latent diffusion model was trained on; `factor` px along a side of a latent."""
    side = trained_side_lat(unet_config)
    return USUAL_PX if side is None else side * factor
