"""How a scene is made from a sentence: the settings of the pipeline, which are its command-line help too."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig

from csd3d.engine.config import CsdConfig
from csd3d.engine.validate import LARGEST_SIDE_PX, require, require_choice, require_int, require_number, require_seed
from csd3d.nerf.settings import Sentence, require_one_prompt, with_engine_settings, with_loading
from csd3d.priors.defaults import generation_config
from csd3d.priors.families.table import Kind
from csd3d.priors.loading import Loading
from csd3d.priors.store.resolve import Resolved, resolve

ENGINE_SETTINGS = ("kernel_on", "bandwidth", "normalise", "repulsion", "weight", "noise", "t_min", "t_max", "s_text")
"""The engine's settings that mean something where the field's optimiser makes the moves and there is no source."""
BIG_GUIDANCE, SMALL_GUIDANCE = 100.0, 15.0
"""Text guidance for big priors, as in DreamFusion, and for the small built-in one."""


@dataclass
@with_loading
@partial(with_engine_settings, names=ENGINE_SETTINGS)
class Text3dSettings(VanillaPipelineConfig):
    """How a scene is made. `pipeline.prompt` is the sentence."""

    prompt: Sentence = None
    """What the scene shows, for instance "a red ball on grass"."""
    negative_prompt: str = ""
    """What predictions are guided away from."""
    method: Literal["csd", "sds"] = "csd"
    """`csd`: the renders of a step are moved together; `sds`: each for itself, to compare."""
    prior: str = "builtin:t2i"
    """`builtin:t2i` (small, knows a closed set of words), a folder in diffusers layout, or a hub id of a Stable
    Diffusion 1.x or 2.x."""
    prior_device: str | None = None
    """Device of the prior; None: the field's."""
    size: int | None = None
    """Side in px at which the prior works; None: what it was trained at."""
    views_per_step: int = 4
    """Renders of a step, from cameras around the scene: the particles."""
    render_px: tuple[int, ...] = (64, 128)
    """Side of renders in px, each for an equal share of `anneal_steps`; the prior sees them scaled to its size."""
    viewpoints: bool = True
    """Say in the caption from which side a camera looks (front, side, back, overhead view), where the prior knows the
    words."""
    anneal_steps: int = 10_000
    """Steps in which timesteps fall and renders grow; afterwards both stay as they are at the end."""
    t_max_last: int = 500
    """What `t_max` falls to."""
    opacity: float = 0.0
    """Strength of the term that keeps the scene empty."""
    entropy: float = 0.0
    """Strength of the term that leaves no fog: rays are stopped or not."""
    orientation: float = 0.0
    """Strength of the term that keeps surfaces from looking away from the camera."""
    seed: int = 0
    """Of cameras, timesteps and noise."""

    def check(self) -> Resolved:
        """The prior that is asked for; raises `ValueError`, `TypeError` or `FileNotFoundError` for settings that cannot
        be used."""
        require(self, "prompt", bool((self.asked_prompt or "").strip()), "a sentence: what the scene is to show")
        require_one_prompt(self)
        data = self.datamanager.data
        if data is not None:
            raise ValueError(f"data: expected none, as scenes from a sentence need no photographs, got {data}")
        require_choice(self, "method")
        require_int(self, 1, None, "views_per_step", "anneal_steps", "t_max_last")
        require_seed(self)
        require_number(self, 0, None, "opacity", "entropy", "orientation")
        sizes = bool(self.render_px) and all(size >= 8 for size in self.render_px)
        require(self, "render_px", sizes, "sides of 8 px or more")
        if self.size is not None:
            require(self, "size", self.size >= 8, "8 px or more")
            require(self, "size", self.size <= LARGEST_SIDE_PX, f"at most {LARGEST_SIDE_PX} px")
        engine = self.engine(builtin=True)
        require(self, "t_max_last", self.t_max_last > engine.t_min, f"above t_min = {engine.t_min}")
        few = engine.coupling == "svgd" and engine.bandwidth == "paper" and self.views_per_step < 3
        require(self, "views_per_step", not few, "3 or more with bandwidth paper")
        how = Loading.of(self)
        how.check()
        require(self, "control", how.control is None, "none, as there is no source")
        prior = resolve(self.prior, how)
        self.require_kind(prior.kind)
        return prior

    @property
    def asked_prompt(self) -> str | None:
        """The sentence that is asked for, as `--pipeline.prompt` or by nerfstudio's `--prompt`."""
        return self.prompt or self.model.prompt

    @property
    def given(self) -> dict[str, Any]:
        """The engine's settings that were given."""
        return {name: value for name in ENGINE_SETTINGS if (value := getattr(self, name)) is not None}

    def require_kind(self, kind: Kind | None) -> None:
        """Raises `ValueError` for a prior that takes no captions; None: not known yet."""
        require(self, "prior", kind != "instruct", "a text-to-image model, not an instruction editor")

    def engine(self, *, builtin: bool) -> CsdConfig:
        """Settings of the engine; those that are not given suit the prior: the small built-in one, or a big one. Raises
        `ValueError` or `TypeError` for values that the engine refuses."""
        suited = generation_config(self.method, builtin=builtin)
        suited = replace(suited, s_text=SMALL_GUIDANCE if builtin else BIG_GUIDANCE)
        return replace(suited, **self.given)
