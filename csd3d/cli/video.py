"""`csd3d video`: edit a clip, have a first look at what it would become, or edit many (`csd3d video batch`)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from csd3d.cli.editors import read_request, require_asked, run_and_say
from csd3d.cli.video_form import FORM
from csd3d.media.clip.probe import PICTURES
from csd3d.runs.job import Request, load_for
from video.config import VideoConfig
from video.preview import preview_video


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
