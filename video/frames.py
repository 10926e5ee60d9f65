"""The frames of a clip as what the video editor moves. With a prior that edits clips it moves windows of one in time,
which do the same things (`video.windows.Windows`)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.residuals import Score
from csd3d.media.geometry import WorkingSize
from csd3d.media.masks import ClipMask
from csd3d.priors.prior import Prior
from csd3d.runs.estimate import Work
from csd3d.runs.sampling import SampledEdit
from csd3d.runs.session import Session
from csd3d.runs.stored import StoredParticles
from video.config import VideoConfig
from video.latents_store import LatentsStore, sources_path
from video.motion import ClipMotion
from video.particles import FrameParticles, LatentRows
from video.plan import Plan, batching_of
from video.render import Pictures

Convert = Callable[[range, Tensor], Tensor]
"""Numbers of frames, and the frames at working size, to the rows to store of them, maybe none."""
Scan = Callable[[dict[Path, tuple[int, Convert]]], None]
"""Goes through the clip and writes files of so many rows, those that are not there yet."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of a clip, each of them a particle."""

    prior: Prior
    config: VideoConfig
    plan: Plan
    size: WorkingSize
    score: Score
    sampled: SampledEdit | None
    """How they are sampled; None: they are moved."""

    @property
    def count(self) -> int:
        """Those of the plan."""
        return len(self.plan.frames)

    def work(self) -> Work:
        """The frames, or the key frames that are known so far."""
        height, width = (side // self.prior.codec.factor for side in self.size.padded)
        sampling = None if self.sampled is None else self.sampled.sampling
        return Work(self.score, self.config.engine, self.count, (height, width), sampling)

    def encode(self, session: Session, scan: Scan) -> None:
        """Frame by frame."""
        path = sources_path(session.folder)
        if self.prior.looks_at_pictures:  # it has to see them in every session
            path.unlink(missing_ok=True)
        scan({path: (self.count, self._latents)})

    def _latents(self, frames: range, rgb: Tensor) -> Tensor:
        """Of the particles that are among these frames, in order."""
        wanted = [frame - frames.start for frame in self.plan.frames if frame in frames]
        if not wanted:
            return torch.empty(0)
        own = sorted(set(wanted))
        z = self.prior.encode(rgb[own]).detach().float()
        return z[[own.index(k) for k in wanted]]

    def particles(self, store: LatentsStore) -> StoredParticles:
        """In batches of the settings."""
        batching = batching_of(self.config, self.plan)
        csd, device = self.config.engine, self.prior.device
        return FrameParticles(store.sources, csd, batching=batching, device=device, arrays=store.arrays)

    def particle(self, rows: LatentRows, i: int) -> Float[Tensor, "1 c h w"]:
        """A row."""
        return rows[i : i + 1]

    def label(self, i: int) -> str:
        """By the number of its frame."""
        return f"frame {self.plan.frames[i]}"

    def pictures(self, store: LatentsStore, mask: ClipMask | None, motion: ClipMotion | None) -> Pictures:
        """Decoded a chunk at a time."""
        return Pictures(
            store.arrays["z"], store.sources, self.prior.decode, self.size, self.plan, detail=self.config.detail,
            strength=self.config.strength, mask=mask, motion=motion,
        )  # fmt: skip
