"""The settings of the panorama editor."""

from dataclasses import dataclass
from typing import Any, get_args

from csd3d.engine.config import PAPER, CsdConfig
from panorama.windows import Draw
from panorama.wrap import WrapChoice


@dataclass(frozen=True)
class PanoramaConfig:
    """How a picture is edited. Immutable; the manifest holds it in full."""

    csd: CsdConfig | None = None
    """Engine settings; none = those that suit the prior. `steps` counts the moves of the whole picture, however many
    windows it has."""
    prior: str = "builtin"
    """`builtin`, `builtin:t2i`, a folder in diffusers layout, or a hub id."""
    source_prompt: str | None = None
    """What the source shows, for text-to-image priors."""
    size: int | None = None
    """Shorter side in px at which the prior works. None = one row of windows for a flat picture or a cylinder; for a
    sphere twice the window, since its views look at half of its height. Aspect is kept."""
    window: int | None = None
    """Side of a window in latents; none = what the prior was trained at."""
    stride: int | None = None
    """Most latents between neighbouring windows, at most a window; none = half a window. The paper has a quarter."""
    single: bool = False
    """One window, all of the picture (`csd3d image`)."""
    windows_per_step: int = 8
    """Most windows in a step: bounds memory."""
    draw: Draw = "rounds"
    """How windows take turns: `rounds` = all of them before the picture moves, `random` = some drawn anew for every
    move (the paper's; `steps` then counts draws)."""
    smooth: bool = True
    """Windows fade into each other; otherwise all windows at a place count alike (the paper's average)."""
    wrap: WrapChoice = "auto"
    """Whether the left border goes on at the right: `none`, `cylinder`, `sphere` (equirectangular), or found out."""
    settle_every: int = 10
    """Moves after which the views of a sphere are brought to agree in pixels."""
    detail: float = 1.0
    """How much of the source's fine detail, which the prior's codec and working size lose, is put back, changed as the
    edit changes what is around it: 0 = none, 1 = all of it."""
    mask: str | None = None
    """Picture file: white is edited, black stays as it is."""
    prompt_at: tuple[str, ...] = ()
    """Sentences for spans of the width, each as x0,x1=sentence."""
    prompt_mask: tuple[str, ...] = ()
    """Sentences for soft masks, each as mask.png=sentence."""
    quality: int = 95
    """Of JPEG and WebP, 1 to 100; a WebP of 100 is lossless."""
    seed: int = 0
    """Seed of all randomness."""
    device: str | None = None
    """`cpu`, `cuda`, ...; none = CUDA where there is one."""
    checkpoint_every: int = 10
    """Steps between two saved states."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("size", 8, None),
            ("window", 1, None),
            ("stride", 1, None),
            ("windows_per_step", 1, None),
            ("settle_every", 1, None),
            ("quality", 1, 100),
            ("checkpoint_every", 1, None),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("size", "window", "stride"):
                continue
            if type(value) is not int:
                raise TypeError(f"{name}: expected a whole number, got {value!r}")
            if value < low or (high is not None and value > high):
                limits = f"{low} or more" if high is None else f"{low} to {high}"
                raise ValueError(f"{name}: expected {limits}, got {value}")
        for name, kind in (("draw", Draw), ("wrap", WrapChoice)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}: expected {' or '.join(get_args(kind))}, got {getattr(self, name)!r}")
        if not 0 <= self.detail <= 1:
            raise ValueError(f"detail: expected 0 to 1, got {self.detail}")


def paper_changes(window_lat: int) -> dict[str, Any]:
    """What the published settings change: windows a quarter apart, 8 at random a step, averaged flat."""
    return {
        "csd": dict(vars(PAPER["csd-edit-panorama"])),
        "stride": max(1, window_lat // 4),
        "windows_per_step": 8,
        "draw": "random",
        "smooth": False,
    }
