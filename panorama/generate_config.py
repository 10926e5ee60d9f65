"""The settings of pictures that are made from a caption alone."""

from dataclasses import dataclass, replace
from pathlib import Path

from csd3d.attention.layout import boxed_things
from csd3d.attention.presets import Attention
from csd3d.attention.steer import Pick, Steering
from csd3d.engine.validate import require, require_choice, require_int
from csd3d.priors.composed import Composed
from csd3d.priors.defaults import GenerateMethod
from csd3d.runs.config import RunConfig
from panorama.phrases import parse_regions


@dataclass(frozen=True)
class GenerateConfig(RunConfig):
    """How pictures are made. `csd.steps` counts the moves of every picture, or the steps of the ordinary sampler."""

    prior: str = "builtin:t2i"
    """`builtin:t2i` (small, knows a closed set of words), a folder in diffusers layout, or a hub id of a
    text-to-image model: Stable Diffusion 1.x or 2.x, SDXL, SD3, FLUX.1, Qwen-Image, PixArt, Sana."""
    method: GenerateMethod = "csd"
    """`csd`: pictures or windows made together, so that they agree; `sds`: each for itself; `ddim`: the ordinary
    sampler, which is DDIM for Stable Diffusion and the model's own for others."""
    n: int = 4
    """How many pictures; several get numbers, NAME-1.png and so on."""
    width: int | None = None
    """Width in px; wider pictures than the prior's own are made of overlapping windows. None: what the prior was
    trained at."""
    height: int | None = None
    """Height in px. None: what the prior was trained at."""
    wrap: bool = False
    """Close the picture: its left border goes on at the right."""
    windows_per_step: int = 8
    """Most pictures or windows in a step: bounds memory."""
    attention: tuple[str, ...] = ()
    """A method that changes attention, NAME or NAME:key=value,...: `structure` (phrases keep their colours),
    `reweight:word=snow,scale=1.5`, `sag`, `like`. As often as there are methods."""
    like: str | None = None
    """A picture that all are to look like: the network sees its places in the place of its own (Cross-Image attention),
    and colours go to its. Settings of it are --attention like:key=value,... None: there is none."""
    steer: str | None = None
    """Pictures steered so that every thing of the caption appears as it is named, `conform` or `excite`, or is where
    --box says, `layout`; or NAME:key=value,... with step or rms, until, rounds, columns, level, sites; conform also
    temperature, previous, negatives, layout outside and share. Of the sampler; with --method csd or sds a pull beside
    the prior's. None: pictures go where the prior leads them."""
    region: tuple[str, ...] = ()
    """Where a phrase of the caption holds, as a mask or as left, top, right and bottom from 0 to 1: mask.png="a red
    ball" or 0,0.4,0.5,1="a red ball" (dense text-to-image). As often as there are phrases; settings of it are
    --attention dense:key=value,..."""
    box: tuple[str, ...] = ()
    """Where a thing of the caption is to be, left, top, right and bottom from 0 to 1: "the ball=0.1,0.2,0.5,0.9"; the
    sampler is steered to it. As often as there are things; settings of it are --steer layout:key=value,..."""
    group: str = ""
    """The things of the caption with their attributes, such as "red ball | blue cube", for `steer`, `pick` and
    `structure`. Empty: as they are found."""
    pick: int = 1
    """Noises that are drawn for each picture by the sampler; the one is kept in which every thing shows best."""
    pick_after: int = 0
    """Steps of the sampler after which noises are looked at for `pick`; 0 = at once, later costs more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "method")
        require_int(self, 1, 10_000, "n")
        require_int(self, 1, None, "windows_per_step")
        require_int(self, 8, 100_000, "width", "height")
        require_int(self, 1, 1000, "pick")
        require_int(self, 0, None, "pick_after")
        require(self, "pick", self.pick == 1 or self.method == "ddim", f"--method ddim beside it, not {self.method}")
        require(self, "box", not self.box or self.method == "ddim", f"--method ddim beside it, not {self.method}")
        require(self, "control_picture", self.control is None or self.control_picture is not None, "one with --control")
        require(self, "group", not (self.box and self.group), "none beside --box, which names the things")
        _ = self.attending, self.steering, parse_regions(self.region)  # refuses what cannot be read
        if self.csd is not None:
            noise = self.csd.residual == "noise"
            require(self.csd, "residual", noise, "noise, as there is no source to compare with")
            require(self.csd, "guide_every", self.csd.guide_every == 1, "1, as no source is predicted")
            require_int(self.csd, 1, None, "steps")  # none would leave the noise that pictures begin with

    def placed(self) -> "GenerateConfig":
        """Masks of phrases too."""
        each = zip(self.region, parse_regions(self.region), strict=True)
        placed = (f"{at.resolve()}={phrase}" if isinstance(at, Path) else text for text, (at, phrase) in each)
        return replace(super().placed(), region=tuple(placed))

    @property
    def steering(self) -> Steering | None:
        """How pictures are steered, read."""
        _, boxes = boxed_things(self.box)
        steer = self.steer or ("layout" if boxes else None)
        return None if steer is None else Steering.of(steer, boxes)

    @property
    def things(self) -> str:
        """`group`, or the things of `box`."""
        return boxed_things(self.box)[0] or self.group

    @property
    def composed(self) -> Composed:
        """Steering of the sampler and choosing of noises."""
        return Composed(self.steering if self.method == "ddim" else None, Pick(self.pick, self.pick_after), self.things)

    @property
    def attending(self) -> Attention:
        """What is done inside the network, read; the sampler is steered for itself."""
        steer = None if self.method == "ddim" else self.steer
        likes, divides = self.like is not None, bool(self.region)
        return Attention.of("none", self.attention, steer, self.group, likes=likes, divides=divides)
