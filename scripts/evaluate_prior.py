"""Evaluate an instruction editor on held-out pictures of the world, whose true edits are known exactly.

    python scripts/evaluate_prior.py PRIOR [--out FOLDER] [--search] [--quick]

PRIOR is "builtin", a directory in diffusers layout, or a hub id. It is sampled by the stock diffusers pipeline. Writes
evaluation.md, evaluation.json and evaluation.png (source, output, truth). Same seed, same numbers on the same machine;
pictures are numbered from 10,000,000 on, while training uses those below 1,000,000. The default takes some ten minutes
on two CPU cores for the built-in prior.
"""

import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import diffusers
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.validate import require, require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.media.sheet import save_picture
from csd3d.metrics import Mean, is_nearest, mean, nearest, psnr
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import KINDS
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.heldout import FIRST_SEED, Source, Task, choose, held_out_photos, photo_source, world_source
from scripts.benchmarks.prior_tables import PHOTOS_KIND, Findings, Outcome, Wording, bars, share, to_json, to_markdown
from scripts.benchmarks.sheet import Triple, triples_sheet
from scripts.benchmarks.stock import StockEditor

WORDINGS: tuple[Wording, ...] = ("trained", "held-out")
SEARCH_S_TEXT, SEARCH_S_IMAGE = (1.0, 1.5, 2.0, 3.0), (1.0, 1.2, 1.5)
CODEC_PHOTO_PX = 256
SHEET_COLUMNS = 4


@dataclass(frozen=True)
class Settings:
    """Evaluate an instruction editor against exact truth."""

    prior: tyro.conf.Positional[str] = "builtin"
    """"builtin", a directory in diffusers layout, or a hub id."""
    out: Path | None = None
    """Folder for the results; by default the prior's own."""
    sources: int = 25
    """Held-out world pictures, at least; up to four times as many where a kind of edit would lack samples."""
    per_kind: int = 30
    """Edits tried of every kind, each with one trained and with the held-out wording."""
    s_text: float = 1.5
    """Text guidance."""
    s_image: float = 1.5
    """Image guidance."""
    search: bool = False
    """First measure some pairs of guidance scales, on other pictures, and take the best."""
    photos: Path | None = None
    """A folder of photographs never trained on, besides those that scikit-image bundles."""
    steps: int = 20
    """Denoising steps."""
    size_px: int = 128
    """Side of the world pictures."""
    batch: int = 16
    """Pictures in one call of the pipeline."""
    seed: int = 0
    device: str | None = None
    """None: CUDA when there is one."""
    quick: bool = False
    """Few samples: for tests, and for a look at a prior in training."""
    records: bool = False
    """Put every single outcome into the JSON."""

    def __post_init__(self) -> None:
        require_int(self, 1, None, "sources", "per_kind", "steps", "batch")
        require(self, "size_px", self.size_px % 8 == 0 and self.size_px >= 64, "a multiple of 8, 64 or more")

    def effective(self) -> "Settings":
        """With `quick` spelled out."""
        return replace(self, sources=min(self.sources, 5), per_kind=min(self.per_kind, 4)) if self.quick else self


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    editor: StockEditor
    settings: Settings
    progress: RunProgress

    def batches(self, phase: str, total: int) -> Iterator[slice]:
        """Slices of range(total), with progress."""
        starts = range(0, total, self.editor.batch)
        slices = (slice(i, min(i + self.editor.batch, total)) for i in starts)
        return self.progress.track(phase, slices, total=total, unit=self.editor.batch)

    def edit(self, phase: str, pictures: Sequence[Tensor], sentences: Sequence[str]) -> Float[Tensor, "n 3 S S"]:
        """Outputs for pictures and their sentences; picture i has noise number i of the seed."""
        base = self.settings.seed * 1_000_003
        return torch.cat(
            [
                self.editor.edit(
                    torch.stack(list(pictures[part])),
                    sentences[part],
                    range(base + part.start, base + part.stop),
                    s_text=self.settings.s_text,
                    s_image=self.settings.s_image,
                )
                for part in self.batches(phase, len(pictures))
            ]
        )


def gather(bench: Bench) -> list[Source]:
    """Sources with enough edits of every kind that can be seen."""
    settings = bench.settings
    first = FIRST_SEED + 1000 * settings.seed
    seeds = range(first, first + settings.sources)
    sources = [
        world_source(s, settings.size_px)
        for s in bench.progress.track("rendering truths", seeds, total=settings.sources)
    ]
    for seed in range(seeds.stop, first + 4 * settings.sources):
        found = Counter(e.kind for s in sources for e in s.edits)
        if min(found[k] for k in KINDS) >= settings.per_kind:
            break
        sources.append(world_source(seed, settings.size_px))
    found = Counter(e.kind for s in sources for e in s.edits)
    for kind in KINDS:
        if found[kind] < settings.per_kind:
            bench.progress.say(f"only {found[kind]} edits of kind {kind!r} can be seen in {len(sources)} sources")
    return sources


def sentence_of(task: Task, wording: Wording, number: int) -> str:
    """The held-out wording, or one of the trained ones in turn."""
    trained = task.edit.trained
    return task.edit.held_out if wording == "held-out" else trained[number % len(trained)]


def judge(task: Task, wording: Wording, sentence: str, output: Tensor, ceiling: float, *, photo: bool) -> Outcome:
    """What one output is."""
    source, edit = task.source, task.edit
    truths = source.truths.float()[:, None] / 255
    found = int(nearest(output[None], truths))
    other = source.edits[found - 1] if found else None
    return Outcome(
        source=source.name,
        edit=edit.name,
        kind=PHOTOS_KIND if photo else edit.kind,
        wording=wording,
        sentence=sentence,
        nearest=other.name if other else "unedited",
        nearest_kind=other.kind if other else "",
        right=bool(is_nearest(output[None], truths, 1 + source.edits.index(edit))),
        psnr=psnr(output[None], source.truth(edit)[None]).item(),
        ceiling=ceiling,
    )


def try_edits(
    bench: Bench, tasks: Sequence[Task], *, photo: bool = False
) -> tuple[list[Outcome], dict[Wording, Tensor]]:
    """Every task with both wordings and the same noise: outcomes and outputs."""
    ceilings = reconstruction_psnr(bench, [t.source.truth(t.edit) for t in tasks])
    outcomes: list[Outcome] = []
    outputs: dict[Wording, Tensor] = {}
    what = "styles on photographs" if photo else "edits"
    for wording in WORDINGS:
        sentences = [sentence_of(t, wording, i) for i, t in enumerate(tasks)]
        pictures = [t.source.picture for t in tasks]
        done = bench.edit(f"{what}, {wording} wording", pictures, sentences)
        outputs[wording] = done
        outcomes += [judge(t, wording, sentences[i], done[i], ceilings[i], photo=photo) for i, t in enumerate(tasks)]
    return outcomes, outputs


def reconstruction_psnr(bench: Bench, pictures: Sequence[Tensor]) -> list[float]:
    """PSNR of the codec's reconstruction of each picture."""
    found: list[float] = []
    for start in range(0, len(pictures), bench.editor.batch):
        some = torch.stack(list(pictures[start : start + bench.editor.batch]))
        found += psnr(bench.editor.reconstruct(some), some).tolist()
    return found


def search_guidance(bench: Bench) -> list[dict[str, float]]:
    """Accuracy and PSNR of some pairs of guidance scales, on sources that nothing else uses."""
    first = FIRST_SEED + 500_000 + 1000 * bench.settings.seed
    sources = [world_source(first + i, bench.settings.size_px) for i in range(8)]
    tasks = choose(sources, 4, seed=bench.settings.seed)
    pictures, sentences = [t.source.picture for t in tasks], [sentence_of(t, "trained", i) for i, t in enumerate(tasks)]
    found = []
    for s_text, s_image in itertools.product(SEARCH_S_TEXT, SEARCH_S_IMAGE):
        one = replace(bench, settings=replace(bench.settings, s_text=s_text, s_image=s_image))
        outputs = one.edit(f"guidance {s_text:g}, {s_image:g}", pictures, sentences)
        outcomes = [
            judge(t, "trained", sentences[i], outputs[i], float("nan"), photo=False) for i, t in enumerate(tasks)
        ]
        found.append(
            {
                "s_text": s_text,
                "s_image": s_image,
                "n": float(len(tasks)),
                "accuracy": share(outcomes).value,
                "psnr": mean(o.psnr for o in outcomes).value,
            }
        )
    return found


def identity(bench: Bench, sources: Sequence[Source]) -> dict[str, Mean]:
    """PSNR against the source, of the output for an empty instruction and for one about a thing that is not there, and
    of the codec's reconstruction."""
    pictures = [s.picture for s in sources]
    outputs = bench.edit("empty instruction", pictures, [""] * len(pictures))
    sentences = [random.Random(s.name).choice(s.absent).trained[0] for s in sources]
    others = bench.edit("things that are not there", pictures, sentences)
    return {
        "output": mean(psnr(outputs, torch.stack(pictures)).tolist()),
        "absent": mean(psnr(others, torch.stack(pictures)).tolist()),
        "codec": mean(reconstruction_psnr(bench, pictures)),
    }


def codec_quality(bench: Bench, sources: Sequence[Source], outcomes: Sequence[Outcome]) -> dict[str, Mean]:
    """PSNR of reconstructions: world pictures before and after edits, and photographs never trained on."""
    seen = {(o.source, o.edit): o.ceiling for o in outcomes if o.kind != PHOTOS_KIND}
    found = {"world": mean([*reconstruction_psnr(bench, [s.picture for s in sources]), *seen.values()])}
    for name, picture in held_out_photos(bench.settings.photos, CODEC_PHOTO_PX).items():
        found[name] = mean(reconstruction_psnr(bench, [picture]))
    return found


def draw_sheet(
    tasks: Sequence[Task], outcomes: Sequence[Outcome], outputs: Mapping[Wording, Tensor], path: Path
) -> None:
    """Write a contact sheet: the first tasks of every kind, held-out wording."""
    rows: dict[str, list[Triple]] = {}
    shown = [o for o in outcomes if o.wording == "held-out"]
    for task, outcome, output in zip(tasks, shown, outputs["held-out"], strict=True):
        row = rows.setdefault(outcome.kind, [])
        if len(row) < SHEET_COLUMNS:
            pictures = torch.stack([task.source.picture, output, task.source.truth(task.edit)])
            verdict = "right" if outcome.right else f"nearest to: {outcome.nearest}"
            row.append(Triple(outcome.sentence, verdict, outcome.right, pictures))
    save_picture(triples_sheet(list(rows.values())), path)


def evaluate(settings: Settings, progress: RunProgress) -> Path:
    """Measure everything and write it; returns the folder.

    Raises ValueError or FileNotFoundError for a prior that cannot be used.
    """
    began = time.monotonic()
    given, settings = settings, settings.effective()
    editor = StockEditor(settings.prior, device=settings.device, steps=settings.steps, batch=settings.batch)
    if settings.out is None and not editor.local:
        raise ValueError(f"out: expected a folder for the results of the hub's prior {settings.prior!r}, got none")
    out = settings.out or editor.path
    bench = Bench(editor, settings, progress)
    sources = gather(bench)
    tasks = choose(sources, settings.per_kind, seed=settings.seed)
    search = search_guidance(bench) if settings.search else []
    best = max(search, key=lambda s: (s["accuracy"], s["psnr"]), default=None)
    settings = replace(settings, s_text=best["s_text"], s_image=best["s_image"]) if best else settings
    bench = replace(bench, settings=settings)

    outcomes, outputs = try_edits(bench, tasks)
    photos = [photo_source(n, p) for n, p in held_out_photos(settings.photos, settings.size_px).items()]
    if not photos:
        progress.say("no photographs: scikit-image is not installed and --photos not given")
    photo_tasks = choose(photos, settings.per_kind, seed=settings.seed, kinds=["style"])
    on_photos = try_edits(bench, photo_tasks, photo=True)[0] if photo_tasks else []
    same = identity(bench, sources)
    draw_sheet(tasks, outcomes, outputs, out / "evaluation.png")
    everything = [*outcomes, *on_photos]
    about = {
        **{k: v for k, v in asdict(settings).items() if k not in ("prior", "out", "photos", "device", "records")},
        "prior": settings.prior if settings.prior.startswith("builtin") else Path(settings.prior).name,
        "weights": editor.fingerprint(),
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
        "command": "scripts/evaluate_prior.py" + (" --quick" if given.quick else "") + (" --search" if search else ""),
        "minutes": (time.monotonic() - began) / 60,
    }
    found = Findings(everything, same, codec_quality(bench, sources, outcomes), search, about)
    write_json(out / "evaluation.json", to_json(found, records=settings.records))
    write_text(out / "evaluation.md", to_markdown(found))
    for what, value, wanted, reached in bars(found):
        progress.say(f"{what}: {value:.2f} ({wanted}: {'yes' if reached else 'no' if reached is False else '-'})")
    return out


def main(settings: Settings) -> int:
    """Evaluate; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{evaluate(settings, progress)}/evaluation.md, .json, .png")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
