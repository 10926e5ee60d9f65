"""How a scene is edited: the settings of the pipeline, which are its command-line help too.

Those of the engine are flags too, made from `CsdConfig`, where alone they are declared, explained and checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar, get_type_hints

import tyro
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig

from csd3d.attention.presets import Attention, Sharing
from csd3d.engine.config import METHODS, PAPER, CsdConfig, Method, method_changes
from csd3d.engine.validate import LARGEST_SIDE_PX, require, require_int, require_number, require_seed
from csd3d.priors.defaults import default_config, default_prior
from csd3d.priors.families.table import Family, Kind
from csd3d.priors.loading import Loading
from csd3d.priors.store.resolve import Resolved, resolve
from csd3d.runs.settings import field_help

PAPER_VIEWS = 3
"""The published bandwidth is not finite with fewer."""
EDIT_STEPS = 100
"""Moves of a view, where the timesteps that suit a prior are random."""
ENGINE_SETTINGS = tuple(field.name for field in fields(CsdConfig) if field.name not in ("steps", "coupling"))
"""The engine's settings, but for two that have names and meanings of their own here: `steps` is `edit_steps`, and
`coupling` knows `paper` too."""
NAMES_ELSEWHERE = {
    "prompt": ("text", "instruction", "edit"),
    "s_text": ("guidance-scale",),
    "s_image": ("image-guidance-scale",),
}
"""What Instruct-NeRF2NeRF and others call a setting. `ns-train` takes these names too, also after `pipeline.`: its
suggestions lead elsewhere, and come after half a minute."""
T = TypeVar("T")


def also_called(name: str) -> list[str]:
    """Further flags of a setting of the pipeline."""
    return [f"--{prefix}{other}" for other in NAMES_ELSEWHERE.get(name, ()) for prefix in ("", "pipeline.")]


Sentence = Annotated[Optional[str], tyro.conf.arg(aliases=also_called("prompt"))]  # noqa: UP045 - as nerfstudio reads it


def require_one_prompt(settings: Any) -> None:
    """Raises `ValueError` where nerfstudio's `--prompt` and `--pipeline.prompt` are given and differ."""
    alias = settings.model.prompt
    if None not in (alias, settings.prompt):
        require(settings, "prompt", settings.prompt == alias, f"the same as --prompt, {alias!r}")


def with_engine_settings(kind: type[T], names: Sequence[str] = ENGINE_SETTINGS) -> type[T]:
    """Give a class that becomes a dataclass settings of the engine as fields, None unless given, with their help."""
    types, docs = get_type_hints(CsdConfig), field_help(CsdConfig)
    for name in names:
        suits = "(default: what suits the prior and the method)"
        flag = tyro.conf.arg(help=docs[name], help_behavior_hint=suits, aliases=also_called(name) or None)
        # a hint held in a variable
        kind.__annotations__[name] = Annotated[Optional[types[name]], flag]  # noqa: UP045
        setattr(kind, name, None)
    return kind


def with_loading(kind: type[T]) -> type[T]:
    """Give a class that becomes a dataclass the settings of how a prior is read, as in every command."""
    types, docs = get_type_hints(Loading), field_help(Loading)
    for field in fields(Loading):
        kind.__annotations__[field.name] = Annotated[types[field.name], tyro.conf.arg(help=docs[field.name])]
        setattr(kind, field.name, field.default)
    return kind


@dataclass
@with_loading
@with_engine_settings
class EditSettings(VanillaPipelineConfig):
    """How a scene is edited. `pipeline.prompt` is the sentence."""

    prompt: Sentence = None
    """What to change, for instance "make it snowy". None: only train the scene (the viewer can still set it)."""
    source_prompt: str | None = None
    """What the scene shows, for text-to-image priors. After a further prompt: what the prompt before made of it."""
    method: Method | None = None
    """How views are moved: `csd-edit` for instruction editors (None: the same), the others for text-to-image priors,
    which take captions: of the result, and in `source_prompt` of the scene (not needed by sds and csd)."""
    prior: str | None = None
    """`builtin` (small, knows a closed set of sentences), `builtin:t2i` (for captions), a folder in diffusers layout,
    or a hub id. None: the built-in one that the method is for."""
    prior_device: str | None = None
    """Device of the prior; None: the field's."""
    driver: Literal["update", "distil"] = "update"
    """`update`: edited views replace training images. `distil`: the gradient of a few renders arrives at the field in
    every step, instead of that of the photographs, which hold what is outside of masks and box only (not for splats;
    knows neither `strength` nor `detail`)."""
    size: int | None = None
    """Shorter side in px at which the prior works; None: what it was trained at."""
    scene_steps: int = 30_000
    """Steps before the first edit when training starts from nothing. From a checkpoint the first edit is at once."""
    edit_every: int = 2_000
    """Training steps for each batch of edited views. The batches that a prompt needs to edit every view once come
    together; all their steps follow. Nothing with driver `distil`, which edits in every step."""
    views_per_edit: int = 16
    """Views edited together."""
    edit_steps: int | None = None
    """Moves of every view of a batch. None: as many as suit the small built-in editor, 20; else 100."""
    distil_views: int = 4
    """Views rendered in a step of `distil`."""
    distil_px: int = 128
    """Their shorter side in px; the prior sees them scaled up to its size."""
    distil_patches: bool = False
    """Squares of `distil_px` px cut out of views at the prior's size, instead of whole views."""
    coupling: Literal["svgd", "depth", "paper", "independent"] | None = None
    """How views move: together where they show the same point of the scene, by the field's depth (`depth`), together
    pixel by pixel (`svgd`), the same with the published kernel, normalisation and learning rate (`paper`, needs 3
    views), or each for itself (`independent`). None: `depth` for csd-edit and csd, `svgd` where the driver is `distil`;
    else `independent`."""
    share: Sharing = "none"
    """Who sees whom inside the network: `anchors` = in every self-attention all views of a step look at the same few of
    them too, which makes them agree; editors that take several pictures see the sources of those few as references."""
    attention: tuple[str, ...] = ()
    """Methods that change attention, each NAME or NAME:key=value,...: `reweight:word=snow,scale=1.5`, `p2p`, `pnp`,
    `masactrl`, `kv-fusion`, `structure`, `sag`."""
    steer: str | None = None
    """A pull beside the prior's, by which every thing of the sentence is to show in every view: `conform`, `excite`, or
    NAME:key=value,...; see `csd3d video --help`. None: the prior's alone."""
    group: str = ""
    """The things of the sentence with their attributes, such as "red ball | blue cube", for `steer` and `structure`.
    Empty: as they are found."""
    strength: float = 1.0
    """Strength of the edit, 0 to 1: 0 gives the photographs back, 1 the whole edit."""
    detail: float = 1.0
    """Share of the photographs' fine detail that is put back, 0 to 1."""
    mask: Literal["auto"] | None = None
    """`auto`: views change only where the prior finds the edit, if that is not everywhere. Masks are in the folder
    `masks` of the run, as `mask_dir` takes them. None: everywhere, or by the settings below."""
    mask_words: str | None = None
    """Views change only where they show what these words name, such as "the ball", found by attention; `instruction`:
    the thing that the sentence itself names. Instead of `mask`."""
    mask_dir: Path | None = None
    """Folder of masks named as the training images: views change where they are white, elsewhere they stay bit-equal.
    A view without a mask may change everywhere."""
    box: tuple[float, float, float, float, float, float] | None = None
    """Only what lies in this box changes: least x, y, z and largest x, y, z, in the scene's coordinates (those of the
    viewer's crop box)."""
    seed: int = 0
    """Of the edits: which views, which noise."""

    def check(self) -> Resolved:
        """The prior that is asked for; raises `ValueError` or `TypeError` for settings that cannot be used."""
        for name, sentence in (("prompt", self.asked_prompt), ("source_prompt", self.source_prompt)):
            require(self, name, sentence is None or bool(sentence.strip()), "a sentence")
        require_one_prompt(self)
        require_int(self, 1, None, "edit_every", "views_per_edit", "distil_views", "distil_px")
        require_int(self, 0, None, "scene_steps")
        if self.edit_steps is not None:
            require_int(self, 0, None, "edit_steps")
        require_seed(self)
        if self.size is not None:
            require(self, "size", self.size >= 8, "8 px or more")
            require(self, "size", self.size <= LARGEST_SIDE_PX, f"at most {LARGEST_SIDE_PX} px")
        if self.box is not None and not all(low < high for low, high in zip(self.box[:3], self.box[3:], strict=True)):
            raise ValueError(f"box: expected least x, y, z below largest x, y, z, got {' '.join(map(str, self.box))}")
        require_number(self, 0, 1, "strength", "detail")
        if self.mask_words is not None:
            require(self, "mask_words", bool(self.mask_words.strip()), "what to look for, such as 'the ball'")
            require(self, "mask", self.mask is None, f"none beside mask_words {self.mask_words!r}")
        if self.driver == "distil":
            whole_images = isinstance(self.model, SplatfactoModelConfig)
            require(self, "driver", not whole_images, "update for splats, whose training cannot render patches")
            ordered = getattr(self, "timesteps") == "descending"  # noqa: B009 - a field of `with_engine_settings`
            require(self, "timesteps", not ordered, "random with driver distil, whose steps have no end")
            asked = getattr(self, "tolerance")  # noqa: B009 - likewise
            require(self, "tolerance", not asked, "0 with driver distil, whose steps have no end")
            reused = getattr(self, "guide_every")  # noqa: B009 - likewise
            require(self, "guide_every", reused in (None, 1), "1 with driver distil, whose renders are never the same")
            for name in ("strength", "detail"):
                require(self, name, getattr(self, name) == 1, "1 with driver distil, which replaces no picture")
        _ = self.attending  # refuses what cannot be read
        engine = self.engine(builtin=True)
        views = "views_per_edit" if self.driver == "update" else "distil_views"
        if engine.coupling == "svgd" and engine.bandwidth == "paper":
            named = "coupling paper" if self.coupling == "paper" else "bandwidth paper"
            require(self, views, getattr(self, views) >= PAPER_VIEWS, f"{PAPER_VIEWS} or more with {named}")
        how = Loading.of(self)
        how.check(depth_known=self.driver == "update")
        require(self, "control_picture", how.control_picture is None, "none, views are guarded by what each shows")
        prior = resolve(self.prior_name, how)
        self.require_kind(prior.kind)
        return prior

    @property
    def attending(self) -> Attention:
        """How the attention of the prior is controlled. Raises `ValueError` for methods that cannot be read."""
        return Attention.of(self.share, self.attention, self.steer, self.group)

    @property
    def asked_prompt(self) -> str | None:
        """The sentence that is asked for, as `--pipeline.prompt` or by nerfstudio's `--prompt`."""
        return self.model.prompt if self.prompt is None else self.prompt

    @property
    def by_depth(self) -> bool:
        """Whether views are coupled where they show the same point of the scene."""
        coupled = METHODS[self.method or "csd-edit"].coupling == "svgd"
        return self.coupling == "depth" or (self.coupling is None and coupled and self.driver == "update")

    @property
    def prior_name(self) -> str:
        """The prior that is asked for."""
        return self.prior or default_prior(self.method)

    def require_kind(self, kind: Kind | None) -> None:
        """Raises `ValueError` for a prior of a kind that the method is not for; None: not known yet."""
        if kind == "text-to-image" and self.method in (None, "csd-edit"):
            raise ValueError(
                f"method: expected sds, csd, dds or cds for the text-to-image model {self.prior_name}, got csd-edit, "
                "which is for instruction editors"
            )

    def engine(self, *, builtin: bool, family: Family | None = None) -> CsdConfig:
        """Settings of the engine for one batch of views; those that are not given suit the prior: the small built-in
        one, or a big one, by its family. Raises `ValueError` or `TypeError` for values that the engine refuses."""
        suited = default_config(self.method, builtin=builtin, family=family)
        if self.driver == "distil" and suited.timesteps == "descending":  # whose steps have no end to descend to
            suited = replace(suited, timesteps="random", t_max=METHODS["csd-edit"].t_max)
        named = method_changes(self.method or "csd-edit")
        if self.coupling == "paper":
            suited = replace(PAPER["csd-edit-video"], s_text=suited.s_text, s_image=suited.s_image)
        if self.coupling is not None:
            named["coupling"] = "independent" if self.coupling == "independent" else "svgd"
        given = {name: value for name in ENGINE_SETTINGS if (value := getattr(self, name)) is not None}
        usual = suited.steps if suited.timesteps == "descending" else EDIT_STEPS
        return replace(suited, steps=usual if self.edit_steps is None else self.edit_steps, **named | given)


CsdEditPipelineConfig = EditSettings
"""What `config.yml` of earlier versions calls it. There `_target` is written out."""
