"""Do the metrics that need no truth rank results as the truth does? On clips of the world, whose true edits are known.

    python scripts/benchmark_metrics.py [--out FOLDER] [--clips 4] [--features FILE]

Each case is the exact edit of a clip, spoilt in ways that are worse: blurred, trembling, wobbling, noisy, standing
still, half edited, not edited, edited in another way. Every result is measured by `csd3d.evaluate`, and against the
truth by PSNR. Writes metrics.md, metrics.json and a picture of one frame of every way. A minute or two on one core.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, pad

from csd3d.evaluate.cases import Case
from csd3d.evaluate.config import EvaluateConfig
from csd3d.evaluate.definitions import METRICS
from csd3d.evaluate.measure import flows
from csd3d.evaluate.meters import Chunk
from csd3d.evaluate.towers.load import Towers, load_towers
from csd3d.media.atomic import write_json, write_text
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.metrics import jsonable, markdown_table, mean, psnr
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import Kind
from scripts.benchmarks.clips import Material, material, pick_edits
from scripts.benchmarks.entry import run_script

TRUTH = "exact edit"
PATHS = ("orbit", "dolly", "shake", "pan")
Ways = Mapping[str, Float[Tensor, "n 3 H W"]]


@dataclass(frozen=True)
class Settings:
    """Compare metrics without truth with the truth."""

    out: Path = Path("outputs/benchmark_metrics")
    """Folder for the results."""
    clips: int = 4
    """Held-out clips."""
    frames: int = 8
    side_px: int = 128
    kinds: tuple[Kind, ...] = ("weather", "style", "colour")
    """One edit of each kind for every clip."""
    features: str | None = None
    """File of EfficientNet-Lite0's weights. None: those of the installed package."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.clips, self.frames - 2) < 1:
            raise ValueError(f"clips, frames: expected 1 or more and 3 or more, got {self.clips}, {self.frames}")


def blurred(clip: Float[Tensor, "n 3 H W"], sigma_px: float) -> Float[Tensor, "n 3 H W"]:
    """By a Gaussian."""
    radius = round(3 * sigma_px)
    weights = torch.exp(-torch.arange(-radius, radius + 1).square() / (2 * sigma_px**2))
    kernel = (weights / weights.sum()).view(1, 1, -1)
    flat = pad(clip.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
    return conv2d(conv2d(flat, kernel[..., None, :]), kernel[..., None]).view(clip.shape)


def moved(clip: Float[Tensor, "n 3 H W"], by_px: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3 H W"]:
    """Each frame by so many pixels, bilinear."""
    n, _, height, width = clip.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    at = torch.stack([x, y], -1)[None] + by_px[:, None, None]
    grid = 2 * at / torch.tensor([width, height]) - 1
    return grid_sample(clip, grid.expand(n, -1, -1, -1), padding_mode="border", align_corners=False)


def ways(
    source: Float[Tensor, "n 3 H W"], truth: Float[Tensor, "n 3 H W"], other: Float[Tensor, "n 3 H W"], seed: int
) -> Ways:
    """The true edit and what is worse than it."""
    rng, n = torch.Generator().manual_seed(seed), len(truth)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    made = {
        TRUTH: truth,
        "blurred, 1 px": blurred(truth, 1),
        "blurred, 2 px": blurred(truth, 2),
        "blurred, 4 px": blurred(truth, 4),
        "trembling brightness, 5 %": truth * (1 + 0.05 * random(n, 1, 1, 1)),
        "wobbling, 1 px": moved(truth, random(n, 2)),
        "noisy, 4 %": truth + 0.04 * random(*truth.shape),
        "standing still": truth[:1].expand_as(truth),
        "half edited": (source + truth) / 2,
        "not edited": source,
        "edited in another way": other,
    }
    return {name: clip.clamp(0, 1) for name, clip in made.items()}


def measured(towers: Towers, chunk: Chunk, result: Float[Tensor, "n 3 H W"]) -> dict[str, float]:
    """The mean of every metric; `chunk` is the whole source."""
    meters = towers.meters(Case("", Path()))
    for meter in meters:
        meter.add(chunk, result)
    return {name: mean(values).value for meter in meters for name, values in meter.scores().items()}


def records_of(found: Material, towers: Towers, settings: Settings) -> tuple[list[dict[str, object]], list[Ways]]:
    """One record a case and way; the ways of each case."""
    edits = pick_edits(found, settings.kinds, seed=settings.seed)
    truths = [found.clip.truth(edit) for edit in edits]
    records, all_ways = list[dict[str, object]](), list[Ways]()
    chunk = Chunk(found.source, 0, None, *flows(found.source))
    for k, edit in enumerate(edits):
        case = ways(found.source, truths[k], truths[k - 1], settings.seed + k)
        all_ways.append(case)
        for name, clip in case.items():
            about: dict[str, object] = {
                "case": f"{found.name} {edit.name}",
                "way": name,
                "PSNR": float(psnr(clip, truths[k]).mean()),
            }
            records.append(about | measured(towers, chunk, clip))
    return records, all_ways


def good(name: str, value: float) -> float:
    """Larger is better."""
    return -value if name in METRICS and METRICS[name].better == "lower" else value


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's: of the ranks of numbers without ties."""
    x, y = (torch.tensor(v).argsort().argsort().double() for v in (a, b))
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def summarise(records: Sequence[Mapping[str, object]], settings: Settings) -> str:
    """The report."""
    names = [n for n in METRICS if n in records[0] and n not in ("change", "feature content")]
    rows, cases = list(dict.fromkeys(str(r["way"]) for r in records)), list(dict.fromkeys(r["case"] for r in records))
    table = {(r["case"], r["way"]): r for r in records}

    def value(case: object, way: str, name: str) -> float:
        return float(str(table[case, way][name]))

    def better(case: object, way: str, name: str) -> bool:
        return good(name, value(case, way, name)) > good(name, value(case, TRUTH, name))

    def ranked(case: object, name: str) -> float:
        worse = [way for way in rows if way != TRUTH]
        return rank_correlation(
            [good(name, value(case, w, name)) for w in worse], [value(case, w, "PSNR") for w in worse]
        )

    text = [
        "# Do metrics that need no truth rank results as the truth does?\n\n",
        f"{len(cases)} exact edits of {settings.clips} clips of {settings.frames} frames of the world, each spoilt in "
        "ways that are worse than it. `scripts/benchmark_metrics.py`.\n\n## Means\n\n",
        markdown_table(
            ["result", "PSNR to the truth, dB", *(METRICS[n].heading for n in names)],
            [
                [way, mean(value(c, way, "PSNR") for c in cases).value]
                + [METRICS[n].factor * mean(value(c, way, n) for c in cases).value for n in names]
                for way in rows
            ],
            digits=3,
        ),
        "\n## How often a result that is worse scores better than the exact edit, % of the cases\n\n",
        markdown_table(
            ["result", *names],
            [
                [way, *(100 * mean(better(c, way, n) for c in cases).value for n in names)]
                for way in rows
                if way != TRUTH
            ],
            digits=0,
        ),
        "\n## Rank correlation with PSNR to the truth, mean over the cases\n\nOver all results but the exact edit.\n\n",
        markdown_table(
            ["", *names],
            [["Spearman", *(mean(ranked(c, n) for c in cases).value for n in names)]],
        ),
    ]
    return "".join(text)


def main(settings: Settings) -> int:
    """Measure all and write the report; returns the exit code."""

    def work(progress: RunProgress) -> str:
        towers, notes = load_towers(EvaluateConfig(features=settings.features))
        for note in notes:
            progress.say(f"note: {note}")
        records, shown = list[dict[str, object]](), list[Ways]()
        for k in progress.track("clips", range(settings.clips), total=settings.clips):
            side = settings.side_px
            path = PATHS[k % len(PATHS)]
            found = material(
                1000 * settings.seed + k, path, frames=settings.frames, height_px=side, width_px=side, judged=1,
                moving=k % 2 == 1,
            )  # fmt: skip
            some, pictures = records_of(found, towers, settings)
            records, shown = records + some, shown + pictures
        about = {k: v for k, v in asdict(settings).items() if k not in ("out", "features")}
        write_text(settings.out / "metrics.md", summarise(records, settings))
        write_json(settings.out / "metrics.json", jsonable({"about": about, "records": records}))
        middle = settings.frames // 2
        sheet = contact_sheet({name: clip[middle : middle + 2] for name, clip in shown[0].items()})
        save_picture(sheet, settings.out / "metrics.png")
        return str(settings.out / "metrics.md")

    return run_script(work)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
