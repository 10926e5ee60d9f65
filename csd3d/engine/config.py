"""The settings of the engine, the published methods as presets over them, and the published settings."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from csd3d.engine.kernels import Bandwidth, BandwidthRule
from csd3d.engine.regularisers import RESIDUAL_SCALE, FeatureSite
from csd3d.engine.stein import Normalise
from csd3d.engine.validate import require, require_choice, require_int, require_number

Residual = Literal["source", "noise"]
Coupling = Literal["svgd", "motion", "depth", "independent"]
KernelOn = Literal["noisy", "clean", "features"]
Weight = Literal["variance", "one", "velocity"]
Noise = Literal["independent", "shared"]
NoiseOn = Literal["cpu", "device"]
Timesteps = Literal["random", "descending"]
Optimizer = Literal["sgd", "adam"]
RegulariserName = Literal["none", "patch-nce"]
Method = Literal["csd-edit", "csd", "dds", "cds", "sds"]
Effort = Literal["quick", "normal", "careful"]


@dataclass(frozen=True)
class CsdConfig:
    """How particles are moved. The defaults are those of `csd-edit`, with our choices where the paper leaves room."""

    residual: Residual = "source"
    """What a particle's target prediction is compared with: `source` = the prediction for its source under the same
    noise (DDS, CDS, CSD-Edit); `noise` = the noise that was drawn (SDS, CSD)."""
    coupling: Coupling = "svgd"
    """`svgd`: particles mix their residuals through a kernel, pixel by pixel. `motion`, `depth`: each pixel with where
    its point is in the others, by the optical flow of a clip or the depth of a scene. `independent`: not at all."""
    kernel_on: KernelOn = "noisy"
    """What the kernel compares: the `noisy` latents of the step (the paper's), the `clean` ones, or perceptual
    `features` of the clean ones, from the decoder of the prior's codec (the paper has LPIPS in text-to-3D)."""
    bandwidth: Bandwidth = "median"
    """Width of the kernel exp(-gamma d^2): gamma = log(N + 1) / median of d^2, over distinct pairs (`median`) or over
    all N^2 entries as in the published code (`paper`, needs 3 particles); or gamma itself, in 1 / latent^2 (0 =
    all particles count the same)."""
    normalise: Normalise = "row-sum"
    """Divide a coupled update by the sum of its kernel weights (`row-sum`: step size independent of N) or by N
    (`count`, the paper's: steps about N / 2 times smaller, so its learning rates are larger)."""
    repulsion: float = 1.0
    """Strength of the term that keeps particles apart; 1 is the paper's, 0 turns it off."""
    regulariser: RegulariserName = "none"
    """`patch-nce`: features of every place of a particle are kept close to those of the same place of its source (CDS).
    """
    nce_weight: float = 3.0
    """Strength of `patch-nce` against the residual; 3 is the paper's."""
    nce_layers: FeatureSite = "self-attention"
    """Where its features are taken in the decoder of the prior's UNet: outputs of `self-attention` (the paper's), of
    `cross-attention`, or the prediction itself (`score`)."""
    nce_patches: int = 256
    """Places that it compares in each feature map, drawn at random."""
    nce_patch_sizes: tuple[int, ...] = (1, 2)
    """Sides of the patches over which features are averaged, in pixels of the feature map."""
    nce_temperature: float = 0.07
    """Temperature of its softmax."""
    weight: Weight = "variance"
    """Weight w(t) of a step: the `variance` of its noise, 1 - alpha_bar (SDS, CSD), `one` (DDS, CDS), or `velocity`,
    1 / (1 - sigma) of the flow level with as much noise, which makes residuals of noise such of velocity (RFDS)."""
    noise: Noise = "independent"
    """Every particle of a step gets noise of its own (`independent`), or all get the same (`shared`)."""
    noise_on: NoiseOn = "cpu"
    """Where noise is drawn: on the `cpu`, the same for a seed whatever computes, or on the `device` of the latents,
    with nothing to copy; other kinds of devices then draw other noise."""
    timesteps: Timesteps = "random"
    """Each timestep is drawn from the whole range (`random`, as published), or one from each of `steps` equal parts of
    it, from the noisiest down (`descending`): coarse changes come first, and fewer steps are enough."""
    steps: int = 200
    """Optimisation steps; in a run, moves of every particle, or steps of the ordinary sampler."""
    tolerance: float = 0.0
    """End before `steps` once moves are shorter than this share of the edit so far (root mean squares over all
    particles, in the last three moves): 0.05 = a twentieth, 0 = never."""
    lr: float = 0.5
    """Learning rate of the first step."""
    lr_decay: float = 0.9
    """Factor on the learning rate every `lr_decay_every` steps; 1 = constant."""
    lr_decay_every: int = 20
    """Steps between two decays of the learning rate."""
    anchor: float = 1.0
    """How strongly particles are held by their sources: 1 = the difference of noise predictions (DDS), 0 = that of
    velocities, at a particle's noisy place beside its source's (FlowEdit). Below 1 with `descending` timesteps only."""
    anchor_last: float | None = None
    """What `anchor` is at the last move; in between it goes straight (DVRF: from 1 to 0). None: the same."""
    optimizer: Optimizer = "sgd"
    """Rule that turns directions into moves. Learning rates of the two are not comparable."""
    t_min: int = 20
    """First timestep that may be drawn, of the prior's training schedule (usually of 1000)."""
    t_max: int = 500
    """Timesteps are drawn below this one."""
    shift: float = 1.0
    """Noise levels as for pictures so many times as wide: sigma / alpha of the timestep that was drawn, times `shift`
    (2 for 1024 px where settings are for 512); 1 = as drawn."""
    s_text: float = 7.5
    """Guidance scale of the text; 1 = none."""
    s_source: float | None = None
    """The same for the source under its caption (text-to-image priors only). None: the same as `s_text`."""
    s_image: float = 1.5
    """Guidance scale of the source image (instruction editors only); 1 = none, larger keeps more of the source."""
    guide_min: int = 0
    """Guidance counts from this timestep on. Below, and from `guide_max` on, predictions have none, which takes fewer
    evaluations of the network (Kynkaanniemi et al. 2024)."""
    guide_max: int | None = None
    """Guidance counts below this timestep. None: up to the noisiest."""
    guide_every: int = 1
    """What guidance takes from predictions without any condition, the difference between a particle and its source, is
    evaluated in one of so many of its moves and reused in between; 1 = in every one. For `residual` source,
    `descending` timesteps and priors of Stable Diffusion's kind."""

    def __post_init__(self) -> None:
        require_choice(self, "residual", "coupling", "kernel_on", "normalise", "regulariser", "nce_layers", "weight")
        require_choice(self, "noise", "noise_on", "timesteps", "optimizer")
        require_int(self, 0, None, "steps")
        require_int(self, 1, None, "lr_decay_every")
        require_int(self, 2, None, "nce_patches")
        require_int(self, None, None, "t_min", "t_max")
        require_int(self, 0, None, "guide_min", "guide_max")
        require_number(self, None, None, "lr", "lr_decay", "s_text", "s_image", "repulsion", "nce_weight")
        require_number(self, None, None, "nce_temperature")
        require_number(self, 0, None, "repulsion", "nce_weight")
        require(self, "lr", self.lr > 0, "a number above 0")
        require_number(self, None, None, "shift", "s_source")
        require_number(self, 0, 1, "anchor", "anchor_last", "tolerance")
        if self.anchor != 1 or self.anchor_last not in (None, 1):
            require(self, "residual", self.residual == "source", "source with an anchor below 1")
            require(self, "timesteps", self.timesteps == "descending", "descending with an anchor below 1")
        above = self.guide_max is None or self.guide_min < self.guide_max
        require(self, "guide_min", above, f"a timestep below guide_max = {self.guide_max}")
        require_int(self, 1, None, "guide_every")
        near = self.guide_every == 1 or self.timesteps == "descending"  # from move to move
        require(self, "guide_every", near, "1 with random timesteps (see --timesteps)")
        require(self, "shift", self.shift > 0, "a number above 0")
        require(self, "lr_decay", 0 < self.lr_decay <= 1, "a number in (0, 1]")
        require(self, "nce_temperature", self.nce_temperature > 0, "a number above 0")
        require(self, "nce_patch_sizes", _are_sizes(self.nce_patch_sizes), "whole numbers of 1 or more")
        require(self, "bandwidth", _is_bandwidth(self.bandwidth), "median, paper, or a finite gamma of 0 or more")
        require(self, "t_min", 0 <= self.t_min < self.t_max, f"0 or more and below t_max = {self.t_max}")


def _are_sizes(values: object) -> bool:
    if not isinstance(values, tuple) or not values:
        return False
    return all(type(size) is int and size >= 1 for size in cast(tuple[object, ...], values))


def _is_bandwidth(value: object) -> bool:
    if isinstance(value, str):
        return value in get_args(BandwidthRule)
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < inf


METHODS: Mapping[str, CsdConfig] = MappingProxyType(
    {
        "sds": CsdConfig(residual="noise", coupling="independent"),
        "csd": CsdConfig(residual="noise", coupling="svgd"),
        "dds": CsdConfig(residual="source", coupling="independent"),
        "cds": CsdConfig(residual="source", coupling="independent", regulariser="patch-nce"),
        "csd-edit": CsdConfig(residual="source", coupling="svgd"),
    }
)
"""Published methods, each a point of residual x coupling x regulariser, with our defaults for everything else.
`csd-edit` is for instruction editors, the others for text-to-image priors; any other combination is allowed."""


def method_changes(method: str) -> dict[str, object]:
    """The settings that make a named method: which residual, which coupling, which regulariser.

    Raises:
        ValueError: no method of that name.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    return {name: getattr(METHODS[method], name) for name in ("residual", "coupling", "regulariser")}


_PAPER = replace(METHODS["csd-edit"], bandwidth="paper", normalise="count")

_DELTA: Mapping[str, Any] = {
    "weight": "one", "lr": 0.1 * RESIDUAL_SCALE / 64**2, "lr_decay": 1.0, "t_min": 50, "t_max": 950, "s_text": 7.5,
}  # fmt: skip

PAPER: Mapping[str, CsdConfig] = MappingProxyType(
    {
        # CSD: 24 frames at 512 px, learning rates 0.25-2 and 100-500 steps, by clip
        "csd-edit-video": replace(_PAPER, lr=1.0, s_image=1.5),
        # CSD: windows of 64 x 64 latents, 4-8 a step; the text of the paper has s_image 1.5, its code 5
        "csd-edit-panorama": replace(_PAPER, lr=2.0, s_image=5.0),
        "csd-edit-panorama-hard": replace(_PAPER, lr=4.0, s_text=15.0, s_image=5.0),
        # lr 0.1 on 2000 <g, z> / (h w), which on the papers' 64 x 64 latents is the learning rate of `_DELTA`
        "dds": replace(METHODS["dds"], **_DELTA),
        "cds": replace(METHODS["cds"], **_DELTA, nce_weight=3.0),
    }
)
"""The published settings, for reproduction: the 1/N normalisation, the all-pairs bandwidth and learning rates that
belong to them. CSD's code draws t from [20, 500), its text says [200, 500): set `t_min` for the latter."""
