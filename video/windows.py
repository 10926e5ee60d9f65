"""What the video editor moves with an editor of clips (Wan's layout, such as Lucy Edit): windows of the clip in time.

The latent frames of the clip are one canvas; windows of a few neighbouring ones overlap, and CSD makes them agree, so
that a clip longer than the editor's own is edited as one (`video.window_particles`). No window crosses a cut or the
border of a sentence's time (`video.stretches`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.attention.masks import difference
from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import Objective, StepInfo, run
from csd3d.engine.residuals import Score
from csd3d.engine.reuse import reusing
from csd3d.engine.transport import Correspondences
from csd3d.engine.types import Index, Latents
from csd3d.engine.validate import require
from csd3d.media.geometry import WorkingSize
from csd3d.media.masks import ClipMask
from csd3d.priors.families.clip_editor import ClipEditor
from csd3d.priors.families.clips import ClipCodec, fold
from csd3d.priors.prior import Prior, Prompts
from csd3d.runs.estimate import Work
from csd3d.runs.folder import RunFolder
from csd3d.runs.found_masks import ByDifference, MaskSearch, Seeker
from csd3d.runs.sampling import SampledEdit, score_of_edit
from csd3d.runs.session import Session
from csd3d.runs.stored import StoredParticles, StoredSampled
from video.config import VideoConfig
from video.frames import Frames, Scan
from video.latents_store import LatentsStore, sources_path
from video.motion import ClipMotion
from video.particles import Batching, LatentRows
from video.plan import Plan, prompts_of, score_of
from video.render import Pictures, latents_at
from video.sampled import SampledRows, noise_of_run
from video.stretches import StretchDecoder, StretchEncoder, Stretches, Window, starts, stretches_of
from video.window_particles import SUM, ClipWindows, SampledWindows, sampled_window_arrays, window_arrays


@dataclass(frozen=True, eq=False)
class Windows:
    """What the video editor moves with a prior that edits clips; its other half is `video.frames.Frames`."""

    prior: ClipEditor
    config: VideoConfig
    plan: Plan
    size: WorkingSize
    stretches: Stretches
    windows: tuple[Window, ...]
    score: Score
    sampled: SampledEdit | None
    """How they are sampled; None: they are moved."""

    @classmethod
    def of(
        cls, prior: ClipEditor, config: VideoConfig, plan: Plan, size: WorkingSize, shots: Sequence[int] | None = None
    ) -> "Windows":
        """`shots` says to which shot each frame belongs; None: it is not known yet, and taken to be one. Raises
        ValueError for settings that make no sense with such a prior."""
        _require_clip(config, prior)  # before windows are made
        stretches = stretches_of(plan, shots or [0] * len(plan.blend_weights), prior.codec)
        windows = stretches.windows(*lengths_lat(config, prior.codec))
        sizes = batching_of_windows(windows, config).sizes(len(windows))
        sentences = [window.sentence for window in windows]
        scored = score_of_windows(prior, plan, config, of=sentences, sizes=sizes)
        return cls(prior, config, plan, size, stretches, windows, *scored)

    needs_shots = True
    """Cuts are found before anything is encoded."""

    def cut(self, shots: Sequence[int]) -> "Windows":
        """The same, of a clip whose shots are known. Raises ValueError for what they make impossible."""
        return Windows.of(self.prior, self.config, self.plan, self.size, shots)

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of what is stored for each latent frame."""
        sampled = self.sampled
        return window_arrays(self.config.engine) if sampled is None else sampled_window_arrays(sampled.sampling)

    @property
    def count(self) -> int:
        """Windows."""
        return len(self.windows)

    @property
    def shape(self) -> tuple[int, None, int, int]:
        """Of each array."""
        height, width = (side // self.prior.codec.factor for side in self.size.padded)
        return self.stretches.rows, None, height, width

    def work(self) -> Work:
        """As many of the longest windows as there are latent frames in all."""
        lengths = [len(window.rows) for window in self.windows]
        count = -(-sum(lengths) // max(lengths))
        sampling = None if self.sampled is None else self.sampled.sampling
        return Work(
            self.score,
            self.config.engine,
            count,
            self.shape[2:],
            sampling,
            frames_lat=max(lengths),
            together=self.config.windows_per_step,
        )

    def encode(self, session: Session, scan: Scan) -> None:
        """Stretch by stretch."""
        several = f"{self.count} windows of {self.config.window_frames}, which overlap" if self.count > 1 else "a whole"
        if len(self.stretches.all) > 1:
            several = (
                f"{self.count} windows of {self.config.window_frames} or fewer, in one shot and under one sentence"
            )
        session.note(
            f"{self.prior.family.title} edits clips: it sees {len(self.plan.blend_weights)} frames as {several}"
        )
        scan({sources_path(session.folder): (self.stretches.rows, StretchEncoder(self.stretches, self.prior.device))})

    def particles(self, store: LatentsStore) -> StoredParticles:
        """A few windows at a time."""
        batching = batching_of_windows(self.windows, self.config)
        return ClipWindows(
            store.sources, self.config.engine, [window.rows for window in self.windows], batching=batching,
            device=self.prior.device, arrays=store.arrays,
        )  # fmt: skip

    def to_sample(self, folder: RunFolder, store: LatentsStore, edit: SampledEdit) -> StoredSampled:
        """The same where they are sampled."""
        noise = noise_of_run(folder, store, edit, self.config)
        return SampledWindows(
            SampledRows(store.sources, edit.sampling, store.arrays, noise=noise),
            [window.rows for window in self.windows], sums=store.arrays[SUM],
            batching=batching_of_windows(self.windows, self.config), device=self.prior.device,
        )  # fmt: skip

    def particle(self, rows: LatentRows, i: int) -> Float[Tensor, "1 c h w"]:
        """A window."""
        own = self.windows[i].rows
        return fold(rows[own.start : own.stop])[None]

    def label(self, i: int) -> str:
        """By its first and its last frame."""
        frames = self.windows[i].frames
        return f"frames {frames.start} to {frames.stop - 1}"

    @property
    def masked_plan(self) -> Plan:
        """Latent frames, each of which has a part of a mask."""
        return self.stretches.latent_plan()

    def masked_parts(self) -> Sequence[Int[Tensor, " _m"]]:
        """As many latent frames as the prior sees at once."""
        return self.stretches.pieces(lengths_lat(self.config, self.prior.codec)[0])

    def seeker(self, search: MaskSearch) -> Seeker:
        """Of latent frames. Raises what `MaskSearch.under` does."""
        found = search.under(prompts_of(self.masked_plan, self.config))
        assert isinstance(found, ByDifference)  # as words are refused
        return ByDifferenceInTime(found.score)

    def pictures(self, store: LatentsStore, mask: ClipMask | None, motion: ClipMotion | None) -> Pictures:
        """Decoded a latent frame at a time."""
        z, s, config = store.arrays["z"], store.sources, self.config
        decoder = partial(StretchDecoder, self.stretches, device=self.prior.device)
        edited = decoder(lambda rows: latents_at(z, s, rows, config.strength))
        source = decoder(lambda rows: s[rows]) if config.detail else None
        return Pictures(
            edited, source, self.size, self.plan,
            detail=config.detail, strength=config.strength, mask=mask, motion=motion,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class ByDifferenceInTime(ByDifference):
    """The same of latent frames, those of a piece of a clip in one call of the prior: the piece is the particle, and
    the first of their numbers picks its sentence."""

    def maps(self, s: Latents, index: Index, *, rng: torch.Generator) -> Float[Tensor, "_n h w"]:
        """See `Seeker`."""
        return difference(self.score, fold(s)[None], index[:1], rng=rng, frames=len(s))


def batching_of_windows(windows: Sequence[Window], config: VideoConfig) -> Batching:
    """Windows that are equally long, under one sentence, share a step."""
    alike = dict[tuple[int, int], list[int]]()
    for k, window in enumerate(windows):
        alike.setdefault((window.sentence, len(window.rows)), []).append(k)
    return Batching(config.windows_per_step, groups=tuple(map(tuple, alike.values())))


def score_of_windows(
    prior: ClipEditor, plan: Plan, config: VideoConfig, *, of: Sequence[int] | None = None, sizes: Iterable[int] = ()
) -> tuple[Score, SampledEdit | None]:
    """The prior under the sentences of a plan's particles, or `of` others, and how they are sampled if they are;
    `sizes` and errors as for `score_of_edit`."""
    _require_clip(config, prior)
    return score_of_edit(prior.of_windows, prompts_of(plan, config, of=of), config, sizes=sizes)


Moved = Frames | Windows
"""What the video editor moves."""


def moved_by(prior: Prior, config: VideoConfig, plan: Plan, size: WorkingSize, motion: Correspondences) -> Moved:
    """Windows of a clip for a prior that edits clips, else its frames. Raises ValueError for what makes no sense."""
    if isinstance(prior, ClipEditor):
        return Windows.of(prior, config, plan, size)
    which = ("window_frames", "overlap_frames", "windows_per_step")
    _require_defaults(config, which, "with a prior that edits pictures")
    return Frames(prior, config, plan, size, *score_of(prior, plan, config, motion))


def _require_clip(config: VideoConfig, prior: ClipEditor) -> None:
    """Raises ValueError in one line for settings of frames, and for windows that are none of the codec's."""
    by, stride = f"with {prior.family.title}, which edits clips", prior.codec.stride
    for names, why in (
        (("frames_per_step", "draw", "anchors"), " (see --windows-per-step)"),
        (("keyframes",), ": its windows hold every frame"),
        (("motion",), " and whose layers are not read"),
        (("mask_words",), " and whose layers are not read (see --mask auto)"),
    ):
        _require_defaults(config, names, f"{by}{why}")
    require(config.engine, "coupling", config.engine.coupling != "motion", f"svgd or independent {by}")
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
    prior: Prior, rgb: Float[Tensor, "F 3 H W"], sentence: str, config: CsdConfig, *,
    seed: int = 0, window: int | None = None, overlap: int | None = None,
) -> ClipEdit:  # fmt: skip
    """Begin to edit a clip of one shot in memory by an editor of clips.

    Args:
        prior: Of a family of clips.
        rgb: Frames in [0, 1], sides multiples of the prior's. The last one is repeated where latents need more.
        sentence: The instruction.
        config: Of the engine; `steps` counts the moves of every window, all of which share each step.
        seed: Of noise and timesteps.
        window: Latent frames that the prior sees at once. None: as many as `VideoConfig.window_frames` are.
        overlap: Of neighbouring windows. None: those of `VideoConfig.overlap_frames`.

    Raises:
        ValueError: The prior edits pictures, or what is asked for makes no sense.
    """
    if not isinstance(prior, ClipEditor):
        raise ValueError(f"prior: expected an editor of clips, got {prior.name}, which edits pictures")
    score, codec = prior.of_windows.score_under(config, Prompts(sentence)), prior.codec
    usual_window, usual_overlap = lengths_lat(VideoConfig(), codec)
    s = codec.encode_clip(rgb.to(prior.device)).cpu()
    length = min(usual_window if window is None else window, len(s))
    first = starts(len(s), length, usual_overlap if overlap is None else overlap).tolist()
    places = [range(k, k + length) for k in first]
    windows = ClipWindows(s, config, places, batching=Batching(len(places)), device=prior.device)
    moves = run(windows, Objective(reusing(score, config), config), rng=torch.Generator().manual_seed(seed))
    return ClipEdit(codec, windows, moves, len(rgb))
