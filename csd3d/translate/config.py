"""The settings of a translation network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from csd3d.engine.config import PAPER, CsdConfig
from csd3d.engine.validate import require, require_int, require_number, require_side
from csd3d.runs.config import RunConfig

OWN = "{}"
"""In a task's caption: the picture's own caption."""


@dataclass(frozen=True)
class TranslateConfig(RunConfig):
    """How a translation network learns. Of the engine's settings it takes the residual (`source` = DDS, `noise` = SDS,
    the paper's ablation), the weight, the timesteps and the final guidance."""

    tasks: Mapping[str, str] = field(default_factory=dict)
    """Name of each task, and the caption of its results; `{}` in it stands for the picture's own caption."""
    csd: CsdConfig | None = field(default_factory=lambda: PAPER["dds"])
    """Settings of the engine. None: those that suit the prior."""
    prior: str = "builtin:t2i"
    """`builtin:t2i`, a folder in diffusers layout, or a hub id of a Stable Diffusion 1.x or 2.x."""
    captions: str | None = None
    """JSON file with the caption of each picture: {"FILE.png": "CAPTION", ...}. None: --source-prompt for all."""
    steps: int = 2000
    """Training steps."""
    batch: int = 8
    """Pictures in a step: bounds memory."""
    lr: float = 1e-4
    """Learning rate of AdamW."""
    identity: float = 1.0
    """Weight of |z - s|^2 at the first step, which keeps results near their sources; it falls as a cosine to
    `identity_end` at the last."""
    identity_end: float = 0.05
    """Weight of |z - s|^2 at the last step."""
    warmup: float = 0.5
    """Share of the steps over which guidance rises from 1 to its final scale, against mode collapse; 0 = none (the
    paper's ablation)."""
    size: int | None = None
    """Side in px of the squares that pictures are cut to. None: what the prior was trained at."""
    checkpoint_every: int = 100
    """Steps between two saved states."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, caption in self.tasks.items():
            if not name.strip() or not caption.strip():
                raise ValueError(f'tasks: expected NAME="CAPTION", got {name}={caption}')
        require(self, "control", self.control is None, "none, a network is trained without a guard")
        require_int(self, 1, None, "steps", "batch")
        require_side(self, 8, "size")
        require(self, "lr", 0 < self.lr < math.inf, "a number above 0")
        require_number(self, 0, None, "identity", "identity_end")
        require_number(self, 0, 1, "warmup")
        if self.csd is not None:
            require(self.csd, "coupling", self.csd.coupling == "independent", "independent for a network")
            require(self.csd, "regulariser", self.csd.regulariser == "none", "none for a network")
            require(self.csd, "tolerance", self.csd.tolerance == 0, "0 for a network")
            require(self.csd, "guide_every", self.csd.guide_every == 1, "1 for a network")

    def caption(self, task: str, own: str) -> str:
        """What a picture with caption `own` shows after `task`."""
        return self.tasks[task].replace(OWN, own)

    def identity_at(self, step: int) -> float:
        """Weight of the identity term: identity_end + (identity - identity_end) (1 + cos(pi step / last)) / 2."""
        share = step / max(1, self.steps - 1)
        return self.identity_end + (self.identity - self.identity_end) * (1 + math.cos(math.pi * share)) / 2

    def guidance_at(self, step: int) -> float:
        """Guidance scale of a step: from 1 straight up to `csd.s_text`, which it reaches when the warm-up is over."""
        rising = self.warmup * self.steps
        s_text = self.engine.s_text
        return s_text if step >= rising else 1 + (s_text - 1) * step / rising
