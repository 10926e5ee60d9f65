"""Compare ways of editing panoramas on panoramas of the world, whose true edited versions are known exactly.

    python scripts/benchmark_panorama.py [--prior builtin] [--out FOLDER] [--quick]

Writes panorama.md, panorama.json and one contact sheet for each panorama and edit. All methods get the same panorama,
codec, sentence and seed. On two CPU cores the default takes an hour or two; stopped, it goes on with the next edit.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from csd3d.attention.attended import ANCHORS
from csd3d.engine.config import CsdConfig
from csd3d.engine.validate import require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.media.pictures.read import Picture
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.priors.defaults import BUILTIN
from csd3d.priors.instruct import InstructPrior
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import Edit, Kind
from csd3d.world.sample import Views
from panorama.plane import Plane
from panorama.surface import Surface
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.kept import Kept
from scripts.benchmarks.memory import peak_memory
from scripts.benchmarks.panorama_methods import (
    SHARED,
    PanoramaKind,
    as_picture,
    assembled,
    in_windows,
    latents_of,
    make_task,
    sample,
    standard,
    truths_of,
)
from scripts.benchmarks.panorama_tables import CODEC, TRUTH, UNEDITED, accuracy, measure_picture, to_json, to_markdown
from scripts.benchmarks.rows import csd_rows, sampling_rows


@dataclass(frozen=True)
class Settings:
    """Compare ways of editing a panorama against exact truth."""

    prior: str = "builtin"
    """"builtin", a directory in diffusers layout, or a hub id."""
    out: Path = Path("outputs/benchmark_panorama")
    """Folder for the results."""
    kinds: tuple[PanoramaKind, ...] = ("strip", "turn", "sphere")
    """`strip`: 180 degrees of a cylinder. `turn`: all 360, closed. `sphere`: equirectangular."""
    panoramas: int = 2
    """Panoramas of each kind."""
    edits: int = 4
    """Edits of each panorama, of as many kinds as possible."""
    edit_kinds: tuple[Kind, ...] = ("weather", "time", "style", "ground", "colour", "shape")
    """Kinds of edits."""
    candidates: int = 12
    """Edits whose truths a window is compared with."""
    window_px: int | None = None
    """Height of strips, half the height of spheres; none = what the prior was trained at."""
    s_text: float = 1.5
    """Text guidance for sampling."""
    s_image: float = 1.5
    """Image guidance for sampling."""
    sampling_steps: int = 20
    """Steps of the sampler."""
    csd: CsdConfig = field(default_factory=lambda: BUILTIN)
    """Settings of csd-edit."""
    seed: int = 0
    device: str | None = None
    """None: CUDA when there is one."""
    quick: bool = False
    """One panorama of each kind, one edit, few steps."""

    def __post_init__(self) -> None:
        require_int(self, 1, None, "panoramas", "edits", "candidates", "sampling_steps")

    def effective(self) -> "Settings":
        """With `quick` spelled out."""
        if not self.quick:
            return self
        return replace(
            self,
            panoramas=1,
            edits=1,
            candidates=min(self.candidates, 4),
            sampling_steps=min(self.sampling_steps, 6),
            csd=replace(self.csd, steps=min(self.csd.steps, 6)),
        )


@dataclass(frozen=True, eq=False)
class Case:
    """One edit of one panorama."""

    kind: PanoramaKind
    number: int
    views: Views
    edit: Edit
    truths: Float[Tensor, "k 3 H W"]
    """Of the unedited panorama and of the candidates; the edit's own is number `right`."""
    right: int

    @property
    def name(self) -> str:
        """For file names and records."""
        return f"{self.kind} {self.number} {self.edit.name}"


def cases(settings: Settings, window_px: int) -> Iterator[Case]:
    """All panoramas and edits."""
    for kind in settings.kinds:
        for k in range(settings.panoramas):
            seed = 1000 * settings.seed + k
            views = sample(kind, seed, window_px)
            known = views.choose(settings.candidates, seed=seed, kinds=settings.edit_kinds)
            truths = truths_of(views, known)
            for i, edit in enumerate(known[: settings.edits]):
                yield Case(kind, k, views, edit, truths, 1 + i)


def run_case(
    case: Case, prior: InstructPrior, settings: Settings, window_px: int, progress: RunProgress, sheet: Path
) -> list[dict[str, Any]]:
    """Records of all rows; writes the panoramas to look at into `sheet`."""
    truth = case.truths[case.right]
    sentence, picture = case.edit.wordings[0], as_picture(case.truths[0])
    task = make_task(picture, case.kind, prior, sentence, window_px=window_px, seed=settings.seed)
    borders = _borders(task.apart, picture)
    judged = torch.stack([in_windows(task.surface, t, window_px) for t in case.truths])
    records: list[dict[str, Any]] = []

    def record(row: str, output: Tensor, detail: bool | None, **price: float) -> None:
        found = measure_picture(output, truth, borders=borders, wraps=case.kind != "strip", window_px=window_px)
        found["accuracy"] = accuracy(in_windows(task.surface, output, window_px), judged, case.right)
        about = {"kind": case.kind, "number": case.number, "edit": case.edit.name, "row": row, "detail": detail}
        records.append(about | found | price)

    shown = {"source": case.truths[0], TRUTH: truth}
    record(TRUTH, truth, None)
    record(CODEC, assembled(task, picture, latents_of(task, as_picture(truth)), detail=0.0), None)
    record(UNEDITED, case.truths[0], None)
    methods = standard(
        settings.csd, sampling_steps=settings.sampling_steps, s_text=settings.s_text, s_image=settings.s_image
    )
    for name, method in methods.items():
        if case.kind == "sphere" and "averaged" in name:
            continue
        csd_edit = settings.csd.steps * csd_rows(settings.csd.s_text, settings.csd.s_image)
        sampling = settings.sampling_steps * sampling_rows(settings.s_text, settings.s_image)
        windows = len(task.windows(apart="one by one" in name))
        peak_mb = peak_memory(prior.device)
        since = time.perf_counter()
        z = method(task)
        seconds = time.perf_counter() - since
        rows = windows * (csd_edit if "csd" in name else sampling)
        if name == SHARED:  # the anchors of a step are predicted first
            together = min(task.windows_per_step, windows)
            rows *= 1 + min(ANCHORS, together) / together
        price = {"seconds": seconds, "peak_mb": peak_mb(), "unet_rows": float(rows)}
        record(name, assembled(task, picture, z, detail=0.0), False, **price)
        last = records[-1]
        progress.say(
            f"{case.name}: {name}: right {100 * last['accuracy']:.0f} %, {last['psnr']:.2f} dB, borders "
            f"{last['seam']:.2f}, wrap {last['wrap']:.2f}, drift {100 * last['drift']:.2f} %, {seconds:.0f} s"
        )
        shown[name] = assembled(task, picture, z, detail=1.0)
        record(name, shown[name], True, **price)
    save_picture(contact_sheet({name: rgb[None].clamp(0, 1) for name, rgb in shown.items()}, cell_px=900), sheet)
    return records


def _borders(apart: Surface, picture: Picture) -> list[int]:
    """Columns at which windows side by side begin or end."""
    if not isinstance(apart, Plane):
        return []
    spans = apart.windows_x
    ends = {(start + k) % spans.length for start in spans.starts for k in (0, spans.size)}
    px = {round((end * apart.factor - apart.x.before_px) * apart.x.scale) for end in ends}
    return sorted(x for x in px if 0 < x < picture.width_px)


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure everything and write it; returns the folder.

    Raises ValueError or FileNotFoundError for a prior that cannot be used.
    """
    given, settings = settings, settings.effective()
    prior = InstructPrior.load(settings.prior, device=settings.device)
    window_px = settings.window_px or prior.native_px
    records: list[dict[str, Any]] = []
    kept = Kept(
        settings.out / "work", asdict(replace(settings, out=Path(), kinds=(), panoramas=1, edits=1)), settings.prior
    )
    total = len(settings.kinds) * settings.panoramas * settings.edits
    for done, case in enumerate(progress.track("edits", cases(settings, window_px), total=total), start=1):
        name = case.name.replace(" ", "-")
        sheet = settings.out / "sheets" / f"{name}.png"
        records += kept.records(name, partial(run_case, case, prior, settings, window_px, progress, sheet))
        about = asdict(settings) | {
            "prior": given.prior if given.prior.startswith("builtin") else Path(given.prior).name,
            "out": None,
            "quick": given.quick,
            "edits": done,
            "window_px": window_px,
            "torch": torch.__version__,
        }
        write_json(settings.out / "panorama.json", to_json(records, about))
        write_text(settings.out / "panorama.md", to_markdown(records, about))
    return settings.out


def main(settings: Settings) -> int:
    """Compare; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/panorama.md, panorama.json, sheets/")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
