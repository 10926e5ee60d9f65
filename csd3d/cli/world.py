"""`csd3d world`: sample clips, scenes, panoramas and photos as files, with the exact truth of an edit beside them."""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import tyro
from rich.console import Console
from rich.markup import escape

from csd3d.cli.parse import read_dataclass
from csd3d.engine.validate import LARGEST_SIDE_PX, require_int
from csd3d.runs.progress import RunProgress
from csd3d.world import export
from csd3d.world.camera import PathName
from csd3d.world.edits import KINDS, Edit, Kind, all_edits, applicable, describe, find_edit
from csd3d.world.families import all_families, families_in, find_family
from csd3d.world.sample import PanoramaKind, PosedScene, Views, sample_clip, sample_panorama, sample_photo, sample_scene

LARGEST_SEED = 2**62
SEEDS_TRIED = 1000
"""How many seeds are searched for one that suits an edit."""

Data = TypeVar("Data", Views, PosedScene)


@dataclass(frozen=True)
class Clip:
    """Write a clip (mp4)."""

    out: tyro.conf.Positional[Path]
    """The file to write, for example clip.mp4. With --edit, clip.truth.mp4 is written beside it."""
    seed: int = 0
    """Which clip: the same number gives the same clip."""
    edit: str | None = None
    """Also write the exactly edited clip, for example "make it snowy" (csd3d world edits lists what is known)."""
    frames: int = 24
    """Number of frames."""
    width: int = 256
    """Width in pixels."""
    height: int = 256
    """Height in pixels."""
    path: PathName = "orbit"
    """How the camera moves."""
    sweep: float = 1.0
    """Scales the camera's motion."""
    moving: bool = False
    """Let the things drift over the ground."""
    fps: float = 12.0
    """Frames a second."""
    crf: int = 12
    """Quality of x264, 0 (best) to 51."""


@dataclass(frozen=True)
class Scene:
    """Write a posed scene (a folder with transforms.json, as nerfstudio reads it)."""

    out: tyro.conf.Positional[Path]
    """The folder to make. With --edit, its subfolder truth is the edited scene in the same form."""
    seed: int = 0
    """Which scene."""
    edit: str | None = None
    """Also write the exactly edited scene."""
    train_views: int = 24
    """Views to train on."""
    test_views: int = 6
    """Held-out views between them."""
    width: int = 128
    """Width in pixels."""
    height: int = 128
    """Height in pixels."""
    arc: float = 120.0
    """Degrees around the scene that the views cover, up to 360."""


@dataclass(frozen=True)
class Panorama:
    """Write a panorama (jpg with GPano tags)."""

    out: tyro.conf.Positional[Path]
    """The file to write, for example pano.jpg. With --edit, pano.truth.jpg is written beside it."""
    seed: int = 0
    """Which panorama."""
    edit: str | None = None
    """Also write the exactly edited panorama."""
    kind: PanoramaKind = "sphere"
    """sphere: equirectangular, twice as wide as high; strip: cylindrical."""
    height: int = 512
    """Height in pixels."""
    turn: float = 180.0
    """Degrees that a strip covers, up to 360, where it closes."""


@dataclass(frozen=True)
class Photo:
    """Write a photo (png)."""

    out: tyro.conf.Positional[Path]
    """The file to write, for example photo.png. With --edit, photo.truth.png is written beside it."""
    seed: int = 0
    """Which photo."""
    edit: str | None = None
    """Also write the exactly edited photo."""
    width: int = 256
    """Width in pixels."""
    height: int = 256
    """Height in pixels."""


@dataclass(frozen=True)
class Edits:
    """List the edits the world knows, by kind, other wordings after the first; then the sentences with several right
    answers, with what they may mean."""

    seed: int | None = None
    """Only those that apply to the clip, scene and photo of this seed."""
    kind: Kind | None = None
    """Only those of this kind."""


@dataclass(frozen=True)
class Command:
    """Write sample clips, scenes, panoramas and photos whose edits are known exactly."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Annotated[Clip, tyro.conf.subcommand("clip")]
        | Annotated[Scene, tyro.conf.subcommand("scene")]
        | Annotated[Panorama, tyro.conf.subcommand("panorama")]
        | Annotated[Photo, tyro.conf.subcommand("photo")]
        | Annotated[Edits, tyro.conf.subcommand("edits")]
    ]
    """What to do."""


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    return run(read_dataclass(Command, argv, prog="csd3d world"))


def run(command: Command) -> int:
    """Write or list what was asked for; 0. Raises ValueError for an edit that is unknown or changes nothing."""
    a = command.action
    require_int(a, -LARGEST_SEED, LARGEST_SEED, "seed")
    if isinstance(a, Edits):
        _list(a, Console(soft_wrap=True, highlight=False))
    elif isinstance(a, Clip):
        numbers = {"frames": a.frames, "path": a.path, "moving": a.moving, "fps": a.fps, "sweep": a.sweep}
        _make(a, partial(sample_clip, **_size(a), **numbers), partial(export.write_clip, crf=a.crf))
    elif isinstance(a, Scene):
        numbers = {"train_views": a.train_views, "test_views": a.test_views, "arc": a.arc}
        _make(a, partial(sample_scene, **_size(a), **numbers), export.write_scene)
    elif isinstance(a, Panorama):
        _expect_size(a.height)
        numbers = {"kind": a.kind, "height_px": a.height, "turn": a.turn}
        _make(a, partial(sample_panorama, **numbers), export.write_panorama)
    else:
        _make(a, partial(sample_photo, **_size(a)), export.write_photo)
    return 0


def _make(
    action: Clip | Scene | Panorama | Photo, sample: Callable[[int], Data], write: Callable[..., list[Path]]
) -> None:
    """Sample by the action's seed, find its edit, write both with a progress bar and say what was written."""
    data = sample(action.seed)
    views = _views(data)
    edit = None if action.edit is None else _edit(action.edit, views, action.seed, sample)
    total = (len(views) + (len(data.test) if isinstance(data, PosedScene) else 0)) * (1 if edit is None else 2)
    with RunProgress(quiet=not sys.stderr.isatty()) as progress:
        bar = progress.track("rendering", range(total), total=total)
        next(bar)

        def tick(count: int) -> None:
            for _ in range(count):
                next(bar, None)

        written = write(data, action.out, edit=edit, tick=tick)
    captions = (describe(views.scene),) if edit is None else edit.captions(views.scene)
    for path, caption in zip(written, captions, strict=True):
        print(f"{path}: {caption}")
    if edit is not None and edit not in views.edits(kinds=(edit.kind,)):
        print(f"note: {action.edit!r} can hardly be seen in these pictures")
    if sys.stderr.isatty():  # a person reads this
        print(f"to edit it: {next_command(action)}", file=sys.stderr)


def next_command(action: Clip | Scene | Panorama | Photo) -> str:
    """The command that edits what was written."""
    prompt = shlex.quote(action.edit or "make it snowy")
    if isinstance(action, Scene):
        return f"ns-train csd-edit-cpu --data {shlex.quote(str(action.out))} --pipeline.prompt {prompt}"
    editor = {Clip: "video", Panorama: "panorama", Photo: "image"}[type(action)]
    return f"csd3d {editor} {shlex.quote(str(action.out))} --prompt {prompt}"


def _views(data: Views | PosedScene) -> Views:
    return data.train if isinstance(data, PosedScene) else data


def _edit(sentence: str, views: Views, seed: int, sample: Callable[[int], Data]) -> Edit:
    """The edit a sentence means; where it changes nothing here the error also names a seed where it does."""
    try:
        return views.edit(sentence)
    except ValueError as error:
        if find_family(sentence) is not None:
            raise
        meant = find_edit(sentence)
        seeds = range(seed + 1, seed + 1 + SEEDS_TRIED)
        other = next((s for s in seeds if meant.applies(_views(sample(s)).scene)), None)
        hint = "" if other is None else f"; or take --seed {other}, where {sentence!r} applies"
        raise ValueError(f"{error}{hint}") from None


def _size(action: Clip | Scene | Photo) -> dict[str, int]:
    _expect_size(action.width, action.height)
    return {"height_px": action.height, "width_px": action.width}


def _expect_size(*sides_px: int) -> None:
    if not all(16 <= side <= LARGEST_SIDE_PX for side in sides_px):
        raise ValueError(f"size: expected sides of 16 to {LARGEST_SIDE_PX} px, got {' x '.join(map(str, sides_px))}")


def _list(action: Edits, console: Console) -> None:
    """All edits and families, or those of one kind or scene, first wordings first."""
    edits, scene = list(all_edits()), None
    if action.seed is not None:
        scene = sample_photo(action.seed).scene
        edits = applicable(scene)
        console.print(f"scene {action.seed}: {escape(describe(scene))}")
    _list_edits(edits, action.kind, console)
    families = all_families() if scene is None else families_in(scene)
    chosen = [f for f in families if action.kind in (None, f.kind)]
    if chosen:
        console.print("\n[bold]several right answers[/bold]")
    for family in chosen:
        members = family.members if scene is None else family.open_in(scene)
        first, *others = family.wordings
        line = f"{escape(first)}: {', '.join(e.name for e in members)}"
        console.print(f"  {line}  [dim]({escape('; '.join(others))})[/dim]")


def _list_edits(edits: list[Edit], only: Kind | None, console: Console) -> None:
    for kind in KINDS if only is None else (only,):
        chosen = [e for e in edits if e.kind == kind]
        if chosen:
            console.print(f"\n[bold]{kind}[/bold]")
        for first, *others in (e.wordings for e in chosen):
            console.print(f"  {escape(first)}  [dim]({escape('; '.join(others))})[/dim]")
