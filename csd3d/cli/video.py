"""`csd3d video`: edit a clip, have a first look at what it would become, or edit many (`csd3d video batch`)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from csd3d.cli.editors import Form, edit_base, paper_engine, read_request, require_asked, run_and_say
from csd3d.cli.parse import Flag
from csd3d.media.clip.probe import PICTURES
from csd3d.runs.job import Request, load_for
from video.config import VideoConfig
from video.edit import VideoEditor
from video.preview import preview_video

FORM = Form(
    VideoEditor,
    about='Edit a clip from one sentence, steady over time, or from several: "0-3s: make it day, 3-6s: make it night". '
    "`csd3d video batch JOBS.csv` edits many clips.",
    source=Flag(
        "clip",
        Path | None,
        None,
        'Video file, folder of frames, or a pattern such as "frames/*.png". None: that of the run to resume.',
        positional=True,
    ),
    first=("steps", "strength", "mask", "size", "coupling", "keyframes", "seed", "device"),
    base=edit_base,
    paper=lambda method, found: paper_engine(method, "csd-edit-video"),
    extra=(
        Flag(
            "preview",
            bool,
            False,
            "Only a first look, in seconds: a few frames and what they become, in a picture (--output or "
            "NAME-preview.png).",
        ),
    ),
)


def main(argv: Sequence[str]) -> int:
    """Edit, or preview; returns the exit code. Mistakes raise, see `video.edit.edit_video`."""
    if argv[:1] == ["batch"]:
        from csd3d.cli import video_batch

        return video_batch.main(argv[1:])
    request, extras = read_request(FORM, argv)
    request = replace(request, source=extras["clip"] or request.source)
    require_asked(request, "a clip")
    if extras["preview"]:
        return _preview(request)
    return run_and_say(FORM, request, "clip")


def _preview(request: Request[VideoConfig]) -> int:
    """A first look.

    Raises:
        ValueError: with --resume, or a name that is no picture's.
    """
    clip, prompt, config = request.source, request.prompt, request.config
    if request.resumed is not None or clip is None or prompt is None:
        raise ValueError("preview: expected a clip and a sentence, got --resume")
    output = request.output or Path(f"{clip.stem.strip('*?') or 'clip'}-preview.png")
    if output.suffix.lower() not in PICTURES:
        raise ValueError(f"output: expected a picture for --preview, such as preview.png, got {output}")
    print(f"preview {preview_video(clip, prompt, output, config, prior=load_for(request))}")
    return 0
