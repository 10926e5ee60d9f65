"""The pictures of docs/gallery.md: commands as a person types them, and what becomes of them, by the built-in priors.

    python scripts/make_gallery.py [NAMES ...]      all exhibits, or those named; into docs/images/gallery

Each exhibit is a list of rows, a row a label, a command and the file that it writes. Sources are samples of the world,
so that anybody makes the same pictures.
"""

import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from csd3d.cli.main import main as csd3d
from csd3d.media.sheet import contact_sheet, save_picture
from scripts.benchmarks.shown import shown

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "gallery"
COLUMNS = 5
"""Frames of a clip that are shown."""


@dataclass(frozen=True)
class Row:
    """What one command writes; without a command, a file that is there already."""

    label: str
    shown: tuple[str, ...]
    """Files, shown beside each other; of a clip some frames."""
    command: str = ""


@dataclass(frozen=True)
class Exhibit:
    """Rows on one sheet."""

    sources: tuple[str, ...]
    """Commands that make what the rows begin with."""
    rows: tuple[Row, ...]
    cell_px: int = 190


def _photo(seed: int) -> str:
    return f"csd3d world photo photo.png --seed {seed} --width 192 --height 192"


def _clip(seed: int) -> str:
    return f"csd3d world clip clip.mp4 --seed {seed} --frames 10 --width 192 --height 128 --moving"


def _image(prompt: str, output: str, flags: str = "") -> str:
    return f'csd3d image photo.png --prompt "{prompt}" --output {output} {flags}'


def _video(prompt: str, output: str, flags: str = "") -> str:
    return f'csd3d video clip.mp4 --prompt "{prompt}" --output {output} {flags}'


THINGS = "a yellow cylinder and a blue cone and a red cube on grass"
CAPTION = "a red ball and a blue cube on grass"

EXHIBITS: Mapping[str, Exhibit] = {
    "mask": Exhibit(
        (_photo(8),),
        (
            Row("source", ("photo.png",)),
            Row("edited everywhere", ("plain.png",), _image("make the cone golden", "plain.png")),
            Row("--mask auto: where the sentence edits, and what was found", ("auto.png", "a/mask.png"),
                _image("make the cone golden", "auto.png", "--mask auto --run-dir a")),
            Row(f'--mask-words "the cone: {THINGS}"', ("words.png", "w/mask.png"),
                _image("make the cone golden", "words.png", f'--mask-words "the cone: {THINGS}" --run-dir w')),
        ),
    ),
    "sampling": Exhibit(
        (_clip(8),),
        (
            Row("source", ("clip.mp4",)),
            Row("moved by collaborative score distillation", ("moved.mkv",), _video("make it sunset", "moved.mkv")),
            Row("--by sampling --share anchors: half the time", ("sampled.mkv",),
                _video("make it sunset", "sampled.mkv", "--by sampling --share anchors")),
        ),
    ),
    "fade": Exhibit(
        (_clip(8),),
        (
            Row("source", ("clip.mp4",)),
            Row("make it snowy, then from 0.4 s on make it night, faded", ("faded.mkv",),
                'csd3d video clip.mp4 --prompt "0-0.4s: make it snowy, 0.4-1s: make it night" --output faded.mkv'),
        ),
    ),
    "places": Exhibit(
        (),
        (
            Row("one caption, four noises", tuple(f"plain-{k}.png" for k in range(1, 5)),
                f'csd3d generate --prompt "{CAPTION}" --method ddim --n 4 --output plain.png'),
            Row('--box "red ball=0.5,0,1,1" --box "blue cube=0,0,0.5,1"', tuple(f"boxed-{k}.png" for k in range(1, 5)),
                f'csd3d generate --prompt "{CAPTION}" --box "red ball=0.5,0,1,1" --box "blue cube=0,0,0.5,1" --n 4 '
                "--output boxed.png"),
            Row('--region "0.5,0,1,1=a red ball" --region "0,0,0.5,1=a blue cube"',
                tuple(f"divided-{k}.png" for k in range(1, 5)),
                f'csd3d generate --prompt "{CAPTION}" --method ddim --region "0.5,0,1,1=a red ball" '
                '--region "0,0,0.5,1=a blue cube" --n 4 --output divided.png'),
        ),
    ),
    "like": Exhibit(
        (
            _photo(8), "csd3d world photo look.png --seed 5 --width 192 --height 192",
            _image("make it snowy", "plain.png", "--by sampling"),
            _image("make it snowy", "colours.png", "--by sampling --like look.png --attention like:scale=0"),
            _image("make it snowy", "looking.png", "--by sampling --like look.png --attention like:colours=0"),
            _image("make it snowy", "both.png", "--by sampling --like look.png"),
        ),
        (
            Row("source, and what it is to be like", ("photo.png", "look.png")),
            Row("make it snowy, plain, and --like look.png", ("plain.png", "both.png")),
            Row("like:scale=0 (colours alone), like:colours=0 (attention alone)", ("colours.png", "looking.png")),
        ),
    ),
    "captions": Exhibit(
        (),
        (
            Row("one caption, four noises", tuple(f"plain-{k}.png" for k in range(1, 5)),
                f'csd3d generate --prompt "{CAPTION}" --method ddim --n 4 --output plain.png'),
            Row("--steer excite", tuple(f"steered-{k}.png" for k in range(1, 5)),
                f'csd3d generate --prompt "{CAPTION}" --steer excite --n 4 --output steered.png'),
            Row("--pick 8: the best of eight noises each, by one look", tuple(f"picked-{k}.png" for k in range(1, 5)),
                f'csd3d generate --prompt "{CAPTION}" --pick 8 --n 4 --output picked.png'),
        ),
    ),
}  # fmt: skip


def make(name: str, exhibit: Exhibit, output: Path) -> None:
    """Run the commands of an exhibit in a folder of its own and lay out what they wrote.

    Raises:
        RuntimeError: a command failed.
    """
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for command in (*exhibit.sources, *(row.command for row in exhibit.rows if row.command)):
                words = shlex.split(command)[1:]
                if csd3d(words):
                    raise RuntimeError(f"{name}: {command} failed")
            rows = {row.label: beside([shown(Path(file), COLUMNS) for file in row.shown]) for row in exhibit.rows}
        finally:
            os.chdir(here)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_picture(contact_sheet(rows, cell_px=exhibit.cell_px), output)


def beside(several: Sequence[Float[Tensor, "_n 3 _H _W"]]) -> Float[Tensor, "m 3 _H _W"]:
    """Pictures of a row, in the size of the first."""
    size = several[0].shape[-2:]
    return torch.cat([interpolate(p, size, mode="bilinear") if p.shape[-2:] != size else p for p in several])


def main(names: Sequence[str]) -> int:
    """Make the exhibits named, or all; 2 and one line for a name that there is not."""
    unknown = [name for name in names if name not in EXHIBITS]
    if unknown:
        print(f"make_gallery: expected names among {', '.join(EXHIBITS)}, got {unknown[0]}", file=sys.stderr)
        return 2
    for name in names or EXHIBITS:
        make(name, EXHIBITS[name], OUT / f"{name}.jpg")
        print(OUT / f"{name}.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
