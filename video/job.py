"""One start of a run: encode, move all frames together, decode, write, and leave a page to look at."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.residuals import Score
from csd3d.engine.transport import TransportKernel
from csd3d.media.clip.formats import Encoding
from csd3d.media.clip.source import Clip
from csd3d.media.geometry import WorkingSize, working_size
from csd3d.media.masks import ClipMask
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.priors.editor import Loaded, native_px, score_for
from csd3d.runs.history import provenance
from csd3d.runs.log import StepLog
from csd3d.runs.manifest import fingerprint
from csd3d.runs.rows import Rows, writing_rows
from csd3d.runs.session import Start
from video.config import VideoConfig
from video.latents_store import KeptLatents, greys_path, sources_path
from video.motion import ClipMotion, ParticleMotion, grey_px, greys_at
from video.particles import FrameParticles, Turns, state_arrays
from video.plan import Plan, plan_frames, plan_keys, spans_of
from video.propagate import key_frames
from video.render import Pictures, Samples, chunk_frames, render, working_frames
from video.report import make_report
from video.shots import changes, shots_of

_GREYS = 64

Convert = Callable[[range, Tensor], Tensor]
"""Frames at working size and their numbers to the rows that are kept of them, maybe none."""


@dataclass(frozen=True)
class VideoResult:
    """Where things are, and what happened."""

    path: Path
    """The edited clip."""
    run_dir: Path
    """Manifest, state, report."""
    frames: int
    steps: int
    """Steps of the loop over all starts; longer clips take several for each move of a frame."""
    notes: tuple[str, ...]
    """Fallbacks and warnings."""

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.run_dir / "report.html"


@dataclass
class Job:
    """One start of a run, phase by phase."""

    clip: Clip
    prompt: str
    config: VideoConfig
    csd: CsdConfig
    prior: Loaded
    mask: ClipMask | None
    start: Start
    _seen: tuple[tuple[int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        self._seen = _stamps(self.clip)

    def go(self) -> VideoResult:
        """All phases."""
        self.start.note(*self.clip.notes)
        self.start.note_prior(self.prior, self.config.device)
        plan = self._encode()
        with closing(KeptLatents(self.start.folder, state_arrays(self.csd))) as kept:
            log = self._move(kept, plan)
            self._render(kept, plan, log)
        manifest = self.start.manifest
        return VideoResult(
            self.start.results[0], self.start.folder.path, self.clip.info.frames, manifest.steps_done,
            tuple(manifest.notes),
        )  # fmt: skip

    @cached_property
    def _size(self) -> WorkingSize:
        short = self.config.size or native_px(self.prior)
        return working_size(self.clip.info.display_aspect, short, self.prior.codec.factor)

    def _encode(self) -> Plan:
        """Latents of the particles' sources and, for motion, the frames in grey; the files appear when whole."""
        count = self.clip.info.frames
        greys = {greys_path(self.start.folder): (count, self._greys)} if self._moves else {}
        if self.config.keyframes is not None:
            self._scan(greys)
            plan = plan_keys(self.prompt, key_frames(self._shots, self.config.keyframes))
            self.start.note(f"{len(plan.frames)} key frames are edited, the others follow their motion")
        else:
            plan = plan_frames(spans_of(self.prompt), times_of(self.clip), fade_s=self.config.fade)
        self._scan({sources_path(self.start.folder): (len(plan.frames), self._latents_of(plan))} | greys)
        return plan

    def _scan(self, wanted: dict[Path, tuple[int, Convert]]) -> None:
        """Write what is missing of `wanted`: files of so many rows."""
        missing = {path: rows for path, rows in wanted.items() if not path.exists()}
        if not missing:
            return
        chunks = working_frames(self.clip, self._size, most_frames=self.config.chunk_frames)
        with self.start.manifest.timed("encode"), ExitStack() as stack:
            stack.enter_context(closing(chunks))
            files = [
                (stack.enter_context(writing_rows(path, count)), convert) for path, (count, convert) in missing.items()
            ]
            for frames, rgb in self._tracked("encode", chunks):
                for append, convert in files:
                    if len(rows := convert(frames, rgb)):
                        append(rows)
                self.start.stop_if_asked(f"encoded {frames.stop} frames, which the next start does again")
            self._require_unchanged()

    def _greys(self, frames: range, rgb: Tensor) -> Tensor:
        return greys_at(rgb, self._size, self.prior.codec.factor)

    def _latents_of(self, plan: Plan) -> Convert:
        def convert(frames: range, rgb: Tensor) -> Tensor:
            wanted = [frame - frames.start for frame in plan.frames if frame in frames]
            if not wanted:
                return torch.empty(0)
            own = sorted(set(wanted))
            z = self.prior.codec.encode(rgb[own].to(self.prior.device)).detach().to("cpu", torch.float32)
            return z[[own.index(k) for k in wanted]]

        return convert

    @property
    def _moves(self) -> bool:
        """Whether the motion of the clip has to be known."""
        return self.config.motion or self.config.steady or self.config.keyframes is not None

    @cached_property
    def _shots(self) -> list[int]:
        """To which shot each frame belongs."""
        greys = Rows(greys_path(self.start.folder))
        with closing(greys):
            shots = shots_of(changes(greys[k : k + _GREYS] for k in range(0, len(greys), _GREYS)))
        if shots[-1]:
            cuts = [k for k in range(1, len(shots)) if shots[k] != shots[k - 1]]
            named = ", ".join(map(str, cuts[:8])) + (", ..." if len(cuts) > 8 else "")
            self.start.note(f"{len(cuts) + 1} shots, cut at frames {named}: each has a motion of its own")
        return shots

    @cached_property
    def _motion(self) -> ClipMotion | None:
        """Motion within each shot, if the settings need it."""
        if not self._moves:
            return None
        return ClipMotion(
            Rows(greys_path(self.start.folder)), grey_px(self._size, self.prior.codec.factor), self._shots
        )

    def _move(self, kept: KeptLatents, plan: Plan) -> StepLog:
        """The optimisation, from the last saved state to the end."""
        turns, count = turns_of(self.config, plan), len(kept.sources)
        particles = FrameParticles(kept.sources, self.csd, turns=turns, device=self.prior.device, arrays=kept.arrays)
        kernel = None
        if self._motion and self.config.motion:
            kernel = TransportKernel(ParticleMotion(self._motion, plan.frames), self.csd.bandwidth)
        return self.start.move(
            particles, score_of(self.prior, plan, self.csd, self.config.source_prompt), self.csd,
            torch.Generator().manual_seed(self.config.seed), count=count, turns=turns.steps(count), kernel=kernel,
            kept=kept, save_every=self.config.checkpoint_every,
        )  # fmt: skip

    def _render(self, kept: KeptLatents, plan: Plan, log: StepLog) -> None:
        lost: list[str] = []
        pictures = Pictures(
            kept.arrays["z"], kept.sources, self._decode,
            self._size, plan, detail=self.config.detail, strength=self.config.strength, mask=self.mask,
            motion=self._motion if self.config.steady or not plan.shares else None,
        )  # fmt: skip
        tags = dict(self.clip.info.tags)
        tags |= provenance(tags.get("comment"), [*self.start.manifest.history, {"prompt": self.prompt}])
        chunks = render(
            self.clip, pictures, output=self.start.results[0], media=self.start.folder.media,
            encoding=encoding_of(self.config), tags=tags, most_frames=self.config.chunk_frames, notes=lost,
        )  # fmt: skip
        samples = Samples([])
        with self.start.manifest.timed("write"), closing(chunks):
            for frames, now in self._tracked("write", chunks):
                samples = now
                self._require_unchanged()
                if frames.stop < self.clip.info.frames:
                    self.start.stop_if_asked("all steps are done, the clip is not written yet")
        self.start.note(*lost, *self.clip.notes, *getattr(self.prior, "notes", ()))
        times = [f"{self.clip.info.time_s(i):.2f} s" for i in samples.frames]
        rows = {"source": torch.stack(samples.source), self.prompt: torch.stack(samples.edited)}
        save_picture(contact_sheet(rows, columns=times), self.start.folder.sheet)
        self.start.finish(
            make_report(self.clip, self.prompt, self.start.manifest), log,
            lambda i: (f"frame {plan.frames[i]}", kept.sources[i : i + 1]), self._decode,
        )  # fmt: skip

    def _decode(self, z: Tensor) -> Tensor:
        return self.prior.codec.decode(z.to(self.prior.device)).cpu()

    def _require_unchanged(self) -> None:
        """Raises `ValueError` if the clip is no longer what the run began with."""
        if (now := _stamps(self.clip)) != self._seen:
            info = self.clip.info
            if fingerprint(info.path, info.content)["sha256"] != self.start.manifest.inputs[0]["sha256"]:
                raise ValueError(f"clip: {info.path} changed while it was edited; the state is as it was before")
            self._seen = now

    def _tracked(self, phase: str, chunks: Iterator[tuple[range, Any]]) -> Iterator[tuple[range, Any]]:
        """The chunks with a bar that counts frames."""
        unit = chunk_frames(self.clip, self.config.chunk_frames)
        return self.start.progress.track(phase, chunks, total=self.clip.info.frames, unit=unit)


def turns_of(config: VideoConfig, plan: Plan) -> Turns:
    """How the particles of a clip take turns."""
    budget = config.frames_per_step
    draw = config.draw or ("window" if config.motion else "stratified")
    return Turns(budget, draw, min(config.anchors, budget // 2), plan.groups)


def score_of(prior: Loaded, plan: Plan, csd: CsdConfig, source_prompt: str | None = None) -> Score:
    """The prior under the sentences of a plan. Raises ValueError for what it cannot serve."""
    if len(plan.sentences) == 1:
        return score_for(prior, csd, plan.sentences[0], source_prompt=source_prompt)
    said = torch.tensor(plan.said).clamp_min(0)  # what is still takes part in no step
    return score_for(prior, csd, plan.sentences, source_prompt=source_prompt, assign=said)


def encoding_of(config: VideoConfig) -> Encoding:
    """How the result is encoded."""
    return Encoding(config.codec, config.crf, config.depth)


def times_of(clip: Clip) -> list[float]:
    """When each frame is shown, in seconds from the first."""
    info = clip.info
    return [float((pts - info.pts[0]) * info.time_base) for pts in info.pts]


def _stamps(clip: Clip) -> tuple[tuple[int, int], ...]:
    """Sizes and times of change of the clip's files; none for what is gone."""
    paths = clip.info.content or (clip.info.path,)
    return tuple((s.st_size, s.st_mtime_ns) for s in (path.stat() for path in paths if path.exists()))
