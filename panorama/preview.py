"""A first look at what a picture would become: with few steps, in seconds."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from csd3d.media.place import require_place
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.priors.prior import Prior
from csd3d.priors.prompts.photographs import prior_note
from csd3d.priors.store.fingerprint import models_beside
from csd3d.runs.job import Request
from csd3d.runs.preview import quick
from csd3d.runs.progress import RunProgress
from panorama.config import PanoramaConfig
from panorama.edit import SHEET_PX, PanoramaEditor


@torch.no_grad()
def preview_picture(
    editor: type[PanoramaEditor],
    request: Request[PanoramaConfig],
    picture: Path,
    *,
    prior: Prior,
    progress: RunProgress | None = None,
) -> Path:
    """Write the source of `request` and what it becomes to `picture`. Nothing else is written.

    Colours and composition are those to expect; fine structure is not.

    Raises:
        ValueError, FileNotFoundError: as for `panorama.edit.edit_panorama`.
    """
    progress = progress or RunProgress()
    with ExitStack() as stack:
        job = stack.enter_context(editor.open(request))
        job.prepare(prior, replace(job.config, csd=quick(job.config.csd or job.engine_for(prior))))
        require_place(picture, inputs=job.kept, models=models_beside(job.config))
        stack.enter_context(progress)
        if note := prior_note(prior, job.sentences):
            progress.say(f"note: {note}")
        rows = job.preview(progress)
    save_picture(contact_sheet(rows, cell_px=SHEET_PX), picture)
    return picture
