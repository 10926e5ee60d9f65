"""What `csd3d video` can be asked for, which its batches read too."""

from pathlib import Path

from csd3d.cli.editors import PREVIEW, Form, edit_base, paper_engine
from csd3d.cli.parse import Flag
from video.edit import VideoEditor

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
    first=("steps", "by", "strength", "mask", "mask_words", "size", "coupling", "keyframes", "seed", "device"),
    base=edit_base,
    paper=lambda method, found: paper_engine(method, "csd-edit-video"),
    extra=(PREVIEW,),
)
