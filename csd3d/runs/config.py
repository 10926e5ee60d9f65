"""The settings that all editors have. An editor's own dataclass adds to them, and is its command line and its manifest.

Fields are documented under themselves; what stands there is the flag's help. "None: ..." at its end says what leaving a
setting out means.
"""

from dataclasses import dataclass

from csd3d.attention.presets import Attention, Sharing
from csd3d.engine.config import CsdConfig
from csd3d.engine.validate import require, require_choice, require_int
from csd3d.priors.defaults import Precision
from csd3d.priors.loading import Loading


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
    """In which the prior computes. `auto`: float16 on CUDA, else float32, where a seed gives the same bytes. `bfloat16`
    takes 0.6 times as long on a CPU that has it (AVX512-BF16 or AMX); predictions differ by some 0.4 %."""
    checkpoint_every: int = 10
    """Steps of the loop between two saved states; a move of many particles takes several."""

    def __post_init__(self) -> None:
        require_int(self, 0, 2**63 - 1, "seed")
        require_choice(self, "precision")
        require_int(self, 1, None, "checkpoint_every")

    @property
    def engine(self) -> CsdConfig:
        """Settings of the engine, once a run has completed its config (`csd3d.runs.job.run_job`)."""
        assert self.csd is not None
        return self.csd


@dataclass(frozen=True)
class EditConfig(RunConfig):
    """Settings of runs that edit several particles of one source."""

    share: Sharing = "none"
    """Who sees whom inside the network: `anchors` = in every self-attention all particles of a step look at the same
    few of them too, which makes them agree."""
    attention: tuple[str, ...] = ()
    """A method that changes attention, NAME or NAME:key=value,...: `reweight:word=snow,scale=1.5`, `p2p`, `pnp`,
    `masactrl`, `kv-fusion`. As often as there are methods."""
    mask_words: str | None = None
    """Edit only what these words name in the source, such as "the ball", found by attention; `instruction`: the thing
    that the sentence itself names. Instead of --mask."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "share")
        if self.mask_words is not None:
            require(self, "mask_words", bool(self.mask_words.strip()), "what to look for, such as 'the ball'")
            mask = getattr(self, "mask", None)  # of the editor's own
            require(self, "mask", mask is None, f"none beside mask-words {self.mask_words!r}")
        Attention.of(self.share, self.attention)  # refuses what cannot be read

    @property
    def attending(self) -> Attention:
        """Both, read."""
        return Attention.of(self.share, self.attention)
