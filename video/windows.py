"""Windows of a clip in time as particles, for editors of whole clips (Wan's layout, such as Lucy Edit).

The latent frames of the clip are one canvas; windows of a few neighbouring ones overlap, and CSD makes them agree:

    z_k = z[a_k : a_k + f]        g = the mean, at every latent frame, of the directions of the windows that hold it

so that a clip longer than the editor's own is edited as one. This is the panorama over time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import Objective, StepInfo, run
from csd3d.engine.optimise import descend, first_moments
from csd3d.engine.types import Batch, Index, Latents
from csd3d.priors.families.clips import ClipCodec, fold, unfold
from csd3d.priors.families.prior import FamilyEditor
from csd3d.priors.prior import Guidance, Prompts

WINDOW_LAT, OVERLAP_LAT = 21, 5
"""Latent frames of a window, 81 frames where 4 are compressed to one, and how many of them the next one holds too."""


def starts(length: int, window: int, overlap: int) -> Int[Tensor, " k"]:
    """Where windows of a clip of `length` latent frames begin; the last one ends with the clip."""
    last = max(length - window, 0)
    return torch.tensor([*range(0, last, window - overlap), last], dtype=torch.int64)


class ClipWindows:
    """The windows of a clip, all of them in every step; satisfies the engine's `Particles`."""

    def __init__(
        self, s: Float[Tensor, "f c h w"], config: CsdConfig, *, window: int = WINDOW_LAT, overlap: int = OVERLAP_LAT
    ) -> None:
        """Start at the source `s`, the latent frames of a clip. Raises ValueError for windows that do not move on."""
        if not 0 <= overlap < window:
            raise ValueError(f"overlap: expected 0 to {window - 1} latent frames, fewer than a window, got {overlap}")
        self.s, self.z = s, s.clone()
        self._length = min(window, len(s))
        self._starts = starts(len(s), window, overlap)
        self._moments = first_moments(s, config.optimizer)
        covered = [
            torch.zeros(len(s)).index_add(0, self._frames(k), torch.ones(self._length)) for k in range(len(self))
        ]
        self._count = torch.stack(covered).sum(0)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def steps_per_epoch(self) -> int:
        """All windows are moved in every step."""
        return 1

    def _frames(self, k: int) -> Int[Tensor, " f"]:
        return int(self._starts[k]) + torch.arange(self._length)

    def draw(self, rng: torch.Generator) -> Batch:
        """All windows."""
        z, s = (torch.stack([fold(x[self._frames(k)]) for k in range(len(self))]) for x in (self.z, self.s))
        return Batch(z, s, torch.arange(len(self)))

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        """A step of the optimiser along the mean direction of every latent frame."""
        total = torch.zeros_like(self.z)
        for k in index.tolist():
            total.index_add_(0, self._frames(k), unfold(g[k].cpu(), self.s.shape[1]))
        mean = total / self._count.view(-1, 1, 1, 1)
        self.z, self._moments = descend(self.z, mean, self._moments, lr=lr)


@dataclass(frozen=True, eq=False)
class ClipEdit:
    """An edit of a clip under way."""

    codec: ClipCodec
    windows: ClipWindows
    moves: Iterator[StepInfo]
    """Is gone through to make the edit."""
    frames: int

    def decode(self) -> Float[Tensor, "F 3 H W"]:
        """The clip as it is now, in [0, 1]."""
        return self.codec.decode_clip(self.windows.z)[: self.frames]


def edit_clip(
    prior: FamilyEditor, rgb: Float[Tensor, "F 3 H W"], sentence: str, config: CsdConfig, *,
    seed: int = 0, window: int = WINDOW_LAT, overlap: int = OVERLAP_LAT,
) -> ClipEdit:  # fmt: skip
    """Begin to edit a clip in memory by an editor of clips.

    Args:
        prior: Of a family of clips.
        rgb: Frames in [0, 1], sides multiples of the prior's. The last one is repeated where latents need more.
        sentence: The instruction.
        config: Of the engine; `steps` counts the moves of every window.
        seed: Of noise and timesteps.
        window: Latent frames that the prior sees at once.
        overlap: Of neighbouring windows.

    Raises:
        ValueError: The prior edits pictures, or what is asked for makes no sense.
    """
    codec = prior.codec
    if not isinstance(codec, ClipCodec):
        raise ValueError(f"prior: expected an editor of clips, got {prior.family.title}, which edits pictures")
    more = -(len(rgb) - 1) % codec.stride
    whole = torch.cat([rgb, rgb[-1:].expand(more, -1, -1, -1)])
    windows = ClipWindows(codec.encode_clip(whole.to(prior.device)).cpu(), config, window=window, overlap=overlap)
    objective = Objective(prior.score(Prompts(sentence), Guidance.of(config)), config)
    moves = run(windows, objective, rng=torch.Generator().manual_seed(seed))
    return ClipEdit(codec, windows, moves, len(rgb))
