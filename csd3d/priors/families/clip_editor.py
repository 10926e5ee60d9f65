"""Editors of clips: their particles are windows of a clip in time, not pictures."""

from dataclasses import dataclass, fields
from math import prod

from torch import Tensor

from csd3d.attention.presets import Attention
from csd3d.engine.config import CsdConfig
from csd3d.engine.residuals import Score
from csd3d.priors.families.clips import ClipCodec
from csd3d.priors.families.conditions import dtype_of
from csd3d.priors.families.prior import FamilyEditor
from csd3d.priors.families.record import network_of
from csd3d.priors.memory import network_bytes
from csd3d.priors.prior import Prompts


@dataclass(frozen=True, eq=False)
class WindowEditor(FamilyEditor):
    """An instruction editor whose particles are windows of a clip."""

    codec: ClipCodec
    """Between clips and their latent frames."""

    def _row_bytes(self, z_in: Tensor, *, pictures: int = 2) -> int:
        """Of a window: its patches are tokens, and the source is in their channels."""
        config = network_of(self.pipe).config
        tokens = z_in[0, 0].numel() // prod(config["patch_size"])
        return network_bytes(config, tokens, itemsize=dtype_of(self.pipe).itemsize)


@dataclass(frozen=True, eq=False)
class ClipEditor(WindowEditor):
    """An instruction editor of clips. Whether a loaded prior is one says whether it edits clips."""

    @property
    def of_windows(self) -> WindowEditor:
        """The same for those who hand it windows."""
        return WindowEditor(**{part.name: getattr(self, part.name) for part in fields(self)})

    def score_under(self, csd: CsdConfig, prompts: Prompts, attention: Attention | None = None) -> Score:
        """Raises ValueError: pictures are no particles of it."""
        raise ValueError(
            f"prior: expected an editor of pictures, got {self.family.title}, which edits clips: csd3d video does"
        )
