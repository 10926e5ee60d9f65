"""Compare the objectives of score distillation on held-out pictures of the world, whose true edits are known exactly.

    python scripts/benchmark_objectives.py [--prior builtin:t2i] [--out FOLDER] [--quick]

SDS, DDS and CDS edit the same pictures from the same captions, seed and learning rate; guidance and the place of
PatchNCE are varied; the gradients of SDS and DDS are averaged over many noises; samples made by SDS, by CSD and by the
ordinary sampler are compared with each other; networks learn two edits from other pictures, and edit in one pass what
DDS edits in many. Writes objectives.md, objectives.json and pictures, and goes on where it was stopped.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro
from safetensors.torch import load_file, save_file

from csd3d.engine.config import CsdConfig
from csd3d.engine.validate import require, require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.metrics import jsonable
from csd3d.priors.defaults import GenerateMethod, default_config
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from csd3d.translate.config import TranslateConfig
from csd3d.world.edits import Kind
from panorama.generate import SPREAD, generate
from panorama.generate_config import GenerateConfig
from scripts.benchmarks import translation
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.heldout import FIRST_SEED, choose, world_source
from scripts.benchmarks.kept import Kept
from scripts.benchmarks.objectives import Job, directions, edit_all, make_job, measure, methods
from scripts.benchmarks.objectives_tables import norms_svg, to_markdown
from scripts.benchmarks.translation import Answers

SHOWN = 8
SAMPLERS: tuple[GenerateMethod, ...] = ("ddim", "sds", "csd")


@dataclass(frozen=True)
class Settings:
    """Compare the objectives of score distillation against exact truth."""

    prior: str = "builtin:t2i"
    """"builtin:t2i", a directory in diffusers layout, or a hub id."""
    out: Path = Path("outputs/benchmark_objectives")
    """Folder for the results."""
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
    draws: int = 64
    """Noises over which they are averaged."""
    captions: int = 4
    """Captions for which samples are compared, four samples each."""
    pupils: int = 192
    """Scenes from which the translation networks learn; only those on a clear summer day are used."""
    network_steps: int = 200
    """Training steps of a network, of 8 pictures each."""
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
            captions=1,
            pupils=8,
            network_steps=4,
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
    records = [{"row": "unedited", **r} for r in measure(job, job.pictures)]
    records += [{"row": "codec of the truth", **r} for r in measure(job, truth)]
    for name, config in methods(settings.csd, settings.guidance).items():

        def make(name: str = name, config: CsdConfig = config) -> list[dict[str, Any]]:
            edited = edit_all(prior, job, config, seed=settings.seed)
            kept.folder.mkdir(parents=True, exist_ok=True)
            save_file({"rgb": edited.rgb[:SHOWN].contiguous()}, kept.folder / f"{name}.safetensors")
            price = {"seconds": edited.seconds, "peak_mb": edited.peak_mb}
            done = [{"row": name, **price, **r} for r in measure(job, edited.rgb)]
            done[0]["gradients"] = list(edited.gradients)
            return done

        rows = kept.records(name, make)
        records += rows
        right = sum(r["accuracy"] for r in rows) / len(rows)
        progress.say(f"{name}: {100 * right:.0f} % right, {sum(r['psnr'] for r in rows) / len(rows):.2f} dB")
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

    def learnt(config: TranslateConfig) -> Answers:
        return translation.answer(translation.learn(prior, config, pictures, captions, progress), exam)

    makers: dict[str, Callable[[], Answers]] = {"dds, step by step": optimised}
    makers |= {name: partial(learnt, one) for name, one in translation.ablations(config).items()}
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


def agreement(prior: TextToImagePrior, job: Job, settings: Settings) -> list[dict[str, Any]]:
    """How far samples of one caption are from each other, by how they were made."""
    records = []
    for i, (caption, _) in enumerate(job.captions[: settings.captions]):
        for method in SAMPLERS:
            config = GenerateConfig(method=method, prior=settings.prior, seed=settings.seed + i)
            if settings.quick:
                csd = replace(prior.generation(method), steps=2)
                config = replace(config, n=2, csd=csd)
            with TemporaryDirectory() as folder:
                quiet = RunProgress(quiet=True)
                done = generate(caption, None, config, run_dir=Path(folder) / "run", prior=prior, progress=quiet)
                numbers = Manifest.read(done.run_dir / "manifest.json").numbers
            records.append({"row": method, "caption": caption, "spread": numbers[SPREAD]})
    return records


def draw_sheet(job: Job, rows: Sequence[str], folder: Path, path: Path) -> None:
    """Write a contact sheet: sources, truths, and what every method made of the first pictures."""
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
    measured = {k: v for k, v in asdict(settings).items() if k not in ("out", "device")}
    kept = Kept(settings.out / "kept", measured, settings.prior)
    records = run_methods(prior, job, settings, kept, progress)

    def make_directions() -> list[dict[str, Any]]:
        times, draws = settings.times, settings.draws
        given = {"s_text": settings.csd.s_text, "times": times, "draws": draws, "seed": settings.seed}
        return [asdict(d) for d in directions(prior, job, **given)]

    found = kept.records("directions", make_directions)
    samples = kept.records("samples", lambda: agreement(prior, job, settings))
    networks = run_networks(prior, job, settings, kept, progress)
    draw_sheet(job, list(methods(settings.csd, settings.guidance)), kept.folder, settings.out / "objectives.png")
    about = {**measured, "tasks": len(job.tasks)}
    everything = {"records": records, "directions": found, "samples": samples, "networks": networks, "about": about}
    write_json(settings.out / "objectives.json", jsonable(everything))
    write_text(settings.out / "objectives.md", to_markdown(**everything))
    write_text(settings.out / "gradients.svg", norms_svg(found))
    return settings.out


def main(settings: Settings) -> int:
    """Compare; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/objectives.md, objectives.json and pictures")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
