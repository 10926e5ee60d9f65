"""The settings of the panorama editor."""

from dataclasses import dataclass, replace
from typing import Any

from csd3d.engine.config import PAPER
from csd3d.engine.validate import require, require_choice, require_int, require_number, require_side
from csd3d.runs.config import EditConfig
from panorama.regions import parse_masked
from panorama.windows import Draw
from panorama.wrap import WrapChoice


@dataclass(frozen=True)
class PanoramaConfig(EditConfig):
    """How a picture is edited. `csd.steps` counts the moves of the whole picture, however many windows it has."""

    size: int | None = None
    """Shorter side in px at which the prior works; aspect is kept. None: what the prior was trained at, twice that for
    a sphere, whose views look at half of its height."""
    window: int | None = None
    """Side of a window in latents (8 px each). None: what the prior was trained at."""
    stride: int | None = None
    """Most latents between neighbouring windows, at most a window; the paper has a quarter. None: half a window."""
    windows_per_step: int = 8
    """Most windows in a step: bounds memory."""
    draw: Draw = "rounds"
    """Which windows share a step: `rounds` = each of them once before the picture moves, `random` = some drawn anew for
    every move (the paper's; `steps` then counts draws)."""
    smooth: bool = True
    """Let windows fade into each other; otherwise all windows at a place count alike (the paper's average)."""
    wrap: WrapChoice = "auto"
    """Whether the left border goes on at the right: `none`, `cylinder`, `sphere` (equirectangular), or taken from its
    metadata and size, with a note (`auto`)."""
    settle_every: int = 10
    """Moves after which the views of a sphere are brought to agree in pixels."""
    detail: float = 1.0
    """How much of the source's fine detail, which the prior's codec and working size lose, is put back, changed as the
    edit changes what is around it: 0 = none, 1 = all of it."""
    strength: float = 1.0
    """How far the result goes from the source (0) to the edit (1)."""
    mask: str | None = None
    """Picture file that says where to edit: white yes, black not at all, grey in part. `auto`: where the prior finds
    the edit, if that is not the whole picture. None: everywhere."""
    feather: float = 0.0
    """Pixels over which the edit fades in from the border of the mask, inwards."""
    prompt_at: tuple[str, ...] = ()
    """A sentence for a span of the width: 0,0.5="make it night" is the left half. As often as there are spans; --prompt
    holds elsewhere."""
    prompt_mask: tuple[str, ...] = ()
    """A sentence for a soft mask: sky.png="make it sunset". As often as there are masks."""
    quality: int = 95
    """Of JPEG and WebP, 1 to 100; a WebP of 100 is lossless."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_side(self, 8, "size")
        require_int(self, 1, None, "window", "stride", "windows_per_step", "settle_every")
        require_int(self, 1, 100, "quality")
        require_choice(self, "draw", "wrap")
        require_number(self, 0, 1, "detail", "strength")
        require_number(self, 0, None, "feather")
        require(self, "draw", self.by == "moves" or self.draw == "rounds", "rounds with --by sampling")
        if self.csd is not None:
            along = self.csd.coupling in ("motion", "depth")
            require(self.csd, "coupling", not along, "svgd or independent for a picture")

    def placed(self) -> "PanoramaConfig":
        """Masks of sentences too."""
        masked = map(parse_masked, self.prompt_mask)
        placed = tuple(f"{path.resolve()}={sentence}" for path, sentence in masked)
        return replace(super().placed(), prompt_mask=placed)


def paper_changes(window_lat: int) -> dict[str, Any]:
    """What the published settings change: windows a quarter apart, 8 at random a step, averaged flat."""
    return {
        "csd": dict(vars(PAPER["csd-edit-panorama"])),
        "stride": max(1, window_lat // 4),
        "windows_per_step": 8,
        "draw": "random",
        "smooth": False,
    }
