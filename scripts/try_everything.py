"""The walk of a newcomer through all commands with real data, for a person to look at before a release.

    python scripts/try_everything.py DATA --out tried

DATA holds what there is of clips/, photos/, panoramas/, stitching/NAME/ (photos taken on one spot) and scenes/NAME/
(with transforms.json). Every command runs as it would be typed; OUT/index.html has its words, how long it took, what it
noted, and a contact sheet of before and after. The exit code is 1 if a command failed.
"""

import html
import importlib.util
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image, ImageDraw

from csd3d.media.atomic import write_text
from csd3d.media.clip.formats import CONTAINERS
from csd3d.media.pictures.read import open_picture
from csd3d.media.pictures.write import SUFFIXES
from csd3d.media.sheet import contact_sheet, save_picture
from scripts.benchmarks.shown import shown

SHOWN = 4
"""Frames of a clip on a sheet."""
LEAST_SPHERE_PX = 192
"""Working size that a sphere needs."""


@dataclass(frozen=True)
class Walk:
    """Try every command with real data, and make a page to look at."""

    data: tyro.conf.Positional[Path]
    """Folder with some of clips/, photos/, panoramas/, stitching/NAME/, scenes/NAME/."""
    out: Path = Path("tried")
    """Folder for results and index.html."""
    steps: int = 10
    """Moves of every particle: few keep the walk short, the defaults of the commands show what they can."""
    frames: int = 12
    """Frames of a clip."""
    size: int = 96
    """Working size in px."""
    scene_steps: int = 300
    """Steps of a scene before it is edited; as many follow."""
    only: tuple[str, ...] = ()
    """Names of the trials to make. Default: all."""


@dataclass(frozen=True)
class Trial:
    """A command, and which files show what it does."""

    name: str
    words: tuple[str, ...]
    """Without `csd3d`, unless the program is another."""
    before: tuple[Path, ...] = ()
    after: tuple[Path, ...] = ()
    program: tuple[str, ...] = ("-m", "csd3d")

    @property
    def command(self) -> str:
        """As a person types it."""
        return shlex.join([*(() if self.program != ("-m", "csd3d") else ("csd3d",)), *self.words])


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    trial: Trial
    code: int
    seconds: float
    text: str
    sheet: Path | None


def main() -> int:
    """Walk; returns the exit code."""
    walk = tyro.cli(Walk, description=Walk.__doc__)
    if not walk.data.is_dir():
        print(f"data: expected a folder, got {walk.data}", file=sys.stderr)
        return 2
    walk.out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for trial in trials(walk):
        if walk.only and trial.name not in walk.only:
            continue
        outcomes.append(attempt(trial, walk))
        done = outcomes[-1]
        print(f"{trial.name:<16} {'fine' if done.code == 0 else f'exit code {done.code}':<14} {done.seconds:6.1f} s")
        write_text(walk.out / "index.html", page(outcomes, walk.out))
    print(f"look at {walk.out / 'index.html'}")
    return int(any(outcome.code for outcome in outcomes))


def trials(walk: Walk) -> Iterator[Trial]:
    """What can be tried with the data that is there."""
    out, data = walk.out, walk.data
    quick = ("--steps", str(walk.steps), "--size", str(walk.size))
    yield Trial("doctor", ("doctor",))
    yield Trial("priors", ("priors", "show", "builtin"))
    for clip in files(data / "clips", CONTAINERS)[:1]:
        some = (*quick, "--max-frames", str(walk.frames))
        for name, prompt, more, target in (
            ("video", "make it snowy", (), "snowy.mp4"),
            ("video-times", "0-0.2s: make it snowy; 0.2-9s: make it night", (), "times.mp4"),
            ("video-keys", "make it a watercolor", ("--keyframes", "2"), "keys.mp4"),
            ("video-strength", "make it night", ("--strength", "0.5"), "half.webm"),
            ("video-frames", "make it autumn", (), "frames"),
        ):
            words = ("video", str(clip), "--prompt", prompt, *some, *more, "--output", str(out / target))
            yield Trial(name, (*words, "--run-dir", str(out / "runs" / name)), (clip,), (out / target,))
        again = ("video", "--resume", "--run-dir", str(out / "runs/video"), "--steps", str(walk.steps + 2))
        yield Trial("video-resumed", again, (clip,), (out / "snowy.mp4",))
    for photo in files(data / "photos", SUFFIXES)[:1]:
        mask = circle(photo, out / "mask.png")
        words = ("image", str(photo), "--prompt", "make it sunset", *quick)
        yield Trial("image", (*words, "--output", str(out / "sunset.png")), (photo,), (out / "sunset.png",))
        words = (*words, "--mask", str(mask), "--output", str(out / "masked.jpg"))
        yield Trial("image-mask", words, (photo, mask), (out / "masked.jpg",))
    for wide in files(data / "panoramas", SUFFIXES):
        target = out / f"{wide.stem}-night.jpg"
        enough = ("--steps", str(walk.steps), "--size", str(max(walk.size, LEAST_SPHERE_PX)))
        words = ("panorama", str(wide), "--prompt", "make it night", *enough, "--output", str(target))
        if open_picture(wide).width_px <= 2100:  # larger ones take minutes
            yield Trial(f"panorama-{wide.stem}", words, (wide,), (target,))
    for folder in folders(data / "stitching")[:1]:
        photos = files(folder, SUFFIXES)[:4]
        yield Trial(
            "stitch",
            ("stitch", *map(str, photos), "--output", str(out / "wide.jpg")),
            tuple(photos),
            (out / "wide.jpg",),
        )
    drawn = tuple(out / f"drawn-{k}.png" for k in (1, 2))
    words = (
        "generate",
        "--prompt",
        "a red ball and a blue cube on grass",
        "--n",
        "2",
        "--method",
        "ddim",
        "--steps",
        "30",
    )
    yield Trial("generate", (*words, "--output", str(out / "drawn.png")), (), drawn)
    if pictures := files(data / "photos", SUFFIXES):
        learn = (
            "translate",
            "train",
            str(data / "photos"),
            "--source-prompt",
            "a photo",
            "--task",
            "night={}, at night",
        )
        yield Trial(
            "translate-train",
            (*learn, "--steps", str(walk.steps), "--batch", "2", "--run-dir", str(out / "runs/learnt")),
        )
        network = str(out / "runs/learnt/network.safetensors")
        words = (
            "translate",
            "apply",
            network,
            str(pictures[0]),
            "--task",
            "night",
            "--output",
            str(out / "learnt.png"),
        )
        yield Trial("translate-apply", words, pictures[:1], (out / "learnt.png",))
    for scene in folders(data / "scenes")[:1] if importlib.util.find_spec("nerfstudio") else []:
        yield scene_trial(walk, scene)
    yield Trial("runs", ("runs", "list", str(out / "runs")))


def scene_trial(walk: Walk, scene: Path) -> Trial:
    """A short training of a scene; its edited views are the result."""
    code = "from nerfstudio.scripts.train import entrypoint; entrypoint()"
    place = walk.out / "scenes" / "tried" / "csd-edit-cpu" / "now"
    words = (
        "csd-edit-cpu", "--data", str(scene), "--pipeline.prompt", "make it snowy", "--vis", "tensorboard",
        "--output-dir", str(walk.out / "scenes"), "--experiment-name", "tried", "--timestamp", "now",
        "--max-num-iterations", str(2 * walk.scene_steps), "--pipeline.scene-steps", str(walk.scene_steps),
        "--pipeline.edit-steps", str(walk.steps), "--pipeline.size", str(walk.size),
    )  # fmt: skip
    return Trial("scene", words, (), (place / "edited_views" / "sheet.png",), ("-c", code))


def attempt(trial: Trial, walk: Walk) -> Outcome:
    """Run it, and draw its sheet if it did what it should."""
    since = time.monotonic()
    done = subprocess.run([sys.executable, *trial.program, *trial.words], capture_output=True, text=True, check=False)
    seconds, text, code, sheet = time.monotonic() - since, done.stdout + done.stderr, done.returncode, None
    if code == 0 and (missing := [path for path in trial.after if not path.exists()]):
        code, text = 1, f"{text}\nexpected {missing[0]} to be written"
    if code == 0 and trial.after:
        rows = {f"before: {path.name}": shown(path, SHOWN, of=walk.frames) for path in trial.before}
        rows |= {f"after: {path.name}": shown(path, SHOWN, of=walk.frames) for path in trial.after}
        alone = all(len(row) == 1 for row in rows.values())
        sheet = walk.out / "sheets" / f"{trial.name}.png"
        save_picture(contact_sheet(rows, cell_px=640 if alone else 224), sheet)
    return Outcome(trial, code, seconds, text, sheet)


def circle(photo: Path, path: Path) -> Path:
    """A mask: the middle of a picture."""
    height, width = open_picture(photo).pixels.shape[:2]
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).ellipse((width // 4, height // 4, 3 * width // 4, 3 * height // 4), fill=255)
    save_picture(mask, path)
    return path


def files(folder: Path, suffixes: Collection[str]) -> tuple[Path, ...]:
    """Files of a folder by their suffixes, in order; none where there is no folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return tuple(sorted(path for path in found if path.suffix.lower() in suffixes))


def folders(folder: Path) -> list[Path]:
    """Folders in a folder, in order."""
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def page(outcomes: Sequence[Outcome], out: Path) -> str:
    """The page to look at."""
    parts = []
    for outcome in outcomes:
        trial = outcome.trial
        state = "fine" if outcome.code == 0 else f"exit code {outcome.code}"
        picture = f'<img src="{outcome.sheet.relative_to(out)}" alt="">' if outcome.sheet else ""
        parts += [
            f"<h2>{html.escape(trial.name)}: {state}, {outcome.seconds:.1f} s</h2>",
            f"<pre>{html.escape(trial.command)}</pre>{picture}",
            f"<details{' open' if outcome.code else ''}><summary>what it said</summary>",
            f"<pre>{html.escape(outcome.text.strip()[-4000:])}</pre></details>",
        ]
    style = "body{font:15px sans-serif;max-width:70em;margin:2em auto}img{max-width:100%}pre{white-space:pre-wrap}"
    failed = sum(outcome.code != 0 for outcome in outcomes)
    head = f"<h1>{len(outcomes)} commands tried, {failed} failed</h1>"
    return f'<!doctype html><meta charset="utf-8"><title>csd3d</title><style>{style}</style>{head}{"".join(parts)}\n'


if __name__ == "__main__":
    sys.exit(main())
