"""How few UNet rows does an edit take? Settings of CSD-Edit against exact truth, on many short clips of the world.

    python scripts/benchmark_speed.py [--prior builtin] [--out FOLDER] [--clips 2] [--frames 3] [--rows NAME ...]

Every clip gets one edit of each kind. All settings get the same clip, codec, sentence and seed. Writes speed.md and
speed.json; what is done is kept in FOLDER/work, so a run that was stopped goes on when it is started again, and more
settings, or clips, only add to it. A UNet row takes about 12 ms on one core, 6 ms with `--precision bfloat16` where the
processor has it.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from csd3d.media.atomic import write_json, write_text
from csd3d.metrics import jsonable
from csd3d.priors.instruct import InstructPrior
from csd3d.runs.progress import RunProgress
from csd3d.world.camera import PathName
from csd3d.world.edits import KINDS, Edit, Kind
from scripts.benchmark_video import reconstruct, steadied
from scripts.benchmarks.clips import Material, material, pick_edits
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.kept import Kept, selected
from scripts.benchmarks.speed_panoramas import panorama_cases, panorama_record, to_page
from scripts.benchmarks.speed_tables import to_markdown
from scripts.benchmarks.speed_ways import WAYS, Way
from scripts.benchmarks.video_methods import Job
from scripts.benchmarks.video_tables import measure

PATHS: tuple[PathName, ...] = ("orbit", "dolly", "shake", "pan")
Records = list[dict[str, Any]]
FIRST_CLIP = 7000
"""Clips that no other benchmark uses."""


@dataclass(frozen=True)
class Settings:
    """Compare settings of CSD-Edit by what they cost and how near to the truth they come."""

    prior: str = "builtin"
    """"builtin", a directory in diffusers layout, or a hub id."""
    out: Path = Path("outputs/benchmark_speed")
    """Folder for the results."""
    on: Literal["clips", "panoramas"] = "clips"
    """What is edited. `panoramas`: a strip of 180 degrees, a turn, a sphere, and so on, moved in windows."""
    clips: int = 2
    """So many held-out ones; in every second clip things move."""
    edits: int = 2
    """Edits of a panorama."""
    frames: int = 3
    """Frames of a clip."""
    size_px: int = 128
    """Side of a frame."""
    kinds: tuple[Kind, ...] = KINDS
    """One edit of each kind for every clip that has one."""
    rows: tuple[str, ...] = ()
    """Only these settings; none = all."""
    seed: int = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """In which the prior computes."""

    def __post_init__(self) -> None:
        for name, least in (("clips", 1), ("edits", 1), ("frames", 2), ("size_px", 64)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, got {getattr(self, name)}")


def cases(settings: Settings) -> Iterator[tuple[Material, list[Edit]]]:
    """All clips with their edits."""
    for k in range(settings.clips):
        found = material(
            FIRST_CLIP + k,
            PATHS[k % len(PATHS)],
            frames=settings.frames,
            height_px=settings.size_px,
            width_px=settings.size_px,
            judged=settings.frames,
            moving=k % 2 == 1,
        )
        yield found, pick_edits(found, settings.kinds, seed=FIRST_CLIP + k)


@torch.no_grad()
def records_of(prior: InstructPrior, way: Way, name: str, found: Material, edits: Sequence[Edit], seed: int) -> Records:
    """What a setting makes of a clip: as it leaves it, and (`_written`) as the video editor writes it."""
    source, sentences = found.source, [edit.wordings[0] for edit in edits]
    job = Job(prior, source, sentences[0], seed, found.clip)
    lost = reconstruct(prior.codec, source)
    records: Records = []
    for edit, (left, rows) in zip(edits, way.edit(job, sentences), strict=True):
        truth, pairs = found.clip.truth(edit), (found.pairs(edit, 1), found.pairs(edit, len(source) - 1))
        record: dict[str, Any] = {"row": name, "clip": found.name, "edit": edit.name, "kind": edit.kind}
        for suffix, clip in (("", left), ("_written", steadied(job, left, lost))):
            measured = measure(clip, found, edit, truth, *pairs)
            record |= {f"{key}{suffix}": measured[key] for key in ("accuracy", "psnr", "warp")}
        records.append(record | {"unet_rows": rows, "frames": len(source)})
    return records


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure what is not measured yet and write everything; returns the folder.

    Raises ValueError or FileNotFoundError for a prior that cannot be used.
    """
    ways: Mapping[str, Way] = selected(WAYS, settings.rows)
    prior = InstructPrior.load(settings.prior, dtype=getattr(torch, settings.precision))
    if settings.on == "panoramas":
        return panoramas(settings, prior, ways, progress)
    how_many = ("clips", "kinds", "rows", "out", "prior")  # not what is in a record; `Kept` knows the prior's weights
    about = {name: value for name, value in asdict(settings).items() if name not in how_many}
    work = settings.out / "work"
    kept = {name: Kept(work, about | {"way": asdict(way)}, settings.prior) for name, way in ways.items()}
    records: Records = []
    for found, edits in progress.track("clips", cases(settings), total=settings.clips):
        place = found.name.replace(" ", "-") + "".join(f"-{kind}" for kind in settings.kinds if settings.kinds != KINDS)
        for name, way in ways.items():
            make = partial(records_of, prior, way, name, found, edits, settings.seed)
            records += kept[name].records(place, make)
        write(settings, records)
    return settings.out


def panoramas(settings: Settings, prior: InstructPrior, ways: Mapping[str, Way], progress: RunProgress) -> Path:
    """The same of panoramas. Raises ValueError for a setting that only clips have."""
    records: Records = []
    found = panorama_cases(settings.clips, settings.edits, settings.kinds, settings.size_px)
    for case in progress.track("edits", found, total=settings.clips * settings.edits):
        for name, way in ways.items():
            records.append({"row": name} | panorama_record(prior, way, case, settings.size_px, settings.seed))
        write(settings, records)
    return settings.out


def write(settings: Settings, records: Records) -> None:
    """The page and the numbers so far."""
    about = asdict(settings) | {"out": None, "prior": Path(settings.prior).name, "torch": torch.__version__}
    write_json(settings.out / "speed.json", jsonable({"about": about, "records": records}))
    write_text(settings.out / "speed.md", (to_markdown if settings.on == "clips" else to_page)(records, about))


def main(settings: Settings) -> int:
    """Compare; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/speed.md, speed.json")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
