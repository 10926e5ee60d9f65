"""Compare the objectives of score distillation on held-out pictures of the world, whose true edits are known exactly.

    python scripts/benchmark_objectives.py [--prior builtin:t2i] [--out FOLDER] [--of contrast gradients] [--quick]

SDS, DDS and CDS edit the same pictures from the same captions, seed and learning rate; guidance and the place of
PatchNCE are varied, and again with weights at which it is a larger share of the gradient; the gradients of SDS and DDS
are averaged over many noises; samples made by SDS, by CSD and by the ordinary sampler are compared with each other;
networks learn two edits from other pictures, and edit in one pass what DDS edits in many. `--of` names parts. Writes
objectives.md, objectives.json and pictures, and goes on where it was stopped.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro
from safetensors.torch import load_file, save_file

from csd3d.engine.config import CsdConfig
from csd3d.engine.validate import require, require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.media.sheet import contact_sheet, evenly, save_picture
from csd3d.metrics import jsonable
from csd3d.priors.defaults import default_config
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.progress import RunProgress
from csd3d.translate.config import TranslateConfig
from csd3d.world.edits import Kind
from scripts.benchmarks import samples, translation
from scripts.benchmarks.composition import train_reader
from scripts.benchmarks.contrast import Contrast, contrasts, edit_by, term_to_residual, weight_of
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.heldout import FIRST_SEED, choose, world_source
from scripts.benchmarks.kept import Kept
from scripts.benchmarks.objectives import Edited, Job, directions, edit_all, make_job, measure, methods, part_of
from scripts.benchmarks.objectives_tables import norms_svg, to_markdown
from scripts.benchmarks.translation import Answers, Pupil

SHOWN = 8
SHARE_TIMES = (100, 300, 500, 700, 900)
"""Timesteps at which the share of PatchNCE is measured."""
Part = Literal["methods", "contrast", "gradients", "samples", "networks"]
EDITING: tuple[Part, ...] = ("methods", "contrast")
"""Parts whose rows are edited pictures."""
FIXED = ("unedited", "codec of the truth")
"""Rows of no method."""
READER_STEPS = 8000
SAMPLES_FIRST = 900_000
"""Number of the first held-out scene of whose captions samples are made."""


@dataclass(frozen=True)
class Settings:
    """Compare the objectives of score distillation against exact truth."""

    prior: str = "builtin:t2i"
    """"builtin:t2i", a directory in diffusers layout, or a hub id."""
    out: Path = Path("outputs/benchmark_objectives")
    """Folder for the results."""
    of: tuple[Part, ...] = get_args(Part)
    """Parts of the page; the others are left out."""
    sources: int = 12
    """Held-out pictures."""
    per_kind: int = 8
    """Edits of each kind."""
    kinds: tuple[Kind, ...] = ("colour", "material", "shape", "time", "weather", "ground")
    """Kinds of edits that captions can tell."""
    csd: CsdConfig = field(default_factory=lambda: default_config("dds", builtin=True))
    """Settings of `dds`; the other methods share what they have in common with it."""
    guidance: tuple[float, ...] = (1.5, 3.0, 7.5, 15.0)
    """Guidance scales for `dds`."""
    times: tuple[int, ...] = (50, 150, 250, 350, 450, 550, 650, 750, 850, 950)
    """Timesteps at which gradients are averaged."""
    draws: int = 200
    """Noises over which they are averaged."""
    pairs: int = 12
    """Edits, spread over all, of which gradients are averaged."""
    captions: int = 4
    """Scenes of whose captions samples are compared, each with and without how its thing looks."""
    samples: int = 8
    """Samples of a caption."""
    work: Path | None = None
    """Folder of `train_builtin.py`, whose pictures train the network that reads samples (kept there). None: samples are
    not read."""
    pupils: int = 192
    """Scenes from which the translation networks learn; only those on a clear summer day are used."""
    network_steps: int = 200
    """Training steps of a network, of 8 pictures each."""
    network_at: tuple[int, ...] = ()
    """Steps after which networks are examined besides the last."""
    network_lr: float = 3e-4
    """Learning rate of a network."""
    size_px: int = 128
    """Side of the pictures."""
    seed: int = 0
    device: str | None = None
    """None: CUDA when there is one."""
    quick: bool = False
    """Few pictures and steps."""

    def __post_init__(self) -> None:
        require_int(self, 1, None, "sources", "per_kind", "draws", "captions", "pupils", "network_steps")
        require_int(self, 2, None, "pairs", "samples")
        ordered = [*self.network_at, self.network_steps]
        require(self, "network_at", ordered == sorted({*ordered}) and ordered[0] > 0, "rising, below network_steps")
        require(self, "size_px", self.size_px % 8 == 0 and self.size_px >= 64, "a multiple of 8, 64 or more")

    def effective(self) -> "Settings":
        """With `quick` spelled out."""
        if not self.quick:
            return self
        steps = min(self.csd.steps, 10)
        return replace(
            self,
            sources=min(self.sources, 2),
            per_kind=1,
            kinds=self.kinds[:2],
            csd=replace(self.csd, steps=steps),
            guidance=self.guidance[:1],
            times=self.times[::5],
            draws=2,
            pairs=2,
            captions=1,
            samples=2,
            pupils=8,
            network_steps=4,
            network_at=(),
        )


def make_material(settings: Settings) -> Job:
    """Held-out pictures and the edits that are tried on them."""
    first = FIRST_SEED + 700_000 + 1000 * settings.seed
    sources = [world_source(first + i, settings.size_px) for i in range(settings.sources)]
    tasks = choose(sources, settings.per_kind, seed=settings.seed, kinds=settings.kinds)
    if len(tasks) < 2:
        raise ValueError(f"sources: expected two edits or more that can be seen, got {len(tasks)}")
    return make_job(tasks)


def run_methods(
    prior: TextToImagePrior, job: Job, settings: Settings, kept: Kept, progress: RunProgress
) -> list[dict[str, Any]]:
    """Records of all rows."""
    with torch.no_grad():
        truth = prior.codec.decode(prior.codec.encode(job.truths.to(prior.device))).cpu()
    records = [{"row": FIXED[0], **r} for r in measure(job, job.pictures)]
    records += [{"row": FIXED[1], **r} for r in measure(job, truth)]
    for name, config in methods(settings.csd, settings.guidance).items():
        records += edited_records(
            name, job, lambda c=config: (edit_all(prior, job, c, seed=settings.seed), {}), kept, progress
        )
    return records


def edited_records(
    name: str, job: Job, make: Callable[[], tuple[Edited, dict[str, float]]], kept: Kept, progress: RunProgress
) -> list[dict[str, Any]]:
    """Records of one row, from disk or made now; the first pictures are kept too."""

    def made() -> list[dict[str, Any]]:
        edited, more = make()
        kept.folder.mkdir(parents=True, exist_ok=True)
        save_file({"rgb": edited.rgb[:SHOWN].contiguous()}, kept.folder / f"{name}.safetensors")
        price = {"seconds": edited.seconds, "peak_mb": edited.peak_mb}
        done = [{"row": name, **price, **more, **r} for r in measure(job, edited.rgb)]
        done[0]["gradients"] = list(edited.gradients)
        return done

    rows = kept.records(name, made)
    right = sum(r["accuracy"] for r in rows) / len(rows)
    progress.say(f"{name}: {100 * right:.0f} % right, {sum(r['psnr'] for r in rows) / len(rows):.2f} dB")
    return rows


def run_contrasts(
    prior: TextToImagePrior, job: Job, settings: Settings, kept: Kept, progress: RunProgress
) -> list[dict[str, Any]]:
    """Records of DDS, and of CDS with weights that give its term chosen shares of the gradient."""
    seed = settings.seed
    plain = {"weight": 0.0, "share": 0.0}
    records = edited_records("dds", job, lambda: (edit_all(prior, job, settings.csd, seed=seed), {}), kept, progress)
    records = [plain | r for r in records]
    for name, row in contrasts(settings.csd).items():

        def make(row: Contrast = row) -> tuple[Edited, dict[str, float]]:
            ratios = term_to_residual(prior, job, row, times=SHARE_TIMES, seed=seed)
            weight = weight_of(row.share, ratios["both"])
            edited, share = edit_by(prior, job, row, weight=weight, seed=seed)
            return edited, {"weight": weight, "share": share} | {f"ratio_{k}": v for k, v in ratios.items()}

        records += edited_records(name, job, make, kept, progress)
    return records


def run_networks(
    prior: TextToImagePrior, job: Job, settings: Settings, kept: Kept, progress: RunProgress
) -> list[dict[str, Any]]:
    """Records of DDS and of the networks on those edits of `TASKS` that the sources of `job` can show."""
    exam = translation.examination(list({t.source.name: t.source for t in job.tasks}.values()))
    if not exam.tasks:
        return []
    csd, steps, size_px = settings.csd, settings.network_steps, settings.size_px
    config = TranslateConfig(tasks=translation.TASKS, csd=csd, steps=steps, lr=settings.network_lr, seed=settings.seed)
    pictures, captions = translation.pupils(FIRST_SEED + 800_000 + 1000 * settings.seed, settings.pupils, size_px)

    def optimised() -> Answers:
        edited = edit_all(prior, exam, csd, seed=settings.seed)
        return Answers(edited.rgb, edited.seconds * csd.steps)

    @cache
    def pupil(name: str) -> Pupil:
        own, saved = translation.ablations(config)[name], kept.folder / f"{name}.state"
        return Pupil(prior, own, pictures, captions, saved)

    def learnt(name: str, after: int) -> Answers:
        return translation.answer(pupil(name).after(after, progress), exam)

    makers: dict[str, Callable[[], Answers]] = {"dds, step by step": optimised}
    for name in translation.ablations(config):
        makers |= {f"{name}, after {k} steps": partial(learnt, name, k) for k in settings.network_at}
        makers[name] = partial(learnt, name, steps)
    records, shown = [], {"source": exam.pictures, "truth": exam.truths}
    for name, make in makers.items():
        path = kept.folder / f"{name}.safetensors"

        def answered(name: str = name, make: Callable[[], Answers] = make, path: Path = path) -> list[dict[str, Any]]:
            made = make()
            kept.folder.mkdir(parents=True, exist_ok=True)
            save_file({"rgb": made.rgb.contiguous()}, path)
            return translation.records_of(name, exam, made)

        rows = kept.records(name, answered)
        records += rows
        shown[name] = load_file(path)["rgb"]
        progress.say(f"{name}: {100 * sum(r['accuracy'] for r in rows) / len(rows):.0f} % right")
    sheet = contact_sheet(shown, columns=[t.edit.name for t in exam.tasks], cell_px=size_px)
    save_picture(sheet, settings.out / "networks.png")
    return records


def run_samples(prior: TextToImagePrior, settings: Settings, kept: Kept, progress: RunProgress) -> list[dict[str, Any]]:
    """Records of samples of one caption, one a caption and way of sampling."""
    reader, seed = None, settings.seed
    if settings.work is not None:
        reader = train_reader(settings.work / "shards", settings.work / "reader.safetensors", steps=READER_STEPS)
    given = {"samples": settings.samples, "size_px": settings.size_px, "reader": reader}
    given["steps"] = 2 if settings.quick else None
    records = []
    for i, asked in enumerate(samples.asked_of(settings.captions, first=SAMPLES_FIRST + 1000 * seed)):
        for row in samples.WAYS:

            def make(asked: samples.Asked = asked, row: str = row, i: int = i) -> list[dict[str, Any]]:
                return [samples.records_of(prior, asked, row, seed=seed + i // 2, **given)]

            records += kept.records(f"samples {i} {row}{' read' if reader else ''}", make)
        progress.say(f"{asked.caption}: sampled")
    return records


def draw_sheet(job: Job, rows: Sequence[str], folder: Path, path: Path) -> None:
    """Write a contact sheet: sources, truths, and what the rows that there are made of the first pictures."""
    shown = {"source": job.pictures[:SHOWN], "truth": job.truths[:SHOWN]}
    shown |= {name: load_file(folder / f"{name}.safetensors")["rgb"] for name in rows}
    names = [t.edit.name for t in job.tasks[:SHOWN]]
    save_picture(contact_sheet(shown, columns=names, cell_px=job.pictures.shape[-1]), path)


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure everything and write it; returns the folder. Raises ValueError or FileNotFoundError for a bad prior."""
    settings = settings.effective()
    prior = TextToImagePrior.load(settings.prior, device=settings.device)
    settings.out.mkdir(parents=True, exist_ok=True)
    job = make_material(settings)
    about = {k: v for k, v in asdict(settings).items() if k not in ("out", "device", "work")}
    about |= {"tasks": len(job.tasks), "read": settings.work is not None}
    free = ("of", "read", "network_at")
    kept = Kept(settings.out / "kept", {k: v for k, v in about.items() if k not in free}, settings.prior)

    def run_directions() -> list[dict[str, Any]]:
        some = part_of(job, evenly(len(job.tasks), settings.pairs))
        given = {"s_text": settings.csd.s_text, "draws": settings.draws, "seed": settings.seed}

        def at(t: int) -> list[dict[str, Any]]:
            return [asdict(d) for d in directions(prior, some, times=(t,), **given)]

        return [r for t in settings.times for r in kept.records(f"directions {t}", partial(at, t))]

    parts: dict[Part, Callable[[], list[dict[str, Any]]]] = {
        "methods": lambda: run_methods(prior, job, settings, kept, progress),
        "contrast": lambda: run_contrasts(prior, job, settings, kept, progress),
        "gradients": run_directions,
        "samples": lambda: run_samples(prior, settings, kept, progress),
        "networks": lambda: run_networks(prior, job, settings, kept, progress),
    }
    found = {part: run() for part, run in parts.items() if part in settings.of}
    if rows := [r for r in dict.fromkeys(x["row"] for part in EDITING for x in found.get(part, ())) if r not in FIXED]:
        draw_sheet(job, rows, kept.folder, settings.out / "objectives.png")
    write_json(settings.out / "objectives.json", jsonable({**found, "about": about}))
    write_text(settings.out / "objectives.md", to_markdown(found, about))
    if "gradients" in found:
        write_text(settings.out / "gradients.svg", norms_svg(found["gradients"]))
    return settings.out


def main(settings: Settings) -> int:
    """Compare; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/objectives.md, objectives.json and pictures")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
