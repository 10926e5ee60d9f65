"""Sentences with several right answers: which way of editing a clip brings all frames to one of them?

    python scripts/benchmark_agreement.py [--prior builtin] [--out FOLDER] [--clips 3] [--seeds 2] [--quick]

Ways of editing are those of `benchmark_video.py`, with the same settings, and SVGD without repulsion. The prior must
know the families of the world (`csd3d.world.families`). Writes agreement.md and agreement.json; what is done is kept in
FOLDER/work, so a run that was stopped goes on when it is started again.
"""

import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from csd3d.engine.config import CsdConfig
from csd3d.engine.validate import require, require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.metrics import jsonable
from csd3d.priors.defaults import BUILTIN
from csd3d.priors.instruct import InstructPrior
from csd3d.runs.progress import RunProgress
from csd3d.world.camera import PathName
from csd3d.world.edits import KINDS, Kind
from csd3d.world.sample import Clip, sample_clip
from scripts.benchmarks.agreement import OpenEdit, measure, open_edits, to_markdown
from scripts.benchmarks.clips import pairs_of
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.kept import Kept, selected
from scripts.benchmarks.video_methods import Job, Method, collaboration, standard

PATHS: tuple[PathName, ...] = ("orbit", "dolly", "shake", "pan")
FIRST_CLIP = 5000
"""Clips that no other benchmark uses."""


@dataclass(frozen=True)
class Settings:
    """Compare ways of editing a clip by sentences with several right answers."""

    prior: str = "builtin"
    """"builtin", a directory in diffusers layout, or a hub id."""
    out: Path = Path("outputs/benchmark_agreement")
    """Folder for the results."""
    clips: int = 3
    """Held-out clips; in every second one things move."""
    frames: int = 8
    """Frames of a clip."""
    size_px: int = 128
    """Side of a frame."""
    kinds: tuple[Kind, ...] = KINDS
    """One family of each kind for every clip, where it leaves one open."""
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
    device: str | None = None
    """None: CUDA when there is one."""
    quick: bool = False
    """One clip of 4 frames, three kinds, one seed, few steps."""

    def __post_init__(self) -> None:
        require_int(self, 1, None, "clips", "frames", "seeds", "sampling_steps")
        require(self, "size_px", self.size_px % 8 == 0 and self.size_px >= 64, "a multiple of 8, 64 or more")

    def effective(self) -> "Settings":
        """With `quick` spelled out."""
        if not self.quick:
            return self
        few = replace(self.csd, steps=min(self.csd.steps, 20))
        return replace(self, clips=1, frames=min(self.frames, 4), kinds=self.kinds[:3], seeds=1, csd=few)


def ways(settings: Settings) -> dict[str, Method]:
    """The rows of the table."""
    scales = {"s_text": settings.s_text, "s_image": settings.s_image}
    known = standard(settings.csd, sampling_steps=settings.sampling_steps, keys=2, ablation=True, **scales)
    wanted = (
        "per-frame sampling", "per-frame sampling, same noise", "first frame, carried along the flow",
        "csd-edit, independent", "independent, shared noise", "csd-edit, SVGD", "csd-edit, SVGD along motion",
        "csd-edit, SVGD, paper", "SVGD, shared noise", "SVGD, no repulsion",
    )  # fmt: skip
    along = replace(settings.csd, coupling="svgd", noise="shared")
    extra = {"SVGD, no repulsion, shared noise": collaboration(replace(along, repulsion=0.0))}
    return selected({row: known[row] for row in wanted} | extra, settings.rows)


def clip_of(settings: Settings, k: int) -> Clip:
    """Held-out clip number k."""
    return sample_clip(
        FIRST_CLIP + k,
        frames=settings.frames,
        height_px=settings.size_px,
        width_px=settings.size_px,
        path=PATHS[k % len(PATHS)],
        moving=k % 2 == 1,
    )


def asked_of(clip: Clip, settings: Settings, k: int) -> list[OpenEdit]:
    """One family of each kind, another one for every clip."""
    found = open_edits(clip)
    chosen = []
    for kind in settings.kinds:
        some = [a for a in found if a.family.kind == kind]
        if some:
            chosen.append(some[k % len(some)])
    return chosen


def run_case(
    clip: Clip, name: str, asked: OpenEdit, row: str, method: Method, prior: InstructPrior, seeds: int
) -> list[dict[str, Any]]:
    """Records of one way of editing one clip by one sentence, one a seed."""
    records = []
    geometry = all(e.same_geometry for e in asked.members)
    for seed in range(seeds):
        job = Job(prior, clip.source(), asked.family.wordings[0], seed, clip)
        output = method.run(job).float().cpu()
        warp = pairs_of(clip, 1).error(output).mean().item() if geometry else float("nan")
        about = {"views": name, "family": asked.family.name, "kind": asked.family.kind, "row": row, "seed": seed}
        records.append(about | measure(output, asked) | {"warp": warp})
    return records


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure what is not measured yet and write everything; returns the folder.

    Raises ValueError or FileNotFoundError for a prior that cannot be used.
    """
    given, settings = settings, settings.effective()
    prior = InstructPrior.load(settings.prior, device=settings.device)
    methods = ways(settings)
    fixed = asdict(settings) | dict.fromkeys(("prior", "out", "clips", "kinds", "rows", "quick", "device"))
    kept, records = Kept(settings.out / "work", fixed, settings.prior), []
    about = {
        "prior": given.prior if given.prior.startswith("builtin") else Path(given.prior).name,
        "command": "scripts/benchmark_agreement.py" + " --quick" * given.quick,
        "settings": asdict(settings) | dict.fromkeys(("prior", "out", "device")),
        "torch": torch.__version__,
    }
    for k in progress.track("clips", range(settings.clips), total=settings.clips):
        clip = clip_of(settings, k)
        for asked in asked_of(clip, settings, k):
            for row, method in methods.items():
                name = "-".join(f"clip {k} {asked.family.name} {row}".replace(",", "").split())
                records += kept.records(
                    name,
                    lambda c=clip, a=asked, r=row, m=method, i=k: run_case(c, str(i), a, r, m, prior, settings.seeds),
                )
                last = records[-1]
                progress.say(f"{asked.family.name}: {row}: agreement {last['agreement']:.2f}, {last['accuracy']:.2f}")
            write_json(settings.out / "agreement.json", jsonable({"about": about, "records": records}))
            write_text(settings.out / "agreement.md", to_markdown(records, about))
    return settings.out


def main(settings: Settings) -> int:
    """Compare; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/agreement.md, agreement.json")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
