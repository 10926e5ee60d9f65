"""Compare ways of editing a radiance field on a scene of the world, whose true edited version is known exactly.

    python scripts/benchmark_nerf.py [--prior builtin] [--out FOLDER] [--quick]

Writes nerf.md, nerf.json and one contact sheet for each edit. All methods start from the same trained scene and get the
same sentence, seed and number of training steps; csd-edit gets no more UNet rows than one view at a time. Methods of a
text-to-image model get captions of the scene before and after the edit. Sentences may be of the world's families, which
have several right answers, if the prior knows them; captions have one. What is done is kept in FOLDER/work, row by row:
a run that was stopped goes on where it was.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor

from csd3d.engine.validate import require, require_int
from csd3d.media.atomic import atomic_path, write_json, write_text
from csd3d.media.sheet import contact_sheet, evenly, save_picture
from csd3d.metrics import jsonable
from csd3d.priors.defaults import BUILTIN_SAMPLING_GUIDANCE
from csd3d.priors.store.resolve import resolve
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import Edit
from csd3d.world.export import write_scene
from csd3d.world.families import find_family
from scripts.benchmarks.entry import quiet, run_script
from scripts.benchmarks.kept import selected, work_folder
from scripts.benchmarks.nerf_methods import (
    Edited,
    Method,
    Plan,
    captioned,
    distilled,
    run,
    standard,
    train_scene,
    unedited,
)
from scripts.benchmarks.nerf_scenes import Judge, OpenJudge, Place, place
from scripts.benchmarks.nerf_tables import TRUTH, UNEDITED, to_json, to_markdown

SHEET_VIEWS = 6


@dataclass(frozen=True)
class Settings:
    """Compare ways of editing a radiance field against exact truth."""

    prior: str = "builtin"
    """"builtin", a directory in diffusers layout, or a hub id."""
    t2i: str = "builtin:t2i"
    """The same of a text-to-image model, for the methods that take captions."""
    out: Path = Path("outputs/benchmark_nerf")
    """Folder for the results, and for what was done so far."""
    scene: int = 8
    """Number of the sample scene; no prior was trained on it."""
    train_views: int = 24
    test_views: int = 6
    size_px: int = 128
    """Side of every view."""
    sentences: tuple[str, ...] = ("turn the cube into a ball", "make it snowy", "make it a watercolor painting")
    """The edits: of an object, of the weather, of the style."""
    scene_steps: int = 800
    """Training steps of the unedited scene, from which all methods start."""
    edits: int = 9
    """Batches of views that csd-edit edits."""
    edit_every: int = 50
    """Training steps for each batch."""
    views_per_edit: int = 8
    """Views of a batch."""
    edit_steps: int = 20
    """Moves of a view in a batch."""
    sampling_steps: int = 20
    """Steps of the sampler of one view at a time."""
    sampling_guidance: float = BUILTIN_SAMPLING_GUIDANCE
    """Its two guidance scales."""
    distil_views: int = 2
    """Renders in a step of distillation."""
    distil_px: int = 64
    """Their side."""
    s_text: float = 1.0
    """Text guidance of csd-edit."""
    s_image: float = 1.0
    """Image guidance of csd-edit."""
    gap: int = 6
    """Views between the two of a far pair."""
    rows: tuple[str, ...] = ()
    """Only these methods; none = all."""
    seed: int = 0
    device: str = "cpu"
    quick: bool = False
    """Few small views, one edit, few steps."""

    def __post_init__(self) -> None:
        require_int(
            self, 1, None, "test_views", "scene_steps", "edits", "edit_every", "views_per_edit", "edit_steps", "gap",
            "distil_views", "distil_px",
        )  # fmt: skip
        if self.train_views <= self.gap:
            raise ValueError(f"train_views: expected more than gap = {self.gap}, got {self.train_views}")
        require(self, "size_px", self.size_px % 8 == 0 and self.size_px >= 32, "a multiple of 8, 32 or more")

    def effective(self) -> "Settings":
        """With `quick` spelled out."""
        if not self.quick:
            return self
        return replace(
            self,
            train_views=5,
            test_views=2,
            size_px=min(self.size_px, 64),
            sentences=self.sentences[:1],
            scene_steps=min(self.scene_steps, 20),
            edits=1,
            edit_every=min(self.edit_every, 6),
            views_per_edit=3,
            edit_steps=min(self.edit_steps, 4),
            sampling_steps=min(self.sampling_steps, 5),
            distil_px=min(self.distil_px, 32),
            gap=2,
        )

    def plan(self) -> Plan:
        """What the methods need to know."""
        shared = {name: getattr(self, name) for name in Plan.__dataclass_fields__}
        return Plan(**shared)


class Work:
    """What was done so far, on disk: kept for as long as settings, prior and scene are the same."""

    def __init__(self, settings: Settings) -> None:
        key = asdict(settings) | {"out": None, "quick": None, "rows": None, "sentences": None, "gap": None}
        key |= {"torch": torch.__version__}
        self.folder = work_folder(settings.out / "work", key, settings.prior)
        self.data = self.folder / "scene"
        self._base = self.folder / "base"

    def base(self, place: Place, plan: Plan) -> Path:
        """The folder with the checkpoint that all methods start from."""
        if not self.data.is_dir():
            write_scene(place.posed, self.data)
        done = self.folder / "base.json"
        if not done.is_file():
            shutil.rmtree(self._base, ignore_errors=True)
            write_json(done, {"checkpoint": str(train_scene(self.data, self._base, plan).relative_to(self.folder))})
        return self.folder / json.loads(done.read_text())["checkpoint"]

    def get(self, name: str) -> Edited | None:
        """What a method made; None: it has not run yet."""
        pictures = self.folder / f"{name}.safetensors"
        record = self.folder / f"{name}.json"
        if not (pictures.is_file() and record.is_file()):
            return None
        rgb = {k: v.float() / 255 for k, v in load_file(pictures).items()}
        price = {k: float("nan") if v is None else v for k, v in json.loads(record.read_text()).items()}
        return Edited(rgb["held_out"], rgb["train"], price["seconds"], price["peak_mb"])

    def put(self, name: str, edited: Edited) -> Edited:
        """Keep it; returns it with colours rounded as they are kept."""
        held_out, train = ((rgb * 255).round().to(torch.uint8) for rgb in (edited.held_out, edited.train))
        with atomic_path(self.folder / f"{name}.safetensors") as part:
            save_file({"held_out": held_out.contiguous(), "train": train.contiguous()}, part)
        write_json(
            self.folder / f"{name}.json", jsonable({"seconds": edited.seconds, "peak_mb": edited.peak_mb})
        )  # last: its presence says that all is there
        return replace(edited, held_out=held_out.float() / 255, train=train.float() / 255)


def methods(plan: Plan, truth: Tensor, captions: tuple[str, str] | None) -> Mapping[str, Method]:
    """All rows: `truth` of the training views, `captions` before and after an edit that has some."""
    of_captions = captioned(plan, *captions) if captions is not None else {}
    return {**standard(plan, truth), **distilled(plan), **of_captions}


def rows_of(
    sentence: str, chosen: Mapping[str, Method], work: Work, base: Path, plan: Plan
) -> Iterator[tuple[str, Edited, float]]:
    """The outcome of every method that is chosen with the UNet rows it took, from disk or made now."""
    nothing = work.get(UNEDITED.replace(" ", "-"))
    if nothing is None:
        nothing = work.put(UNEDITED.replace(" ", "-"), unedited(work.data, base, work.folder / "runs", plan))
    yield UNEDITED, nothing, float("nan")
    for row, method in chosen.items():
        name = f"{sentence} {row}".replace(",", "").replace(" ", "-")
        edited = work.get(name)
        if edited is None:
            out = work.folder / "runs" / name
            shutil.rmtree(out, ignore_errors=True)
            edited = work.put(name, run(method, sentence, work.data, base, out, plan))
        yield row, edited, method.unet_rows


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure everything and write it; returns the folder.

    Raises ValueError or FileNotFoundError for a prior or a sentence that cannot be used.
    """
    given, settings = settings, settings.effective()
    plan, work = settings.plan(), Work(settings)
    families = [family for sentence in settings.sentences if (family := find_family(sentence)) is not None]
    found = place(
        settings.scene, train_views=settings.train_views, test_views=settings.test_views, size_px=settings.size_px,
        families=families,
    )  # fmt: skip
    edits = [(sentence, find_family(sentence) or found.posed.test.edit(sentence)) for sentence in settings.sentences]
    for sentence, edit in edits:
        if isinstance(edit, Edit) and edit not in found.edits:
            raise ValueError(f"sentences: expected edits that show in scene {settings.scene}, got {sentence!r}")
    every = methods(plan, found.posed.train.source(), ("before", "after"))
    if any("prior" in method.settings for method in selected(every, settings.rows).values()):
        resolve(settings.t2i)  # refused, like a name, before anything is trained
    with quiet(work.folder / "nerfstudio.log"):
        base = work.base(found, plan)
    records: list[dict[str, Any]] = []
    for done, (sentence, edit) in enumerate(progress.track("edits", edits, total=len(edits)), start=1):
        if isinstance(edit, Edit):
            judge, captions = Judge(found, edit, gap=settings.gap), edit.captions(found.posed.scene)
        else:
            judge, captions = OpenJudge(found, edit, gap=settings.gap), None
        about = {"sentence": sentence, "edit": edit.name, "kind": edit.kind}
        records.append(about | {"row": TRUTH} | judge(judge.held_out, judge.train))
        shown = {"photographs": judge.unedited, TRUTH: judge.held_out}
        every = methods(plan, judge.train, captions)
        chosen = {row: method for row, method in every.items() if not settings.rows or row in settings.rows}
        rows = rows_of(sentence, chosen, work, base, plan)
        while True:
            with quiet(work.folder / "nerfstudio.log"):
                row = next(rows, None)
            if row is None:
                break
            name, edited, unet_rows = row
            price = {"seconds": edited.seconds, "peak_mb": edited.peak_mb, "unet_rows": unet_rows}
            records.append(about | {"row": name} | judge(edited.held_out, edited.train) | price)
            progress.say(f"{sentence}: {name}: {summary(records[-1])}")
            shown[name] = edited.held_out
        write_tables(records, shown, settings, given, [s for s, _ in edits[:done]])
    return settings.out


def write_tables(
    records: list[dict[str, Any]],
    shown: Mapping[str, Tensor],
    settings: Settings,
    given: Settings,
    done: list[str],
) -> None:
    """Bring nerf.md and nerf.json up to date, and the contact sheet of the latest edit."""
    some = torch.tensor(evenly(settings.test_views, SHEET_VIEWS))
    rows = {name: rgb[some] for name, rgb in shown.items()}
    columns = [f"held-out view {i}" for i in some.tolist()]
    save_picture(
        contact_sheet(rows, columns=columns, cell_px=settings.size_px),
        settings.out / "sheets" / f"{done[-1].replace(' ', '-')}.png",
    )
    about = asdict(settings) | {
        "prior": given.prior if given.prior.startswith("builtin") else Path(given.prior).name,
        "out": None,
        "quick": given.quick,
        "edits_done": done,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    write_json(settings.out / "nerf.json", to_json(records, about))
    write_text(settings.out / "nerf.md", to_markdown(records, about))


def summary(record: Mapping[str, Any]) -> str:
    """One line about a record."""
    return (
        f"right {100 * record['accuracy']:.0f} %, {record['psnr']:.2f} dB, warp {100 * record['warp']:.2f} %, "
        f"{record['seconds']:.0f} s"
    )


def main(settings: Settings) -> int:
    """Compare; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/nerf.md, nerf.json, sheets/")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
