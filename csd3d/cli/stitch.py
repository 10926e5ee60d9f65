"""`csd3d stitch`: photos taken on one spot to one panorama."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from csd3d.cli.parse import read_dataclass
from panorama.stitch import StitchConfig
from panorama.stitched_file import stitch_files


@dataclass(frozen=True)
class Command:
    """Join photos that were taken on one spot, in any order, into one panorama."""

    photos: tyro.conf.Positional[tuple[Path, ...]]
    """Two photos or more: PNG, JPEG, TIFF or WebP."""
    output: Path
    """File to write; its name says the format."""
    options: Annotated[StitchConfig, tyro.conf.arg(name="")] = field(default_factory=StitchConfig)
    """How."""
    quality: int = 95
    """Of JPEG and WebP, 1 to 100; a WebP of 100 is lossless."""


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    return run(read_dataclass(Command, argv, prog="csd3d stitch"))


def run(command: Command) -> int:
    """Stitch; returns the exit code. Mistakes raise, see `panorama.stitch.stitch`."""
    made = stitch_files(command.photos, command.output, command.options, quality=command.quality)
    for note in made.notes:
        print(f"note: {note}")
    height, width = made.pixels.shape[:2]
    turn = "closed full turn" if made.closed else f"about {made.turn:.0f} degrees" if made.turn else "flat"
    print(f"panorama  {command.output}")
    print(f"          {width} x {height} px, {turn}, {len(made.used)} of {len(command.photos)} photos")
    return 0
