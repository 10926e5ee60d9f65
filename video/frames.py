"""The frames of a clip as what the video editor moves. With a prior that edits clips it moves windows of one in time,
which do the same things (`video.windows.Windows`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine.residuals import Score
from csd3d.media.geometry import WorkingSize
from csd3d.media.masks import ClipMask
from csd3d.priors.prior import Prior
from csd3d.runs.estimate import Work
from csd3d.runs.folder import RunFolder
from csd3d.runs.found_masks import MaskSearch, Seeker
from csd3d.runs.sampling import SampledEdit
from csd3d.runs.session import Session
from csd3d.runs.stored import StoredParticles, StoredSampled
from video.config import VideoConfig
from video.latents_store import LatentsStore, sources_path
from video.motion import ClipMotion
from video.particles import FrameParticles, LatentRows, state_arrays
from video.plan import Plan, batching_of, plan_keys, prompts_of, require_keys
from video.propagate import key_frames
from video.render import Pictures, latents_at
from video.sampled import frames_of_run, sampled_arrays

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

    @property
    def shape(self) -> tuple[int, None, int, int]:
        """Of each array."""
        height, width = (side // self.prior.codec.factor for side in self.size.padded)
        return self.count, None, height, width

    def work(self) -> Work:
        """The frames, or the key frames that are known so far."""
        sampling = None if self.sampled is None else self.sampled.sampling
        return Work(
            self.score, self.config.engine, self.count, self.shape[2:], sampling, together=self.config.frames_per_step
        )

    @property
    def needs_shots(self) -> bool:
        """Whether cuts are to be known before anything is encoded."""
        return self.config.keyframes is not None

    def cut(self, shots: Sequence[int]) -> "Frames":
        """The same, of a clip whose shots are known, each of which has a key frame. Raises ValueError for so many key
        frames that steps cannot couple them."""
        assert self.config.keyframes is not None
        plan = plan_keys(self.plan.sentences[0], key_frames(shots, self.config.keyframes))
        require_keys(plan, self.config)
        return replace(self, plan=plan)

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of what is stored for each particle."""
        return state_arrays(self.config.engine) if self.sampled is None else sampled_arrays(self.sampled.sampling)

    def encode(self, session: Session, scan: Scan) -> None:
        """Frame by frame."""
        if self.config.keyframes is not None:
            session.note(f"{self.count} key frames are edited, the others follow their motion")
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

    def to_sample(self, folder: RunFolder, store: LatentsStore, edit: SampledEdit) -> StoredSampled:
        """The same where they are sampled. Raises what `frames_of_run` does."""
        return frames_of_run(folder, store, edit, self.config, self.plan.groups, device=self.prior.device)

    def particle(self, rows: LatentRows, i: int) -> Float[Tensor, "1 c h w"]:
        """A row."""
        return rows[i : i + 1]

    def label(self, i: int) -> str:
        """By the number of its frame."""
        return f"frame {self.plan.frames[i]}"

    @property
    def masked_plan(self) -> Plan:
        """Particles, each of which has a mask."""
        return self.plan

    def masked_parts(self) -> Sequence[Int[Tensor, " _m"]]:
        """As many particles as are moved at once."""
        return torch.arange(self.count).split(self.config.frames_per_step)

    def seeker(self, search: MaskSearch) -> Seeker:
        """Of particles. Raises what `MaskSearch.under` does."""
        return search.under(prompts_of(self.plan, self.config))

    def pictures(self, store: LatentsStore, mask: ClipMask | None, motion: ClipMotion | None) -> Pictures:
        """Decoded a chunk at a time."""
        z, s, config, decode = store.arrays["z"], store.sources, self.config, self.prior.decode
        return Pictures(
            lambda some: decode(latents_at(z, s, some, config.strength)),
            (lambda some: decode(s[some])) if config.detail else None,
            self.size, self.plan, detail=config.detail, strength=config.strength, mask=mask, motion=motion,
        )  # fmt: skip
