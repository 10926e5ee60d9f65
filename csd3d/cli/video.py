"""`csd3d video`: edit a clip, have a first look at what it would become, or edit many (`csd3d video batch`)."""

from collections.abc import Sequence
from dataclasses import replace

from csd3d.cli.editors import begin_preview, read_request, require_asked, run_and_say
from csd3d.cli.video_form import FORM
from csd3d.runs.job import Request
from video.config import VideoConfig
from video.edit import VideoEditor
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
    """A first look. Raises ValueError as `begin_preview` does."""
    picture, prior = begin_preview(VideoEditor, request)
    assert request.source is not None
    assert request.prompt is not None
    print(f"preview {preview_video(request.source, request.prompt, picture, request.config, prior=prior)}")
    return 0
