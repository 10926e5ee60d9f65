"""`csd3d segments`: what hangs together in a clip or a picture, as masks to choose from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from csd3d.cli.parse import read_dataclass
from csd3d.media.atomic import require_new_folder
from csd3d.media.place import require_place
from csd3d.priors.auto import load_prior
from video.segments import SegmentConfig, segment


@dataclass(frozen=True)
class Command:
    """Write what hangs together in a clip or a picture as masks, which every editor takes as --mask."""

    source: tyro.conf.Positional[Path]
    """A video file, a folder of frames, a pattern such as frames/*.png, or a picture."""
    output: Path
    """Folder to write: masks by number, labels, and an overview, segments.png."""
    prior: str = "builtin:t2i"
    """Whose self-attention is read: `builtin`, `builtin:t2i`, or Stable Diffusion 1.x, 2.x or an editor of it."""
    device: str | None = None
    """`cpu`, `cuda`, ... None: CUDA where there is one."""
    options: Annotated[SegmentConfig, tyro.conf.arg(name="")] = field(default_factory=SegmentConfig)
    """How."""


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code. Mistakes raise, see `video.segments.segment`."""
    command = read_dataclass(Command, argv, prog="csd3d segments")
    require_new_folder(command.output)
    require_place(command.output)
    made = segment(command.source, command.output, load_prior(command.prior, device=command.device), command.options)
    for number, share in enumerate(made.shares, 1):
        print(f"segment {number:<4} {100 * share:5.1f} %")
    print(f"masks        {made.folder}")
    return 0
