"""`csd3d image`: the panorama editor with one window, all of the picture."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from csd3d.cli.panorama import PictureFlags, run_on


@dataclass(frozen=True)
class Command(PictureFlags):
    """Edit a single picture from one sentence."""

    picture: tyro.conf.Positional[Path | None] = None
    """PNG, JPEG, TIFF or WebP. Only --resume can do without."""


def run(command: Command) -> int:
    """Edit as `command` says; returns the exit code. Mistakes raise, see `panorama.edit.edit_panorama`."""
    return run_on(command.picture, command, "image")
