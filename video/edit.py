"""Editing a clip from one sentence: encode, move all frames together, decode, and leave a run that can be resumed."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import StepInfo, run
from csd3d.engine.residuals import Score
from csd3d.engine.transport import TransportKernel
from csd3d.priors.editor import Editor, native_px, recommended
from csd3d.priors.geometry import WorkingSize, working_size
from csd3d.runs.folder import RunFolder, free_name, prior_fingerprint, reopen_run, start_run
from csd3d.runs.interrupt import RunInterrupted, StopRequest, stoppable
from csd3d.runs.manifest import Manifest, fingerprint, to_plain
from csd3d.runs.progress import RunProgress
from csd3d.runs.report import write_report
from csd3d.runs.rows import Rows, writing_rows
from csd3d.runs.settings import override
from csd3d.runs.sheet import contact_sheet, save_picture
from video.config import VideoConfig
from video.formats import CONTAINERS, Encoding, require_output
from video.keep import KeptLatents, greys_path, sources_path
from video.motion import ClipMotion, grey_px, greys_at
from video.particles import FrameParticles, rounds, state_arrays
from video.render import Pictures, Samples, chunk_frames, render, working_frames
from video.report import make_report
from video.shots import changes, shots_of
from video.source import Clip, open_clip

FREE = ("device", "checkpoint_every", "chunk_frames", "crf", "codec", "depth", "detail", "steady", "csd.steps")
"""Settings that may change when a run is resumed: they do not touch the steps already done."""
_GREYS = 64


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


def edit_video(
    clip: str | Path | None,
    prompt: str | None,
    output: str | Path | None = None,
    config: VideoConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    prior: Editor | None = None,
    progress: RunProgress | None = None,
) -> VideoResult:
    """Edit a clip as `prompt` says and write it to `output`.

    Args:
        clip: a video file, a folder of frames, or a pattern such as frames/*.png. None only to resume.
        prompt: the sentence. None only to resume.
        output: .mp4, .m4v, .mov, .mkv or .webm; .gif or .webp for a small animation; a name without ending for a folder
            of PNG frames; None puts a clip into the run's folder.
        config: settings; None = the defaults, or the settings of the run that is resumed.
        run_dir: folder of the run; None makes a new one in `runs/`.
        resume: go on with the run in `run_dir`. On the CPU the result is bit for bit that of a run never stopped.
        prior: a loaded prior, for callers that edit several clips; None loads `config.prior`.
        progress: shows how far things are; None = on stderr.

    Raises:
        ValueError, TypeError, FileNotFoundError: something asked for is wrong; nothing was written.
        FloatingPointError: the run diverged; the last saved state is still there.
        RunInterrupted: SIGINT or SIGTERM arrived and the state is saved.
    """
    if resume:
        clip, prompt, output, config = _recall(clip, prompt, output, config, run_dir)
    if clip is None or prompt is None or not prompt.strip():
        raise ValueError("video: expected a clip and a prompt, got none; only --resume can do without")
    config = config or VideoConfig()
    progress = progress or RunProgress()
    with open_clip(
        Path(clip), max_frames=config.max_frames, fps=config.fps, stream=config.stream, strict=config.strict
    ) as source:
        prior = prior or load_prior(config)
        config = replace(config, csd=config.csd or recommended(prior.builtin))
        assert config.csd is not None
        score = prior.score(prompt, s_text=config.csd.s_text, s_image=config.csd.s_image)
        manifest = _manifest(source, prompt, config, prior)
        path = Path(run_dir) if run_dir is not None else free_name(source.info.path.stem, prompt)
        target = _target(output, path, source.info.path, _encoding(config))
        if resume:
            folder, manifest = reopen_run(path, manifest, free=FREE)
        else:
            folder = start_run(path, manifest)
        manifest.outputs["clip"] = str(target.resolve())
        job = _Job(source, prompt, config, config.csd, prior, score, folder, manifest, target, progress)
        with progress, stoppable() as stop:
            return job.go(stop)


def load_prior(config: VideoConfig) -> Editor:
    """Load the prior that `config` names.

    Raises:
        ValueError, FileNotFoundError: there is none of that name, or it is not an instruction editor.
    """
    from csd3d.priors.instruct import InstructPrior  # slow to import, and a caller may bring a prior of its own

    return InstructPrior.load(config.prior, device=config.device)


@dataclass
class _Job:
    """One start of a run, phase by phase."""

    clip: Clip
    prompt: str
    config: VideoConfig
    csd: CsdConfig
    prior: Editor
    score: Score
    folder: RunFolder
    manifest: Manifest
    target: Path
    progress: RunProgress

    def go(self, stop: StopRequest) -> VideoResult:
        """All phases; whatever ends them, the manifest says how the run stands."""
        try:
            self._note_circumstances()
            size = self._size()
            self._encode(size, stop)
            motion = self._motion(size)
            with closing(KeptLatents(self.folder, state_arrays(self.csd))) as kept:
                curves = self._move(kept, motion, stop)
                self._render(kept, size, motion, curves, stop)
        except BaseException as error:
            self.manifest.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.manifest.measure_memory()
            self.manifest.write(self.folder.manifest)
            raise
        return VideoResult(
            self.target, self.folder.path, self.clip.info.frames, self.manifest.steps_done, tuple(self.manifest.notes)
        )

    def _size(self) -> WorkingSize:
        short = self.config.size or native_px(self.prior)
        return working_size(self.clip.info.display_aspect, short, self.prior.codec.factor)

    def _encode(self, size: WorkingSize, stop: StopRequest) -> None:
        """Latents of the sources and, for their motion, the frames in grey; the files appear when they are whole."""
        wanted = {sources_path(self.folder): self._latents}
        if self._moves:
            wanted[greys_path(self.folder)] = lambda rgb: greys_at(rgb, size, self.prior.codec.factor)
        missing = {path: convert for path, convert in wanted.items() if not path.exists()}
        if not missing:
            return
        chunks = working_frames(self.clip, size, most_frames=self.config.chunk_frames)
        with self._phase("encode"), ExitStack() as stack:
            stack.enter_context(closing(chunks))
            files = [
                (stack.enter_context(writing_rows(path, self.clip.info.frames)), convert)
                for path, convert in missing.items()
            ]
            for frames, rgb in self._tracked("encode", chunks):
                for append, convert in files:
                    append(convert(rgb))
                self._stop_if(stop, f"encoded {frames.stop} frames, which the next start does again")

    def _latents(self, rgb: Tensor) -> Tensor:
        return self.prior.codec.encode(rgb.to(self.prior.device)).detach().to("cpu", torch.float32)

    @property
    def _moves(self) -> bool:
        """Whether the motion of the clip has to be known."""
        return self.config.motion or self.config.steady

    def _motion(self, size: WorkingSize) -> ClipMotion | None:
        """Motion within each shot, if the settings need it."""
        if not self._moves:
            return None
        greys = Rows(greys_path(self.folder))
        shots = shots_of(changes(greys[k : k + _GREYS] for k in range(0, len(greys), _GREYS)))
        if shots[-1]:
            cuts = [k for k in range(1, len(shots)) if shots[k] != shots[k - 1]]
            named = ", ".join(map(str, cuts[:8])) + (", ..." if len(cuts) > 8 else "")
            self._note(f"{len(cuts) + 1} shots, cut at frames {named}: each has a motion of its own")
        return ClipMotion(greys, grey_px(size, self.prior.codec.factor), shots)

    def _move(self, kept: KeptLatents, motion: ClipMotion | None, stop: StopRequest) -> list[StepInfo]:
        """The optimisation, from the last saved state to the end."""
        group_count = rounds(len(kept.sources), self.config.frames_per_step)
        csd = replace(
            self.csd, steps=self.csd.steps * group_count, lr_decay_every=self.csd.lr_decay_every * group_count
        )
        draw = self.config.draw or ("window" if self.config.motion else "stratified")
        particles = FrameParticles(
            kept.sources, csd, budget=self.config.frames_per_step, draw=draw, device=self.prior.device,
            arrays=kept.arrays,
        )  # fmt: skip
        kernel = TransportKernel(motion, csd.bandwidth) if motion and self.config.motion else None
        rng = torch.Generator().manual_seed(self.config.seed)
        done, curves = kept.load(particles, rng)
        if done > csd.steps:
            raise ValueError(f"steps: expected at least the {done} that this run has done, got {csd.steps}")

        def save() -> None:
            kept.save(particles, rng, curves, done)
            self.manifest.steps_done = done

        with self._phase("edit"):
            steps = run(particles, self.score, csd, rng=rng, start=done, kernel=kernel)
            for info in self.progress.track("edit", steps, total=csd.steps, start=done):
                curves.append(replace(info, index=()))
                done = info.step + 1
                if stop or done % self.config.checkpoint_every == 0 or done == csd.steps:
                    save()
                self._stop_if(stop, f"{done} of {csd.steps} steps are done")
            if done == 0 or not self.folder.state.exists():
                save()
        self.manifest.write(self.folder.manifest)
        return curves

    def _render(
        self,
        kept: KeptLatents,
        size: WorkingSize,
        motion: ClipMotion | None,
        curves: Sequence[StepInfo],
        stop: StopRequest,
    ) -> None:
        lost: list[str] = []
        pictures = Pictures(
            kept.arrays["z"], kept.sources, lambda z: self.prior.codec.decode(z.to(self.prior.device)).cpu(), size,
            detail=self.config.detail, motion=motion if self.config.steady else None,
        )  # fmt: skip
        chunks = render(
            self.clip, pictures, output=self.target, media=self.folder.media,
            encoding=_encoding(self.config), tags=self.clip.info.tags, most_frames=self.config.chunk_frames, notes=lost,
        )  # fmt: skip
        samples = Samples([])
        with self._phase("write"), closing(chunks):
            for frames, now in self._tracked("write", chunks):
                samples = now
                if frames.stop < self.clip.info.frames:
                    self._stop_if(stop, "all steps are done, the clip is not written yet")
        for note in [*lost, *self.clip.notes, *getattr(self.prior, "notes", ())]:
            self._note(note)
        times = [f"{self.clip.info.time_s(i):.2f} s" for i in samples.frames]
        rows = {"source": torch.stack(samples.source), self.prompt: torch.stack(samples.edited)}
        save_picture(contact_sheet(rows, columns=times), self.folder.sheet)
        self.manifest.status = "finished"
        self.manifest.measure_memory()
        self.manifest.outputs |= {
            "report": str(self.folder.report.resolve()),
            "sheet": str(self.folder.sheet.resolve()),
        }
        write_report(self.folder.report, make_report(self.clip, self.prompt, self.manifest, curves))
        self.manifest.write(self.folder.manifest)

    def _note_circumstances(self) -> None:
        for note in self.clip.notes:
            self._note(note)
        if self.prior.builtin:
            self._note(
                "the built-in prior is small and knows a closed set of sentences; "
                "--prior timbrooks/instruct-pix2pix (or a folder) uses a big one"
            )
        if self.config.device is None and self.prior.device.type == "cpu":
            self._note("no CUDA device is in use: running on the CPU")

    def _note(self, text: str) -> None:
        """Say it once and keep it in the manifest."""
        if self.manifest.note(text):
            self.progress.say(f"note: {text}")

    def _stop_if(self, stop: StopRequest, how_far: str) -> None:
        if stop.signum is not None:
            self.progress.say(f"stopped: {how_far}")
            raise RunInterrupted(self.folder.path, stop.signum)

    def _tracked(self, phase: str, chunks: Iterator[tuple[range, Any]]) -> Iterator[tuple[range, Any]]:
        """The chunks with a bar that counts frames."""
        unit = chunk_frames(self.clip, self.config.chunk_frames)
        return self.progress.track(phase, chunks, total=self.clip.info.frames, unit=unit)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Measure a phase."""
        since = time.monotonic()
        try:
            yield
        finally:
            self.manifest.add_time(name, time.monotonic() - since)


def _manifest(clip: Clip, prompt: str, config: VideoConfig, prior: Editor) -> Manifest:
    known = {"name": prior.name, "path": str(prior.path), "builtin": prior.builtin}
    if Path(prior.path).is_dir():
        known["fingerprint"] = prior_fingerprint(Path(prior.path))
    settings = to_plain(config) | {"prompt": prompt, "prior": prior.name}
    return Manifest("video", settings, config.seed, inputs=[fingerprint(clip.info.path, clip.info.files)], prior=known)


def _encoding(config: VideoConfig) -> Encoding:
    return Encoding(config.codec, config.crf, config.depth)


def _target(output: str | Path | None, run_dir: Path, clip: Path, encoding: Encoding) -> Path:
    """Where the edited clip goes, checked before anything is done."""
    suffix = clip.suffix.lower() if clip.suffix.lower() in CONTAINERS else ".mp4"
    if encoding.codec == "ffv1":
        suffix = ".mkv"
    target = Path(output) if output is not None else run_dir / f"edited{suffix}"
    require_output(target, encoding)
    if target.exists() and clip.exists() and target.samefile(clip):
        raise ValueError(f"output: expected another file than the clip itself, got {target}")
    return target


def _recall(
    clip: str | Path | None,
    prompt: str | None,
    output: str | Path | None,
    config: VideoConfig | None,
    run_dir: str | Path | None,
) -> tuple[str | Path, str, str | Path, VideoConfig]:
    """What was left out of a resume, from the run's manifest."""
    if run_dir is None:
        raise ValueError("resume: expected --run-dir, the folder of the run to go on with, got none")
    old = Manifest.read(Path(run_dir) / "manifest.json")
    settings = {k: v for k, v in old.config.items() if k != "prompt"}
    return (
        clip if clip is not None else old.inputs[0]["path"],
        prompt if prompt is not None else old.config["prompt"],
        output if output is not None else old.outputs.get("clip", str(Path(run_dir) / "edited.mp4")),
        config if config is not None else override(VideoConfig(), settings, where="manifest"),
    )
