"""`csd3d video`: parse, build the settings, edit, say where the result is."""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import tyro

from csd3d.cli.flags import CommonFlags, given, preset_changes, put_flags
from csd3d.media.clip.formats import Codec, Depth
from csd3d.media.clip.probe import PICTURES
from csd3d.priors.editor import suited_to
from csd3d.runs.folder import recorded
from csd3d.runs.settings import override
from video import edit
from video.config import Draw, VideoConfig
from video.edit import edit_video
from video.preview import preview_video


@dataclass(frozen=True)
class Command(CommonFlags):
    """Edit a clip from one sentence, steady over time, or from several: "0-3s: make it day, 3-6s: make it night"."""

    clip: tyro.conf.Positional[Path | None] = None
    """Video file, folder of frames, or a pattern such as "frames/*.png". Only --resume can do without."""
    size: int | None = None
    """Shorter side in px at which the prior works. Default: what the prior was trained at."""
    frames_per_step: int | None = None
    """Frames moved together in a step (default 24)."""
    draw: Draw | None = None
    """Which frames of a longer clip share a step: spread over the clip (`stratified`) or neighbours (`window`, default
    with --coupling motion)."""
    keyframes: int | None = None
    """Quick: edit only so many frames together and carry the edit to the others along their motion."""
    preview: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only a first look, in seconds: a few frames and what they become, in a picture (--output or NAME-preview.png)."""
    strength: float | None = None
    """How far the result goes from the source (0) to the edit (1, default)."""
    mask: Path | None = None
    """Edit only where this is white: a picture, or a folder, pattern or video with one for each frame."""
    feather: float | None = None
    """Pixels over which the edit fades in from the border of the mask, inwards (default 0)."""
    fade: float | None = None
    """Seconds of cross-fade between sentences of a prompt with times (default 0.5)."""
    detail: float | None = None
    """How much of the source's fine detail is put back, 0 to 1."""
    coupling: Literal["svgd", "motion", "independent"] | None = None
    """Whether frames move together pixel by pixel (`svgd`, default), along their optical flow (`motion`), or each for
    itself."""
    no_steady: tyro.conf.FlagCreatePairsOff[bool] = False
    """Do not average decoded frames along their motion, which takes out trembling."""
    lr: float | None = None
    """Learning rate."""
    s_text: float | None = None
    """How strongly the sentence is followed; 1 = no guidance."""
    s_image: float | None = None
    """How strongly the source is kept; 1 = no guidance."""
    max_frames: int | None = None
    """Edit only the first frames."""
    fps: str | None = None
    """Frame rate of a folder of frames, such as 24 or 30000/1001 (default 25)."""
    stream: int | None = None
    """Which of several video streams, counted from 0 (default: the one with the most pixels)."""
    strict: tyro.conf.FlagCreatePairsOff[bool] = False
    """Refuse a damaged file, of which otherwise what can be decoded is edited."""
    codec: Codec | None = None
    """Codec of the output (default H.264, VP9 in .webm); ffv1 is lossless and wants .mkv."""
    crf: int | None = None
    """Quality of the output: 0 best, 18 default, 51 worst."""
    depth: Depth | None = None
    """Bits a channel of the output (default 8)."""


def run(command: Command) -> int:
    """Edit as `command` says; returns the exit code. Mistakes raise, see `video.edit.edit_video`."""
    if not command.resume and (command.clip is None or command.prompt is None):
        missing = "a clip" if command.clip is None else 'a sentence, --prompt "..."'
        raise ValueError(f"expected {missing}, got none (--help shows an overview)")
    if command.preview:
        return _preview(command)
    result = edit_video(
        command.clip,
        command.prompt,
        command.output,
        build_config(command),
        run_dir=command.run_dir,
        resume=command.resume,
    )
    print(f"clip    {result.path}")
    print(f"report  {result.report}")
    return 0


def _preview(command: Command) -> int:
    """A first look.

    Raises:
        ValueError: with --resume, or a name that is no picture's.
    """
    if command.resume or command.clip is None or command.prompt is None:
        raise ValueError("preview: expected a clip and a sentence, got --resume")
    output = command.output or Path(f"{command.clip.stem.strip('*?') or 'clip'}-preview.png")
    if output.suffix.lower() not in PICTURES:
        raise ValueError(f"output: expected a picture for --preview, such as preview.png, got {output}")
    config = build_config(command)
    print(f"preview {preview_video(command.clip, command.prompt, output, config, prior=edit.load_prior(config))}")
    return 0


def build_config(command: Command) -> VideoConfig:
    """The settings: those that suit the prior (or those of the run to resume), then the preset, then the flags.

    Raises:
        ValueError, TypeError, FileNotFoundError: a setting that makes no sense, or that the prior cannot serve.
    """
    config = _start(command)
    if command.preset is not None:
        config = override(config, preset_changes(command.preset, editor="video", method=command.method), where="preset")
    values = given(command)
    if command.coupling is not None:
        values["motion"] = command.coupling == "motion"
        values["coupling"] = "independent" if command.coupling == "independent" else "svgd"
    if command.no_steady:
        values["steady"] = False
    if command.fps is not None:
        values["fps"] = _rate(command.fps)
    return put_flags(config, values)


def _start(command: Command) -> VideoConfig:
    if command.resume:
        return recorded(command.run_dir, VideoConfig(), "video")[1]
    prior, csd = suited_to(command.prior, command.method, device=command.device)
    return replace(VideoConfig(), prior=prior, csd=csd)


def _rate(text: str) -> Fraction:
    """A frame rate as people write it: 24, 23.976, 30000/1001.

    Raises:
        ValueError: it is none.
    """
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"fps: expected a number or a fraction such as 30000/1001, got {text!r}") from None
