"""Editing a clip from a sentence: what is asked for is checked here; `video.job` does it."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from csd3d.media.clip.formats import CONTAINERS, Encoding, require_output, stream_of
from csd3d.media.clip.output import require_place
from csd3d.media.clip.probe import ClipInfo
from csd3d.media.clip.source import Clip, open_clip
from csd3d.media.masks import ClipMask
from csd3d.priors.editor import Loaded, suited
from csd3d.priors.store.fingerprint import prior_entry
from csd3d.runs.folder import free_name, recorded
from csd3d.runs.history import earlier_runs
from csd3d.runs.manifest import Manifest, fingerprint, to_plain
from csd3d.runs.progress import RunProgress
from csd3d.runs.session import started
from video.config import VideoConfig
from video.job import Job, VideoResult, encoding_of, score_of, times_of
from video.plan import Plan, plan_frames, plan_keys, spans_of
from video.propagate import key_frames

FREE = (
    "device", "checkpoint_every", "chunk_frames", "crf", "codec", "depth", "detail", "steady", "strength", "mask",
    "feather", "csd.steps",
)  # fmt: skip
"""Settings that may change when a run is resumed: they do not touch the steps already done. A mask may have moved; what
is in it is compared with the other inputs."""


def edit_video(
    clip: str | Path | None,
    prompt: str | None,
    output: str | Path | None = None,
    config: VideoConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    prior: Loaded | None = None,
    progress: RunProgress | None = None,
) -> VideoResult:
    """Edit a clip as `prompt` says and write it to `output`.

    Args:
        clip: a video file, a folder of frames, or a pattern such as frames/*.png. None only to resume.
        prompt: the sentence, or several with their times: 0-3s: make it day, 3-6s: make it night. None only to resume.
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
        old, settings = recorded(run_dir, VideoConfig(), "video")
        clip, prompt = clip or old.inputs[0]["path"], prompt or old.config["prompt"]
        output, config = output or old.outputs.get("clip"), config or settings
    if clip is None or prompt is None or not prompt.strip():
        raise ValueError("video: expected a clip and a prompt, got none; only --resume can do without")
    config = config or VideoConfig()
    progress = progress or RunProgress()
    with ExitStack() as stack:
        source = stack.enter_context(
            open_clip(
                Path(clip), max_frames=config.max_frames, fps=config.fps, stream=config.stream, strict=config.strict
            )
        )
        plan = _plan(source, prompt, config)
        mask = None
        if config.mask is not None:
            place = Path(config.mask).resolve()
            config = replace(config, mask=str(place))  # a run is resumed from anywhere
            mask = stack.enter_context(ClipMask(place, source.info, feather_px=config.feather))
        prior = prior or load_prior(config)
        csd = config.csd or suited(prior)
        config = replace(config, csd=csd)
        score_of(prior, plan, csd, config.source_prompt)  # refuses what the prior cannot serve
        path = Path(run_dir) if run_dir is not None else free_name(source.info.path.stem, prompt)
        target = _target(output, path, source.info, mask, encoding_of(config))
        manifest = _manifest(source, prompt, config, prior, mask, target)
        with started(path, manifest, [target], progress, resume=resume, free=FREE) as start:
            return Job(source, prompt, config, csd, prior, mask, start).go()


def load_prior(config: VideoConfig) -> Loaded:
    """Load the prior that `config` names.

    Raises:
        ValueError, FileNotFoundError: there is none of that name, or it is of no kind that can be used.
    """
    from csd3d.priors.auto import load_either  # slow to import, and a caller may bring a prior of its own

    return load_either(config.prior, device=config.device)


def _plan(clip: Clip, prompt: str, config: VideoConfig) -> Plan:
    """What is asked for, before the clip is looked at closely.

    Raises:
        ValueError: times that are not the clip's, or key frames that cannot serve it.
    """
    spans = spans_of(prompt)
    if config.keyframes is None:
        return plan_frames(spans, times_of(clip), fade_s=config.fade)
    (first, *others) = spans
    if others or first.sentence != prompt.strip():
        raise ValueError("keyframes: expected one sentence for the whole clip, got sentences with times")
    return plan_keys(first.sentence, key_frames([0] * clip.info.frames, config.keyframes))


def _manifest(
    clip: Clip, prompt: str, config: VideoConfig, prior: Loaded, mask: ClipMask | None, target: Path
) -> Manifest:
    source = fingerprint(clip.info.path, clip.info.content)
    return Manifest(
        "video", to_plain(config) | {"prompt": prompt, "prior": prior.name}, config.seed,
        inputs=[source] if mask is None else [source, fingerprint(mask.path, mask.files)],
        prior=prior_entry(prior), outputs={"clip": str(target.resolve())},
        history=earlier_runs(clip.info.path, source["sha256"], clip.info.tags.get("comment")),
    )  # fmt: skip


def _target(
    output: str | Path | None, run_dir: Path, info: ClipInfo, mask: ClipMask | None, encoding: Encoding
) -> Path:
    """Where the edited clip goes, checked before anything is done."""
    suffix = info.path.suffix.lower() if info.path.suffix.lower() in CONTAINERS else ".mp4"
    if encoding.codec == "ffv1":
        suffix = ".mkv"
    target = Path(output) if output is not None else run_dir / f"edited{suffix}"
    require_output(target, encoding)
    if target.suffix.lower() in CONTAINERS:
        stream_of(target, encoding, width_px=info.width_px, height_px=info.height_px)
    require_place(target, info, mask)
    if target.resolve() == run_dir.resolve():
        raise ValueError(f"output: expected another place than the folder of the run, got {target}")
    return target
