"""Windows of a clip in time as particles, for editors of whole clips (Wan's layout, such as Lucy Edit).

The latent frames of the clip are one canvas; windows of a few neighbouring ones overlap, and CSD makes them agree:

    z_k = z[a_k : a_k + f]        g = the mean, at every latent frame, of the directions of the windows that hold it

so that a clip longer than the editor's own is edited as one. This is the panorama over time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import Objective, StepInfo, run
from csd3d.engine.residuals import Score
from csd3d.engine.reuse import reusing
from csd3d.engine.step import require_coupling
from csd3d.engine.transport import Correspondences
from csd3d.engine.types import Batch, Index, Latents
from csd3d.engine.validate import require
from csd3d.media.geometry import WorkingSize
from csd3d.media.masks import ClipMask
from csd3d.priors.families.clips import ClipCodec, fold, unfold
from csd3d.priors.families.prior import FamilyEditor
from csd3d.priors.prior import Prior, Prompts
from csd3d.runs.estimate import Work
from csd3d.runs.found_masks import AUTO
from csd3d.runs.reference import attending_of
from csd3d.runs.rows import Rows, writing_rows
from csd3d.runs.session import Session
from csd3d.runs.stored import StoredParticles
from video.config import VideoConfig
from video.frames import Frames, Scan
from video.latents_store import LatentsStore, sources_path
from video.motion import ClipMotion
from video.particles import Batching, FrameParticles, LatentRows
from video.plan import UNEDITED, Plan, prompts_of, score_of
from video.render import Pictures


def starts(length: int, window: int, overlap: int) -> Int[Tensor, " k"]:
    """Where windows of a clip of `length` latent frames begin; the last one ends with the clip."""
    last = max(length - window, 0)
    return torch.tensor([*range(0, last, window - overlap), last], dtype=torch.int64)


class ClipWindows:
    """The windows of a clip, all of them in every step; satisfies the engine's `Particles` and `Stateful`.

    Its latent frames are kept, moved and saved as `FrameParticles` are, all at once.
    """

    def __init__(
        self, s: LatentRows, config: CsdConfig, *, window: int, overlap: int,
        device: torch.device | str = "cpu", arrays: Mapping[str, LatentRows] | None = None,
    ) -> None:  # fmt: skip
        """Start at the source `s`, the latent frames of a clip; `device` and `arrays` are those of `FrameParticles`.
        Raises ValueError for windows that do not move on."""
        if not 0 <= overlap < window:
            raise ValueError(f"overlap: expected 0 to {window - 1} latent frames, fewer than a window, got {overlap}")
        self._frames = FrameParticles(s, config, batching=Batching(len(s)), device=device, arrays=arrays)
        self._length, self._starts = min(window, len(s)), starts(len(s), window, overlap)
        covered = [
            torch.zeros(len(s)).index_add(0, self._places(k), torch.ones(self._length)) for k in range(len(self))
        ]
        self._count = torch.stack(covered).sum(0)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def s(self) -> LatentRows:
        """The latent frames of the source."""
        return self._frames.s

    @property
    def z(self) -> LatentRows:
        """The latent frames as they are now."""
        return self._frames.z

    @property
    def steps_per_epoch(self) -> int:
        """All windows are moved in every step."""
        return 1

    def _places(self, k: int) -> Int[Tensor, " f"]:
        return int(self._starts[k]) + torch.arange(self._length)

    def draw(self, rng: torch.Generator) -> Batch:
        """All windows."""
        frames = self._frames.draw(rng)
        places = [self._places(k).to(frames.z.device) for k in range(len(self))]
        z, s = (torch.stack([fold(x[some]) for some in places]) for x in (frames.z, frames.s))
        return Batch(z, s, torch.arange(len(self)), frames.t)

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        """A step of the optimiser along the mean direction of every latent frame."""
        whole = torch.zeros(len(self.z), *self.z[:1].shape[1:])
        for k in index.tolist():
            whole.index_add_(0, self._places(k), unfold(g[k].cpu(), whole.shape[1]))
        self._frames.move(torch.arange(len(whole)), whole / self._count.view(-1, 1, 1, 1), lr=lr)

    def state_dict(self) -> dict[str, Any]:
        """That of the latent frames."""
        return self._frames.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`. Raises ValueError for that of another clip or optimiser."""
        self._frames.load_state_dict(state)


@dataclass(frozen=True, eq=False)
class Windows:
    """What the video editor moves with a prior that edits clips; its other half is `video.frames.Frames`."""

    prior: FamilyEditor
    config: VideoConfig
    plan: Plan
    size: WorkingSize
    score: Score

    @classmethod
    def of(cls, prior: FamilyEditor, config: VideoConfig, plan: Plan, size: WorkingSize) -> "Windows":
        """Raises ValueError for settings and clips that make no sense with such a prior."""
        _require_clip(config, plan, prior)
        score = prior.score_of_clip(config.engine, prompts_of(plan, config), attending_of(config, prior))
        windows = cls(prior, config, plan, size, score)
        require_coupling(config.engine, [windows.count])
        return windows

    @property
    def sampled(self) -> None:
        """Windows are moved, never sampled."""

    @property
    def _codec(self) -> ClipCodec:
        return codec_of(self.prior)

    @property
    def _window(self) -> int:
        """Latent frames that the prior sees at once."""
        return lengths_lat(self.config, self._codec)[0]

    @property
    def _overlap(self) -> int:
        """How many of them the next window holds too."""
        return lengths_lat(self.config, self._codec)[1]

    @property
    def _starts(self) -> list[int]:
        return starts(self._codec.latents_of(len(self.plan.frames)), self._window, self._overlap).tolist()

    @property
    def count(self) -> int:
        """Windows."""
        return len(self._starts)

    def work(self) -> Work:
        """All windows in every step."""
        height, width = (side // self._codec.factor for side in self.size.padded)
        length = min(self._window, self._codec.latents_of(len(self.plan.frames)))
        return Work(self.score, self.config.engine, self.count, (height, width), frames_lat=length)

    def encode(self, session: Session, scan: Scan) -> None:
        """The clip as a whole, whose frames at working size lie in a file until that is done."""
        path, pictures = sources_path(session.folder), session.folder.path / "pictures.npy"
        several = f"{self.count} windows of {self.config.window_frames}, which overlap" if self.count > 1 else "a whole"
        session.note(f"{self.prior.family.title} edits clips: it sees {len(self.plan.frames)} frames as {several}")
        scan({} if path.exists() else {pictures: (len(self.plan.frames), lambda _, rgb: rgb)})
        if not path.exists():
            with session.manifest.timed("encode"), closing(Rows(pictures)) as rows:
                z = encoded(self._codec, rows[:].to(self.prior.device))
            with writing_rows(path, len(z)) as append:
                append(z)
        pictures.unlink(missing_ok=True)
        session.stop_if_asked("the clip is encoded")

    def particles(self, store: LatentsStore) -> StoredParticles:
        """All windows."""
        return ClipWindows(
            store.sources, self.config.engine, window=self._window, overlap=self._overlap,
            device=self.prior.device, arrays=store.arrays,
        )  # fmt: skip

    def particle(self, rows: LatentRows, i: int) -> Float[Tensor, "1 c h w"]:
        """A window."""
        return fold(rows[self._starts[i] : self._starts[i] + self._window])[None]

    def label(self, i: int) -> str:
        """By its first and its last frame."""
        codec, first = self._codec, self._starts[i]
        begin = codec.frames_of(first) if first else 0
        return f"frames {begin} to {min(codec.frames_of(first + self._window), len(self.plan.frames)) - 1}"

    def pictures(self, store: LatentsStore, mask: ClipMask | None, motion: ClipMotion | None) -> Pictures:
        """Decoded as a whole."""
        z, s, config = store.arrays["z"][:], store.sources[:], self.config
        z = torch.lerp(s, z, config.strength) if config.strength < 1 else z
        edited = self._decoded(z)
        source = self._decoded(s) if config.detail else edited
        return Pictures(
            edited, source, lambda rgb: rgb, self.size, self.plan, detail=config.detail, mask=mask, motion=motion
        )

    def _decoded(self, z: Float[Tensor, "f c h w"]) -> Float[Tensor, "F 3 H W"]:
        return self._codec.decode_clip(z.to(self.prior.device)).cpu()[: len(self.plan.frames)]


Moved = Frames | Windows
"""What the video editor moves."""


def moved_by(prior: Prior, config: VideoConfig, plan: Plan, size: WorkingSize, motion: Correspondences) -> Moved:
    """Windows of a clip for a prior that edits clips, else its frames. Raises ValueError for what makes no sense."""
    if isinstance(prior, FamilyEditor) and prior.family.of_clips:
        return Windows.of(prior, config, plan, size)
    _require_defaults(config, ("window_frames", "overlap_frames"), "with a prior that edits pictures")
    return Frames(prior, config, plan, size, *score_of(prior, plan, config, motion))


def _require_clip(config: VideoConfig, plan: Plan, prior: FamilyEditor) -> None:
    """Raises ValueError in one line for settings of frames, and for windows that are none of the codec's."""
    by, stride, frames = f"with {prior.family.title}, which edits clips", codec_of(prior).stride, len(plan.frames)
    _require_defaults(config, ("by", "keyframes", "frames_per_step", "draw", "anchors", "motion", "mask_words"), by)
    require(config, "mask", config.mask != AUTO, f"a file {by}")
    require(config.engine, "coupling", config.engine.coupling != "motion", f"svgd or independent {by}")
    if len(plan.sentences) > 1 or UNEDITED in plan.prompt_index:
        raise ValueError(f"prompt: expected one sentence for the whole clip {by}, got sentences with times")
    if frames <= stride:
        raise ValueError(f"clip: expected {stride + 1} frames or more {by}, got {frames}")
    is_window = config.window_frames > stride and config.window_frames % stride == 1 % stride
    require(config, "window_frames", is_window, f"1 more than a multiple of {stride} {by}")
    fits = config.overlap_frames % stride == 0 and config.overlap_frames < config.window_frames
    require(config, "overlap_frames", fits, f"a multiple of {stride} below {config.window_frames} {by}")


def _require_defaults(config: VideoConfig, names: Sequence[str], why: str) -> None:
    """Raises ValueError for settings that mean nothing and were changed all the same."""
    usual = VideoConfig()
    for name in names:
        default = getattr(usual, name)
        require(config, name, getattr(config, name) == default, f"{'none' if default is None else default} {why}")


def lengths_lat(config: VideoConfig, codec: ClipCodec) -> tuple[int, int]:
    """Latent frames of a window, and how many of them the next one holds too."""
    return codec.latents_of(config.window_frames), config.overlap_frames // codec.stride


def codec_of(prior: FamilyEditor) -> ClipCodec:
    """Of an editor of clips, as `FamilyEditor.score_of_clip` asks for one."""
    assert isinstance(prior.codec, ClipCodec)
    return prior.codec


def encoded(codec: ClipCodec, rgb: Float[Tensor, "F 3 H W"]) -> Float[Tensor, "f c h w"]:
    """Latent frames of a clip of any length, on the CPU: its last frame is repeated where they stand for more."""
    more = codec.frames_of(codec.latents_of(len(rgb))) - len(rgb)
    return codec.encode_clip(torch.cat([rgb, rgb[-1:].expand(more, -1, -1, -1)])).cpu()


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
        return self.codec.decode_clip(self.windows.z[:])[: self.frames]


def edit_clip(
    prior: FamilyEditor, rgb: Float[Tensor, "F 3 H W"], sentence: str, config: CsdConfig, *,
    seed: int = 0, window: int | None = None, overlap: int | None = None,
) -> ClipEdit:  # fmt: skip
    """Begin to edit a clip in memory by an editor of clips.

    Args:
        prior: Of a family of clips.
        rgb: Frames in [0, 1], sides multiples of the prior's. The last one is repeated where latents need more.
        sentence: The instruction.
        config: Of the engine; `steps` counts the moves of every window.
        seed: Of noise and timesteps.
        window: Latent frames that the prior sees at once. None: as many as `VideoConfig.window_frames` are.
        overlap: Of neighbouring windows. None: those of `VideoConfig.overlap_frames`.

    Raises:
        ValueError: The prior edits pictures, or what is asked for makes no sense.
    """
    score, codec = prior.score_of_clip(config, Prompts(sentence)), codec_of(prior)
    usual_window, usual_overlap = lengths_lat(VideoConfig(), codec)
    s = encoded(codec, rgb.to(prior.device))
    windows = ClipWindows(
        s, config, window=usual_window if window is None else window,
        overlap=usual_overlap if overlap is None else overlap, device=prior.device,
    )  # fmt: skip
    moves = run(windows, Objective(reusing(score, config), config), rng=torch.Generator().manual_seed(seed))
    return ClipEdit(codec, windows, moves, len(rgb))
