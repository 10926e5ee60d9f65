"""Editing a clip from a sentence: its frames are encoded, moved together, decoded and written again."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.step import scalar_kernel
from csd3d.engine.transport import TransportKernel
from csd3d.engine.validate import require
from csd3d.media.clip.formats import CONTAINERS, Encoding, require_output, stream_of
from csd3d.media.clip.probe import require_no_frame
from csd3d.media.clip.source import Clip, open_clip
from csd3d.media.geometry import WorkingSize, resize, strip_note
from csd3d.media.masks import ClipMask
from csd3d.media.sheet import contact_sheet, evenly, save_picture
from csd3d.priors.defaults import Particle
from csd3d.priors.prior import Prior
from csd3d.runs.estimate import Work
from csd3d.runs.found_masks import MaskSearch, is_found, mask_file, search_of
from csd3d.runs.history import earlier_runs, provenance
from csd3d.runs.job import Editor, Request, Result, make_request, run_job
from csd3d.runs.manifest import Manifest, fingerprint
from csd3d.runs.progress import RunProgress
from csd3d.runs.reference import like_files, placed
from csd3d.runs.report import Report
from csd3d.runs.rows import writing_rows
from csd3d.runs.session import Session
from video.config import VideoConfig
from video.follow import follow, readable, shots_told
from video.found_mask import find_mask
from video.frames import Convert
from video.latents_store import LatentsStore, greys_path, trajectory_path
from video.motion import ClipMotion, Followed, ParticleMotion, greys_at
from video.plan import Plan, plan_frames, plan_keys, prompts_of, size_of_clip, spans_of, times_of
from video.propagate import key_frames
from video.render import Samples, chunk_frames, render, working_frames
from video.report import make_report
from video.windows import moved_by

_SAMPLED = 16
"""Particles by which the size of latents is measured."""
WRITE_PER_ENCODE = 8.0
"""How many times as long as encoding a clip writing it takes: two pictures of each frame are decoded and averaged along
the flow, and three clips are written."""


def edit_video(
    clip: str | Path | None,
    prompt: str | None,
    output: str | Path | None = None,
    config: VideoConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    prior: Prior | None = None,
    progress: RunProgress | None = None,
) -> Result:
    """Edit a clip as `prompt` says and write it to `output`.

    Args:
        clip: a video file, a folder of frames, or a pattern such as frames/*.png. None only to resume.
        prompt: the sentence, or several with their times: 0-3s: make it day, 3-6s: make it night. None only to resume.
        output: .mp4, .m4v, .mov, .mkv or .webm; .gif or .webp for a small animation; a name without ending for a folder
            of PNG frames; None puts a clip into the run's folder.
        config: settings; None: the defaults, or the settings of the run that is resumed.
        run_dir: folder of the run; None makes a new one in `runs/`.
        resume: go on with the run in `run_dir`. On the CPU the result is bit for bit that of a run never stopped.
        prior: a loaded prior, for callers that edit several clips; None loads `config.prior`.
        progress: shows how far things are; None: on stderr.

    Raises:
        ValueError, TypeError, FileNotFoundError: something asked for is wrong; nothing was written.
        FloatingPointError: the run diverged; the last saved state is still there.
        RunInterrupted: SIGINT or SIGTERM arrived and the state is saved.
    """
    request = make_request(VideoEditor, clip, prompt, output, config, run_dir=run_dir, resume=resume)
    return run_job(VideoEditor, request, prior=prior, progress=progress)


class VideoEditor(Editor[VideoConfig]):
    """The frames of a clip as particles; an `Editor` (`csd3d.runs.job`)."""

    command: ClassVar[str] = "video"
    resumes_runs_of: ClassVar[tuple[str, ...]] = ("video",)
    particles: ClassVar[Particle] = "frames"
    role: ClassVar[str] = "clip"
    free_on_resume: ClassVar[tuple[str, ...]] = (
        "device", "offline", "checkpoint_every", "chunk_frames", "crf", "codec", "depth", "detail", "steady",
        "strength", "mask", "feather", "csd.steps", "csd.tolerance",
    )  # fmt: skip
    """A mask may have moved; what is in it is compared with the other inputs."""

    def __init__(
        self, clip: Clip, prompt: str, output: Path | None, config: VideoConfig, mask: ClipMask | None
    ) -> None:
        self.clip, self.prompt, self.config, self.mask = clip, prompt, config, mask
        self._output = output
        self._plan = self._first_plan()
        self._motion: ClipMotion | None = None
        self._followed = Followed()
        self._resumed: Manifest | None = None
        self._unchanged = _stamps(clip)

    @classmethod
    def settings(cls) -> VideoConfig:
        """The defaults."""
        return VideoConfig()

    @classmethod
    @contextmanager
    def open(cls, request: Request[VideoConfig]) -> Iterator["VideoEditor"]:
        """Open the clip and its mask."""
        config, prompt = placed(request.config), request.prompt
        if request.source is None or prompt is None or not prompt.strip():
            raise ValueError("video: expected a clip and a prompt, got none; only --resume can do without")
        with ExitStack() as stack:
            most, fps = config.max_frames, config.fps
            opened = open_clip(request.source, max_frames=most, fps=fps, stream=config.stream, strict=config.strict)
            clip, mask = stack.enter_context(opened), None
            if (file := mask_file(config.mask)) is not None:
                mask = stack.enter_context(ClipMask(file, clip.info, feather_px=config.feather))
            editor = cls(clip, prompt, request.output, config, mask)
            editor._resumed = request.resumed
            yield editor

    @property
    def name(self) -> tuple[str, str]:
        """The clip's name and the prompt."""
        return self.clip.info.path.stem, self.prompt

    @property
    def sentences(self) -> Sequence[str]:
        """Those of the plan."""
        return self._plan.sentences

    @property
    def reads(self) -> Sequence[Path]:
        """The clip's files, the mask's, and a picture to be like."""
        return (*self.clip.info.inputs, *(self.mask.inputs if self.mask else ()), *like_files(self.config))

    def inputs(self) -> list[dict[str, Any]]:
        """The clip, its mask, and a picture to be like."""
        masks = [] if self.mask is None else [fingerprint(self.mask.path, self.mask.files)]
        source, likes = fingerprint(self.clip.info.path, self.clip.info.content), like_files(self.config)
        return [source, *masks, *map(fingerprint, likes)]

    def history(self, sha256: str) -> list[dict[str, Any]]:
        """By the clip's content, or its comment."""
        return earlier_runs(self.clip.info.path, sha256, self.clip.info.tags.get("comment"))

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The prompt."""
        return {"prompt": self.prompt}

    @property
    def facts(self) -> Mapping[str, str | int]:
        """How many frames there are."""
        return {"frames": self.clip.info.frames}

    def engine_for(self, prior: Prior) -> CsdConfig:
        """Those of `csd-edit`, or what comes nearest with a text-to-image model."""
        return prior.defaults(by=self.config.by, of=self.particles)

    def prepare(self, prior: Prior, config: VideoConfig) -> None:
        """Refuse what the prior cannot serve."""
        self.prior, self.config = prior, config
        self._moved = moved_by(prior, config, self._plan, self._size, self._followed)
        prior.assign_pictures(self._plan.frames)
        if config.motion == "features":
            require(config, "motion", self._follows, "flow where nothing is followed (see --coupling motion)")
            readable(prior, prompts_of(self._plan, config))
        self._search = search_of(config, config.mask, prior)
        if self._search is not None:
            self._moved.seeker(self._search)  # refuses what it cannot find a mask for

    def place(self, run_dir: Path) -> tuple[Path, Sequence[Path]]:
        """A clip, a folder of frames, or an animation."""
        info, encoding = self.clip.info, encoding_of(self.config)
        suffix = info.path.suffix.lower() if info.path.suffix.lower() in CONTAINERS else ".mp4"
        if encoding.codec == "ffv1":
            suffix = ".mkv"
        target = self._output or run_dir / f"edited{suffix}"
        self._replaces = _wrote(self._resumed, target)
        require_output(target, encoding, replaces=self._replaces)
        for read in (info.path, *([self.mask.path] if self.mask else [])):
            require_no_frame(target, read)
        if target.suffix.lower() in CONTAINERS:
            stream_of(target, encoding, width_px=info.width_px, height_px=info.height_px)
        return target, [target]

    def _first_plan(self) -> Plan:
        """The plan of the prompt and of key frames, before the clip is decoded.

        Raises:
            ValueError: times that are not the clip's, or key frames that cannot serve it.
        """
        spans, keyframes = spans_of(self.prompt), self.config.keyframes
        if keyframes is None:
            return plan_frames(spans, times_of(self.clip), fade_s=self.config.fade)
        (first, *others) = spans
        if others or first.sentence != self.prompt.strip():
            raise ValueError("keyframes: expected one sentence for the whole clip, got sentences with times")
        return plan_keys(first.sentence, key_frames([0] * self.clip.info.frames, keyframes))

    @cached_property
    def _size(self) -> WorkingSize:
        short = self.config.size or self.prior.native_px
        return size_of_clip(self.clip, short, self.prior.multiple_px)

    def work(self) -> Work:
        """Of what is moved."""
        return self._moved.work()

    def encode(self, session: Session) -> None:
        """Latents of the particles' sources and, for motion, the frames in grey; the files appear when whole."""
        info, size_px = self.clip.info, self.config.size or self.prior.native_px
        session.note(*self.clip.notes, *filter(None, [strip_note(info.height_px, info.width_px, size_px)]))
        folder, count = session.folder, self.clip.info.frames
        greys = {greys_path(folder): (count, self._greys)} if self._needs_motion else {}
        if self._moved.needs_shots:
            self._scan(session, greys)
            self._moved = self._moved.cut(shots_told(session))
            self._plan = self._moved.plan
            self.prior.assign_pictures(self._plan.frames)
        self._moved.encode(session, lambda wanted: self._scan(session, wanted | greys))

    def move(self, session: Session) -> None:
        """The optimisation, from the last saved state to the end."""
        config, csd, sampled = self.config, self.config.engine, self._moved.sampled
        self._store = session.enter(closing(LatentsStore(session.folder, self._moved.arrays, self._moved.shape)))
        if self._needs_motion:
            sources, frames = self._store.sources, self.clip.info.frames
            self._motion = follow(session, self.prior, config, self._plan, sources, self._size, frames=frames)
            self._followed.motion = ParticleMotion(self._motion, self._plan.frames)
        if self._search is not None:
            self._find_mask(session, self._search)
        if sampled is not None:
            particles = self._moved.to_sample(session.folder, self._store, sampled)
            self._log = session.sample(
                particles, sampled.sampling, config, count=self._moved.count, checkpointer=self._store,
                writes=WRITE_PER_ENCODE,
            )  # fmt: skip
            trajectory_path(session.folder).unlink(missing_ok=True)
            return
        moving, score = csd.coupling == "motion", self._moved.score
        kernel = TransportKernel(self._followed, scalar_kernel(score, csd)) if moving else None
        self._log = session.move(
            self._moved.particles(self._store), score, config, count=self._moved.count, kernel=kernel,
            checkpointer=self._store, writes=WRITE_PER_ENCODE, look=self._look,
        )  # fmt: skip

    def _find_mask(self, session: Session, search: MaskSearch) -> None:
        """Open the mask that the prior finds; none where the whole picture is edited."""
        assert self._motion is not None
        config, moved = self.config, self._moved
        if folder := find_mask(
            session, self.prior, moved.seeker(search), self._store.sources, moved.masked_plan, self._motion,
            size=self._size, clip=self.clip, seed=config.seed, parts=moved.masked_parts(),
            most_frames=config.chunk_frames,
        ):  # fmt: skip
            self.mask = session.enter(ClipMask(folder, self.clip.info, feather_px=config.feather))

    def write(self, session: Session) -> Report:
        """The clip, what the report plays, and the contact sheet."""
        lost: list[str] = []
        steadied = self.config.steady or not self._plan.blend_weights
        pictures = self._moved.pictures(self._store, self.mask, self._motion if steadied else None)
        tags = dict(self.clip.info.tags)
        tags |= provenance(tags.get("comment"), [*session.manifest.history, {"prompt": self.prompt}])
        chunks = render(
            self.clip, pictures, output=session.results[0], replaces=self._replaces,
            before=partial(session.announce, session.results[0]), media=session.folder.media,
            encoding=encoding_of(self.config), tags=tags, most_frames=self.config.chunk_frames, notes=lost,
        )  # fmt: skip
        samples = Samples([])
        with session.manifest.timed("write"), closing(chunks):
            for frames, now in self._tracked(session, "write", chunks):
                samples = now
                self._require_unchanged(session)
                if frames.stop < self.clip.info.frames:
                    session.stop_if_asked("all steps are done, the clip is not written yet")
        session.note(*lost, *self.clip.notes, *self.prior.notes)
        some = torch.tensor(evenly(len(self._store.sources), _SAMPLED))
        session.note_growth(self._store.arrays["z"][some], self._store.sources[some])
        times = [f"{self.clip.info.time_s(i):.2f} s" for i in samples.frames]
        source, edited = torch.stack(samples.source), torch.stack(samples.edited)
        shown = [resize(self.mask(range(i, i + 1)), *source.shape[-2:]) for i in samples.frames] if self.mask else None
        session.note_change(self.prior, self.sentences, source, edited, None if shown is None else torch.cat(shown))
        rows = {"source": source, self.prompt: edited}
        if self._search is not None and shown is not None:
            rows["mask"] = torch.cat(shown).clamp(0, 1).expand(-1, 3, -1, -1)
        save_picture(contact_sheet(rows, columns=times), session.folder.sheet)
        return session.with_gradient(
            make_report(self.clip, self.prompt, session.manifest), self._log, self._show, self.prior.decode
        )

    def _look(self) -> Mapping[str, Tensor]:
        """The middle particle, as it was and as it is."""
        middle, rows = self._moved.count // 2, {"source": self._store.sources, self.prompt: self._store.arrays["z"]}
        return {label: self.prior.decode(self._moved.particle(latents, middle)) for label, latents in rows.items()}

    def _show(self, particle: int) -> tuple[str, Tensor]:
        return self._moved.label(particle), self._moved.particle(self._store.sources, particle)

    def _scan(self, session: Session, wanted: dict[Path, tuple[int, Convert]]) -> None:
        """Write what is missing of `wanted`: files of so many rows."""
        missing = {path: rows for path, rows in wanted.items() if not path.exists()}
        if not missing:
            return
        chunks = working_frames(self.clip, self._size, most_frames=self.config.chunk_frames)
        with session.manifest.timed("encode"), ExitStack() as stack:
            stack.enter_context(closing(chunks))
            files = [
                (stack.enter_context(writing_rows(path, count)), convert) for path, (count, convert) in missing.items()
            ]
            for frames, rgb in self._tracked(session, "encode", chunks):
                for append, convert in files:
                    if len(rows := convert(frames, rgb)):
                        append(rows)
                session.stop_if_asked(f"encoded {frames.stop} frames, which the next start does again")
            self._require_unchanged(session)

    def _greys(self, frames: range, rgb: Tensor) -> Tensor:
        return greys_at(rgb, self._size, self.prior.codec.factor)

    @property
    def _follows(self) -> bool:
        """Whether points are followed in latents."""
        config = self.config
        return config.engine.coupling == "motion" or config.attending.follows or is_found(config, config.mask)

    @property
    def _needs_motion(self) -> bool:
        return self._follows or self.config.steady or self._moved.needs_shots

    def _require_unchanged(self, session: Session) -> None:
        """Raises `ValueError` if the clip is no longer what the run began with."""
        if (now := _stamps(self.clip)) != self._unchanged:
            info = self.clip.info
            if fingerprint(info.path, info.content)["sha256"] != session.manifest.inputs[0]["sha256"]:
                raise ValueError(f"clip: {info.path} changed while it was edited; the state is as it was before")
            self._unchanged = now

    def _tracked(
        self, session: Session, phase: str, chunks: Iterator[tuple[range, Any]]
    ) -> Iterator[tuple[range, Any]]:
        """The chunks with a bar that counts frames."""
        unit = chunk_frames(self.clip, self.config.chunk_frames)
        then = "the edit" if phase == "encode" else ""
        return session.progress.track(phase, chunks, total=self.clip.info.frames, unit=unit, then=then)


def encoding_of(config: VideoConfig) -> Encoding:
    """How the result is encoded."""
    return Encoding(config.codec, config.crf, config.depth)


def _wrote(manifest: Manifest | None, target: Path) -> bool:
    """Whether the run of a manifest wrote the folder at `target`, which nobody changed since."""
    if manifest is None or not target.is_dir():
        return False
    place = os.path.realpath(target)  # killed when a folder was about to appear, it may be there or not yet
    return fingerprint(target)["sha256"] in (manifest.written.get(place), manifest.writing.get(place))


def _stamps(clip: Clip) -> tuple[tuple[int, int], ...]:
    """Sizes and times of change of the clip's files; none for what is gone."""
    paths = clip.info.content or (clip.info.path,)
    return tuple((s.st_size, s.st_mtime_ns) for s in (path.stat() for path in paths if path.exists()))
