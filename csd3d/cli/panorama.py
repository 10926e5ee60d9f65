"""`csd3d panorama` and `csd3d image`: edit a wide picture, a turn, a sphere or a photo; several photos are stitched."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from csd3d.cli.editors import (
    PREVIEW,
    Form,
    begin_preview,
    edit_base,
    paper_engine,
    preview_path,
    read_request,
    require_asked,
    run_and_say,
)
from csd3d.cli.parse import Flag
from csd3d.engine.config import Method
from csd3d.media.place import require_place
from csd3d.priors.defaults import USUAL_PX, trained_side_lat
from csd3d.priors.store.resolve import Resolved, read_json
from csd3d.runs.folder import RunFolder, claim_name, require_no_run
from csd3d.runs.job import Request, require_served
from panorama.config import PanoramaConfig, paper_changes
from panorama.edit import ImageEditor, PanoramaEditor
from panorama.preview import preview_picture
from panorama.regions import sentences_of
from panorama.stitched_file import stitch_files


def _paper(method: Method | None, found: Resolved) -> Mapping[str, Any]:
    """The published settings for the windows of the prior: a prior whose files are not here yet counts as
    one of 64 latents."""
    if method not in (None, "csd-edit"):
        return paper_engine(method, "csd-edit-panorama")
    path = found.path
    unet = None if path is None else read_json(path / "unet" / "config.json", "not a prior: it has no UNet")
    size = None if unet is None else trained_side_lat(unet)
    return paper_changes(USUAL_PX // 8 if size is None else size)


PANORAMA = Form(
    PanoramaEditor,
    about="Edit a picture of any size from one sentence, without seams; full turns and spheres close.",
    source=Flag(
        "pictures",
        tuple[Path, ...],
        (),
        "PNG, JPEG, TIFF or WebP; several photos are stitched first. Only --resume can do without.",
        positional=True,
    ),
    first=(
        "steps",
        "by",
        "strength",
        "mask",
        "mask_words",
        "prompt_at",
        "prompt_mask",
        "wrap",
        "size",
        "coupling",
        "seed",
        "device",
    ),
    base=edit_base,
    paper=_paper,
    extra=(PREVIEW,),
)
IMAGE = Form(
    ImageEditor,
    about="Edit a single picture from one sentence.",
    source=Flag("picture", Path | None, None, "PNG, JPEG, TIFF or WebP. None: that of the run to resume.", True),
    first=("steps", "by", "strength", "mask", "mask_words", "prompt_at", "prompt_mask", "size", "seed", "device"),
    base=edit_base,
    paper=_paper,
    extra=(PREVIEW,),
    without=("share", "window", "stride", "windows_per_step", "draw", "smooth", "wrap", "settle_every"),
)


def main(argv: Sequence[str]) -> int:
    """`csd3d panorama`; returns the exit code. Mistakes raise, see `panorama.edit.edit_panorama`."""
    request, extras = read_request(PANORAMA, argv)
    photos, config = extras["pictures"], request.config
    regions = bool(config.prompt_at or config.prompt_mask)
    if len(photos) < 2:
        request = replace(request, source=photos[0] if photos else request.source)
        require_asked(request, "a picture", needs_prompt=not regions)
        return _edit_or_preview(PANORAMA, request, preview=extras["preview"])
    if request.resumed is not None:
        raise ValueError("resume: expected no photos, the run knows its panorama")
    if not request.prompt and not regions:
        raise ValueError('expected a sentence, --prompt "...", got none (csd3d stitch only joins photos)')
    name = f"{photos[0].stem}-{len(photos)}-photos"
    target = preview_path(replace(request, source=Path(f"{name}.png"))) if extras["preview"] else request.output
    if target is not None:
        require_place(target, inputs=photos)  # of which the run itself knows nothing
    require_served(request, sentences_of(request.prompt, config.prompt_at, config.prompt_mask))  # joining takes long
    if extras["preview"]:
        with TemporaryDirectory() as scratch:
            joined = _stitch(photos, Path(scratch) / f"{name}.png")
            return _edit_or_preview(PANORAMA, replace(request, source=joined), preview=True)
    with _places(request.run_dir, name, request.prompt or "regions") as (run_dir, joined):
        print(f"stitched {_stitch(photos, joined)}")
        return run_and_say(PANORAMA, replace(request, source=joined, run_dir=run_dir), "picture")


@contextmanager
def _places(asked: Path | None, name: str, prompt: str) -> Iterator[tuple[Path, Path]]:
    """Folder of a run, and a file of its own beside it for the joined photos; where no run begins, they go again.

    `asked`: that folder; None: a new one in `runs/`. Raises ValueError if there is a run in it.
    """
    if asked is not None:
        require_no_run(asked)
    run_dir = claim_name(name, prompt) if asked is None else asked
    joined: Path | None = None
    try:
        joined = _claim_file(run_dir.with_name(f"{run_dir.name}-stitched.png"))
        yield run_dir, joined
    except BaseException:
        if not RunFolder(run_dir).manifest.exists():
            if joined is not None:
                joined.unlink(missing_ok=True)
            for folder in (run_dir, run_dir.parent) if asked is None else ():
                with suppress(OSError):  # something is in it
                    folder.rmdir()
        raise


def _claim_file(path: Path) -> Path:
    """An empty file of that name, or with a number where something is there. Raises ValueError where none can be."""
    require_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for k in count(1):
        file = path if k == 1 else path.with_stem(f"{path.stem}-{k}")
        with suppress(FileExistsError):
            file.touch(exist_ok=False)
            return file
    raise AssertionError


def _stitch(photos: Sequence[Path], joined: Path) -> Path:
    """`joined`, made of the photos, after what there is to say of them."""
    for note in stitch_files(photos, joined).notes:
        print(f"note: {note}", file=sys.stderr)
    return joined


def _edit_or_preview(form: Form[PanoramaConfig], request: Request[PanoramaConfig], *, preview: bool) -> int:
    """What is asked for; returns the exit code."""
    if not preview:
        return run_and_say(form, request, "picture")
    editor = ImageEditor if form is IMAGE else PanoramaEditor
    picture, prior = begin_preview(editor, request)
    print(f"preview {preview_picture(editor, request, picture, prior=prior)}")
    return 0


def main_image(argv: Sequence[str]) -> int:
    """`csd3d image`."""
    request, extras = read_request(IMAGE, argv)
    request = replace(request, source=extras["picture"] or request.source)
    regions = bool(request.config.prompt_at or request.config.prompt_mask)
    require_asked(request, "a picture", needs_prompt=not regions)
    return _edit_or_preview(IMAGE, request, preview=extras["preview"])
