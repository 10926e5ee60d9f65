"""The settings of a translation network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from csd3d.engine.config import PAPER, CsdConfig

OWN = "{}"
"""In a task's caption: the picture's own caption."""


@dataclass(frozen=True)
class TranslateConfig:
    """How a translation network learns. Immutable; the manifest holds it in full."""

    tasks: Mapping[str, str] = field(default_factory=dict)
    """Name of each task, and the caption of its results; `{}` in it stands for the picture's own caption."""
    csd: CsdConfig = field(default_factory=lambda: PAPER["dds"])
    """Residual (`source` = DDS, `noise` = SDS, the paper's ablation), weight, timesteps, final guidance."""
    prior: str = "builtin:t2i"
    """`builtin:t2i`, a folder in diffusers layout, or a hub id."""
    steps: int = 2000
    """Training steps."""
    batch: int = 8
    """Pictures in a step."""
    lr: float = 1e-4
    """Learning rate of AdamW."""
    identity: float = 1.0
    """Weight of |z - s|^2 at the first step, falling as a cosine to `identity_end` at the last."""
    identity_end: float = 0.05
    """Weight of |z - s|^2 at the last step."""
    warmup: float = 0.5
    """Share of the steps over which guidance rises from 1 to its final scale, against mode collapse; 0 = none (the
    paper's ablation)."""
    size: int | None = None
    """Side in px of the squares that pictures are cut to; none = what the prior was trained at."""
    seed: int = 0
    """Seed of all randomness."""
    device: str | None = None
    """`cpu`, `cuda`, ...; none = CUDA where there is one."""
    checkpoint_every: int = 100
    """Steps between two saved states."""

    def __post_init__(self) -> None:
        for name, caption in self.tasks.items():
            if not name.strip() or not caption.strip():
                raise ValueError(f'tasks: expected NAME="CAPTION", got {name}={caption}')
        for name, low in (("steps", 1), ("batch", 1), ("seed", 0), ("checkpoint_every", 1), ("size", 8)):
            value = getattr(self, name)
            if value is None and name == "size":
                continue
            if type(value) is not int:
                raise TypeError(f"{name}: expected a whole number, got {value!r}")
            if value < low:
                raise ValueError(f"{name}: expected {low} or more, got {value}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr: expected a number above 0, got {self.lr}")
        for name in ("identity", "identity_end"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup: expected 0 to 1, got {self.warmup}")
        for name, wanted in (("coupling", "independent"), ("regulariser", "none")):
            if getattr(self.csd, name) != wanted:
                raise ValueError(f"{name}: expected {wanted} for a network, got {getattr(self.csd, name)!r}")

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
        return self.csd.s_text if step >= rising else 1 + (self.csd.s_text - 1) * step / rising
