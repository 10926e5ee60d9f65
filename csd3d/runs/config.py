"""The settings that all editors have. An editor's own dataclass adds to them, and is its command line and its manifest.

Fields are documented under themselves; what stands there is the flag's help. "None: ..." at its end says what leaving a
setting out means.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from csd3d.attention.presets import Attention, Sharing
from csd3d.engine.config import CsdConfig
from csd3d.engine.sampling import By, Start
from csd3d.engine.validate import require, require_choice, require_int, require_seed
from csd3d.priors.defaults import Precision
from csd3d.priors.loading import Loading

C = TypeVar("C", bound="RunConfig")
AUTO = "auto"
"""The mask of the settings that is found; a file of that name is ./auto."""


@dataclass(frozen=True)
class RunConfig(Loading):
    """Settings of any run. Immutable; the manifest holds them in full."""

    csd: CsdConfig | None = None
    """Settings of the engine. None: those that suit the prior."""
    prior: str = "builtin"
    """`builtin` (small, knows a closed set of sentences), `builtin:t2i` (small, for captions), a folder in diffusers
    layout, or a hub id such as timbrooks/instruct-pix2pix."""
    source_prompt: str | None = None
    """What the source shows, for text-to-image priors. Instruction editors take none."""
    negative_prompt: str = ""
    """What guidance leads away from, in the place of the empty text."""
    seed: int = 0
    """Seed of all randomness: same seed, same result."""
    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`, ... None: CUDA where there is one."""
    precision: Precision = "auto"
    """In which the prior computes. `auto`: float16 on CUDA; on a CPU bfloat16 for the built-in editor if the CPU has it
    (AVX512-BF16 or AMX), which takes half as long and differs by some 0.4 % of a prediction; else float32."""
    checkpoint_every: int = 10
    """Steps of the loop between two saved states; a move of many particles takes several."""

    def __post_init__(self) -> None:
        require_seed(self)
        for name in ("mask", "like"):  # of editors that have them: an empty path would be the working folder
            require(self, name, getattr(self, name, None) != "", "a path")
        require_choice(self, "precision")
        require_int(self, 1, None, "checkpoint_every")

    @property
    def kept_on_resume(self) -> tuple[str, ...]:
        """Dotted names of settings that may not change when a run is resumed, although other runs of the editor may."""
        return ()

    def placed(self: C) -> C:
        """The settings with absolute places of what an editor reads beside its source: a run is resumed from anywhere.
        Raises ValueError for texts in which no file can be found."""
        files = {name: getattr(self, name, None) for name in ("like", "mask")}  # of editors that have them
        places = {name: str(Path(file).resolve()) for name, file in files.items() if file not in (None, AUTO)}
        return replace(self, **places)

    @property
    def engine(self) -> CsdConfig:
        """Settings of the engine, once a run has completed its config (`csd3d.runs.job.run_job`)."""
        assert self.csd is not None
        return self.csd


@dataclass(frozen=True)
class EditConfig(RunConfig):
    """Settings of runs that edit several particles of one source."""

    by: By = "moves"
    """What makes the edit. `moves`: sources are moved step by step, coupled to each other. `sampling`: they are brought
    to noise and sampled from it under the sentence; each sees its source, and they agree by the same noise and by
    --share. Quick; `steps`, `t_max`, `noise` and guidance are then all that counts of the engine's settings."""
    start: Start | None = None
    """With --by sampling, how sources come to noise: `noised` = they are mixed with it, up to --t-max (SDEdit);
    `inverted` = by DDIM inversion, the noise from which sampling leads back to them. None: noised for instruction
    editors, inverted for text-to-image priors."""
    rounds: int = 1
    """Of the fixed point in each step of an inversion, each of which takes as long as the step and makes the way back
    to the source more exact: 0 = plain DDIM inversion."""
    share: Sharing = "none"
    """Who sees whom inside the network: `anchors` = in every self-attention all particles of a step look at the same
    few of them too, which makes them agree; editors that take several pictures (FLUX.2 [klein], Qwen-Image-Edit-Plus)
    see the sources of those few as references."""
    attention: tuple[str, ...] = ()
    """A method that changes attention, NAME or NAME:key=value,...: `reweight:word=snow,scale=1.5`, `p2p`, `pnp`,
    `masactrl`, `kv-fusion`, `structure`, `sag`, `like`, `eye` (of clips). As often as there are methods."""
    like: str | None = None
    """A picture that the result is to look like: the network sees its places in the place of its own (Cross-Image
    attention), and colours go to its. Settings of it are --attention like:key=value,... None: there is none."""
    steer: str | None = None
    """A pull beside the prior's, by which every thing of the sentence is to show in every particle: `conform`,
    `excite`, or NAME:key=value,... with step or rms, until, columns, level, sites; conform also temperature, previous,
    negatives. Not with --by sampling. None: the prior's alone."""
    group: str = ""
    """The things of the sentence with their attributes, such as "red ball | blue cube", for `steer` and `structure`.
    Empty: as they are found."""
    mask_words: str | None = None
    """Edit only what these words name in the source, such as "the ball", found by attention; `instruction`: the thing
    that the sentence itself names. Instead of --mask. None: as --mask says."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "share", "by", "start")
        require_int(self, 0, 20, "rounds")
        sampled = self.by == "sampling"
        require(self, "start", sampled or self.start is None, "none but with --by sampling")
        if sampled and self.csd is not None:
            csd = self.csd
            require(csd, "coupling", csd.coupling == "independent", "independent with --by sampling (see --share)")
            require(csd, "regulariser", csd.regulariser == "none", "none with --by sampling")
            require(csd, "shift", csd.shift == 1, "1 with --by sampling (see --t-max)")
            require(csd, "steps", csd.steps > 0, "1 or more with --by sampling")
            require(csd, "tolerance", csd.tolerance == 0, "0 with --by sampling, whose steps all count")
            require(csd, "guide_every", csd.guide_every == 1, "1 with --by sampling")
        if self.mask_words is not None:
            require(self, "mask_words", bool(self.mask_words.strip()), "what to look for, such as 'the ball'")
            mask = getattr(self, "mask", None)  # of the editor's own
            require(self, "mask", mask is None, f"none beside mask-words {self.mask_words!r}")
        require(self, "steer", self.steer is None or not sampled, "none with --by sampling")
        _ = self.attending  # refuses what cannot be read

    @property
    def kept_on_resume(self) -> tuple[str, ...]:
        """The steps of sampling, which decide on its noise levels."""
        return ("csd.steps",) if self.by == "sampling" else ()

    @property
    def attending(self) -> Attention:
        """What is done inside the network, read."""
        likes = self.like is not None
        return Attention.of(self.share, self.attention, self.steer, self.group, likes=likes)
