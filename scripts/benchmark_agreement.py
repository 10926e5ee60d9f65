"""Sentences with several right answers: which way of editing brings all frames, views or windows to one of them?

    python scripts/benchmark_agreement.py [--prior builtin] [--out FOLDER] [--of clips scenes panoramas] [--quick]
    python scripts/benchmark_agreement.py --ablate kernel levels baseline [--of clips scenes]
    python scripts/benchmark_agreement.py --ablate particles --frames 24 --of clips

Ways of editing are those of `benchmark_video.py` and `benchmark_panorama.py`, with the same settings, shared attention
and SVGD without repulsion; or, with `--ablate`, moving all together with one thing of it varied: how many particles a
step holds, the kernel, noise levels and guidance, or what predictions are compared with. The prior must know the
families of the world (`csd3d.world.families`). Writes agreement.md and agreement.json, or ablation.md and
ablation.json; what is done is kept in FOLDER/work, so a run that was stopped goes on when it is started again.
"""

import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
import tyro

from csd3d.engine.config import CsdConfig
from csd3d.engine.validate import require, require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.metrics import jsonable
from csd3d.priors.defaults import BUILTIN
from csd3d.priors.instruct import InstructPrior
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import KINDS, Kind
from scripts.benchmarks.agreement import OpenEdit, measure, to_markdown
from scripts.benchmarks.agreement_ablation import Ablation, ablated
from scripts.benchmarks.agreement_places import Place, Scales, What, clip_place, panorama_place, scene_place
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.kept import Kept, selected


@dataclass(frozen=True)
class Settings:
    """Compare ways of editing by sentences with several right answers."""

    prior: str = "builtin"
    """"builtin", a directory in diffusers layout, or a hub id."""
    out: Path = Path("outputs/benchmark_agreement")
    """Folder for the results."""
    of: tuple[What, ...] = get_args(What)
    """What is edited."""
    places: int = 3
    """Held-out clips, scenes and panoramas, so many of each."""
    frames: int = 8
    """Frames of a clip, views of a scene."""
    size_px: int = 128
    """Side of a frame, view or window."""
    kinds: tuple[Kind, ...] = KINDS
    """One family of each kind for every place that leaves one open."""
    seeds: int = 2
    """How often each is edited, with other noise."""
    s_text: float = 1.5
    """Text guidance for sampling."""
    s_image: float = 1.5
    """Image guidance for sampling."""
    sampling_steps: int = 20
    """Steps of the sampler."""
    csd: CsdConfig = field(default_factory=lambda: BUILTIN)
    """Settings of csd-edit: those of the editor."""
    rows: tuple[str, ...] = ()
    """Only these ways of editing; none = all."""
    ablate: tuple[Ablation, ...] = ()
    """Vary these in moving frames or views together, in place of comparing ways of editing."""
    device: str | None = None
    """None: CUDA when there is one."""
    quick: bool = False
    """One place of 4 frames, three kinds, one seed, few steps."""

    def __post_init__(self) -> None:
        require_int(self, 1, None, "places", "frames", "seeds", "sampling_steps")
        require(self, "size_px", self.size_px % 8 == 0 and self.size_px >= 64, "a multiple of 8, 64 or more")
        require(self, "of", not self.ablate or self.of != ("panoramas",), "clips or scenes with ablate")

    @property
    def name(self) -> str:
        """Of the files that are written."""
        return "ablation" if self.ablate else "agreement"

    def effective(self) -> "Settings":
        """With `quick` spelled out, and without panoramas where their rows are none."""
        varied = replace(self, of=tuple(what for what in self.of if what != "panoramas")) if self.ablate else self
        if not self.quick:
            return varied
        few = replace(self.csd, steps=min(self.csd.steps, 20))
        return replace(varied, places=1, frames=min(self.frames, 4), kinds=self.kinds[:3], seeds=1, csd=few)


def place_of(settings: Settings, what: What, k: int) -> Place:
    """Held-out place number k of a sort."""
    own = {"csd": settings.csd, "scales": Scales(settings.sampling_steps, settings.s_text, settings.s_image)}
    if what == "panoramas":
        return panorama_place(k, window_px=settings.size_px, **own)
    if what == "clips":
        place = clip_place(k, frames=settings.frames, size_px=settings.size_px, **own)
    else:
        place = scene_place(k, views=settings.frames, size_px=settings.size_px, **own)
    if not settings.ablate:
        return place
    return replace(place, methods=ablated(settings.ablate, settings.csd, settings.frames))


def asked_of(place: Place, settings: Settings, k: int) -> list[OpenEdit]:
    """One family of each kind, another one for every place."""
    found = place.open_edits()
    chosen = []
    for kind in settings.kinds:
        some = [a for a in found if a.family.kind == kind]
        if some:
            chosen.append(some[k % len(some)])
    return chosen


def run_case(
    place: Place, about: dict[str, Any], asked: OpenEdit, prior: InstructPrior, seeds: int
) -> list[dict[str, Any]]:
    """Records of one way (`about["row"]`) of editing one place by one sentence, one a seed."""
    records = []
    for seed in range(seeds):
        output = place.edit(about["row"], asked, prior, seed=seed)
        records.append(about | measure(output, asked) | {"warp": place.warp(output, asked), "seed": seed})
    return records


def _flags(settings: Settings) -> list[str]:
    """Those that say what kind of table it is."""
    return ["--ablate", *settings.ablate] * bool(settings.ablate) + ["--quick"] * settings.quick


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure what is not measured yet and write everything; returns the folder.

    Raises ValueError or FileNotFoundError for a prior that cannot be used.
    """
    given, settings = settings, settings.effective()
    prior = InstructPrior.load(settings.prior, device=settings.device)
    free = ("prior", "out", "of", "places", "kinds", "rows", "ablate", "quick", "device")
    fixed = asdict(settings) | dict.fromkeys(free)
    kept, records = Kept(settings.out / "work", fixed, settings.prior), []
    about = {
        "prior": given.prior if given.prior.startswith("builtin") else Path(given.prior).name,
        "command": " ".join(["scripts/benchmark_agreement.py", *_flags(given)]),
        "settings": asdict(settings) | dict.fromkeys(("prior", "out", "device")),
        "torch": torch.__version__,
    }
    places: list[tuple[What, int]] = [(what, k) for what in settings.of for k in range(settings.places)]
    known = {row: row for what in settings.of for row in place_of(settings, what, 0).rows}
    wanted = selected(known, settings.rows)
    for what, k in progress.track("places", places, total=len(places)):
        place = place_of(settings, what, k)
        for asked in asked_of(place, settings, k):
            for row in (row for row in place.rows if row in wanted):
                case = {"of": what, "views": str(k), "family": asked.family.name, "kind": asked.family.kind, "row": row}
                name = "-".join(f"{what} {k} {asked.family.name} {row}".replace(",", "").split())
                records += kept.records(name, lambda p=place, c=case, a=asked: run_case(p, c, a, prior, settings.seeds))
                last = records[-1]
                progress.say(f"{asked.family.name}: {row}: agreement {last['agreement']:.2f}, {last['accuracy']:.2f}")
            write_json(settings.out / f"{given.name}.json", jsonable({"about": about, "records": records}))
            write_text(settings.out / f"{given.name}.md", to_markdown(records, about))
    return settings.out


def main(settings: Settings) -> int:
    """Compare; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/{settings.name}.md, .json")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
