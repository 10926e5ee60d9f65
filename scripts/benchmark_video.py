"""Compare ways of editing a clip on clips of the world, whose true edited versions and true motion are known exactly.

    python scripts/benchmark_video.py [--prior builtin] [--out FOLDER] [--clips 3] [--frames 16] [--quick] [--ablation]

Writes video.md, video.json and one contact sheet for each clip and edit. All methods get the same clip, codec, sentence
and seed. The clips are samples of the world, which no prior was trained on. What is done is kept in FOLDER/work, row by
row: a run that was stopped goes on when it is started again with the same settings. All rows of a frame take about 25 s
on one core, or 18 s with `--precision bfloat16` where the processor has it.
"""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.validate import require, require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.media.detail import restore_mapped
from csd3d.media.sheet import contact_sheet, evenly, save_picture
from csd3d.priors.defaults import BUILTIN
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.networks.codec import VaeCodec
from csd3d.runs.progress import RunProgress
from csd3d.world.camera import PathName
from csd3d.world.edits import Edit, Kind
from scripts.benchmarks.clips import Material, material, pick_edits
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.kept import selected, work_folder
from scripts.benchmarks.video_methods import Job, Method, estimated_motion, standard, timed
from scripts.benchmarks.video_tables import CODEC, TRUTH, UNEDITED, Detail, jsonable, measure, to_json, to_markdown
from video.plan import plan_frames, spans_of
from video.steady import SteadyFrames

SHEET_FRAMES = 6


@dataclass(frozen=True)
class Settings:
    """Compare ways of editing a clip against exact truth."""

    prior: str = "builtin"
    """"builtin", a directory in diffusers layout, or a hub id."""
    out: Path = Path("outputs/benchmark_video")
    """Folder for the results."""
    clips: int = 3
    """Held-out clips; their cameras take the `paths` in turn, and in every second one things move."""
    frames: int = 16
    """Frames of a clip."""
    height_px: int = 128
    width_px: int = 128
    paths: tuple[PathName, ...] = ("orbit", "dolly", "shake", "pan")
    """Ways of moving the camera."""
    kinds: tuple[Kind, ...] = ("weather", "time", "style", "ground", "colour", "shape")
    """One edit of each kind for every clip."""
    per_clip: int | None = None
    """Only so many of them for a clip, dealt in turn: the next clip gets the next ones. None: all."""
    s_text: float = 1.5
    """Text guidance for sampling."""
    s_image: float = 1.5
    """Image guidance for sampling."""
    sampling_steps: int = 20
    """Steps of the sampler."""
    csd: CsdConfig = field(default_factory=lambda: BUILTIN)
    """Settings of csd-edit: those of the editor."""
    keys: int = 4
    """Key frames of the quick mode."""
    judged: int = 6
    """Frames of a clip on which accuracy is judged."""
    gap: int = 6
    """Frames between the two of a far pair."""
    rows: tuple[str, ...] = ()
    """Only these methods; none = all."""
    ablation: bool = False
    """Also: the published settings, where the kernel is measured, shared noise, repulsion, more ways of sampling."""
    seed: int = 0
    device: str | None = None
    """None: CUDA when there is one."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """In which the prior computes."""
    quick: bool = False
    """One short clip, two edits, few steps."""

    def __post_init__(self) -> None:
        require_int(self, 1, None, "clips", "frames", "sampling_steps", "judged", "gap", "keys", "per_clip")
        for name in ("height_px", "width_px"):
            good = getattr(self, name) % 8 == 0 and getattr(self, name) >= 64
            require(self, name, good, "a multiple of 8, 64 or more")

    @property
    def edits_per_clip(self) -> int:
        """How many kinds of edits each clip gets."""
        return min(self.per_clip or len(self.kinds), len(self.kinds))

    def effective(self) -> "Settings":
        """With `quick` spelled out."""
        if not self.quick:
            return self
        return replace(
            self,
            clips=1,
            frames=min(self.frames, 6),
            kinds=self.kinds[:2],
            sampling_steps=min(self.sampling_steps, 10),
            csd=replace(self.csd, steps=min(self.csd.steps, 20)),
            judged=min(self.judged, 3),
            gap=min(self.gap, 3),
            keys=min(self.keys, 2),
        )


@dataclass(frozen=True)
class Case:
    """One edit of one clip."""

    material: Material
    edit: Edit

    @property
    def name(self) -> str:
        """For file names and records."""
        return f"{self.material.name} {self.edit.name}"


def cases(settings: Settings) -> Iterator[Case]:
    """All clips and edits."""
    for k in range(settings.clips):
        seed = 1000 * settings.seed + k
        found = material(
            seed,
            settings.paths[k % len(settings.paths)],
            frames=settings.frames,
            height_px=settings.height_px,
            width_px=settings.width_px,
            judged=settings.judged,
            moving=k % 2 == 1,
        )
        count = settings.edits_per_clip
        kinds: list[Kind] = [settings.kinds[(k * count + i) % len(settings.kinds)] for i in range(count)]
        for edit in pick_edits(found, kinds, seed=seed):
            yield Case(found, edit)


class Work:
    """The rows that are done: their records, and a few frames of each to look at."""

    def __init__(self, settings: Settings) -> None:
        how_many = ("clips", "kinds", "per_clip", "rows", "ablation", "quick")  # of the rows; not what is in one
        about = asdict(settings) | dict.fromkeys(("prior", "out", *how_many))
        self.folder = work_folder(settings.out / "work", about, settings.prior)

    def get(self, case: Case, row: str) -> list[dict[str, Any]] | None:
        """The records of a row, None if it is not done."""
        path = self._path(case, row, ".json")
        return json.loads(path.read_text()) if path.is_file() else None

    def put(self, case: Case, row: str, records: list[dict[str, Any]], clip: Float[Tensor, "n 3 H W"]) -> None:
        """Keep them; the records come last, so that where they are the pictures are."""
        levels = (clip[shown(clip)].clamp(0, 1) * 255).round().byte()
        strip = Image.fromarray(levels.permute(2, 0, 3, 1).flatten(1, 2).numpy())
        save_picture(strip, self._path(case, row, ".png"))
        write_json(self._path(case, row, ".json"), jsonable(records))

    def pictures(self, case: Case, row: str) -> Float[Tensor, "n 3 H W"]:
        """The frames to look at."""
        with Image.open(self._path(case, row, ".png")) as strip:
            pixels = torch.from_numpy(np.array(strip)).permute(2, 0, 1).float() / 255
        return torch.stack(pixels.split(case.material.source.shape[-1], dim=2))

    def _path(self, case: Case, row: str, suffix: str) -> Path:
        name = "-".join(row.replace(",", "").split())
        return self.folder / case.name.replace(" ", "-") / f"{name}{suffix}"


def shown(clip: Float[Tensor, "n 3 H W"]) -> list[int]:
    """Frames on the contact sheet."""
    return evenly(len(clip), SHEET_FRAMES)


@torch.no_grad()
def reconstruct(codec: VaeCodec, clip: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
    """What the codec leaves of a clip."""
    return torch.cat([codec.decode(codec.encode(part)).float().cpu() for part in clip.split(16)])


def steadied(job: Job, edited: Float[Tensor, "n 3 H W"], lost: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
    """As the editor writes a clip: edited and unedited decoded frames averaged along motion, then detail put back."""
    both = torch.cat([edited, lost], 1)
    plan = plan_frames(spans_of(job.sentence), [float(i) for i in range(len(both))])
    average = SteadyFrames(lambda particles: both[particles], plan, estimated_motion(job))
    calm = torch.cat([average(range(k, min(k + 16, len(both)))) for k in range(0, len(both), 16)])
    return restore_mapped(job.source, calm[:, :3], calm[:, 3:])


def run_case(
    case: Case, methods: Mapping[str, Method], prior: InstructPrior, settings: Settings, work: Work, say: Any
) -> list[dict[str, Any]]:
    """Records of all rows; those that are done already are read."""
    found, edit = case.material, case.edit
    rows = (TRUTH, CODEC, UNEDITED, *methods)
    done = {row: work.get(case, row) for row in rows}
    if any(records is None for records in done.values()):
        source, truth = found.source, found.clip.truth(edit)
        job = Job(prior, source, edit.wordings[0], settings.seed, found.clip)
        lost = reconstruct(prior.codec, source)

        def record(row: str, output: Tensor, detail: Detail | None, **price: float) -> dict[str, Any]:
            moves_as = None if row == UNEDITED else edit
            pairs = found.pairs(moves_as, 1), found.pairs(moves_as, settings.gap)
            about = {"clip": found.name, "edit": edit.name, "kind": edit.kind, "row": row, "detail": detail}
            return about | measure(output, found, edit, truth, *pairs) | price

        for row in (row for row in rows if done[row] is None):
            if row in methods:
                edited = timed(methods[row], job)
                price = {"seconds": edited.seconds, "peak_mb": edited.peak_mb}
                price["unet_calls"] = methods[row].unet_calls(len(source))
                clip = edited.clip
                records = [
                    record(row, clip, "none", **price),
                    record(row, restore_mapped(source, clip, lost), "mapped", **price),
                    record(row, steadied(job, clip, lost), "steady", **price),
                ]
                say(f"{case.name}: {row}: {summary(records[0])}")
            else:
                clip = {TRUTH: truth, UNEDITED: source}.get(row)
                clip = reconstruct(prior.codec, truth) if clip is None else clip
                records = [record(row, clip, None)]
            work.put(case, row, records, clip)
            done[row] = jsonable(records)
    return [record for row in rows for record in done[row] or ()]


def summary(record: Mapping[str, Any]) -> str:
    """One line about a record."""
    return (
        f"right {100 * record['accuracy']:.0f} %, {record['psnr']:.2f} dB, warp {100 * record['warp']:.2f} %, "
        f"{record['seconds']:.2f} s a frame"
    )


def draw_sheet(case: Case, methods: Mapping[str, Method], work: Work, folder: Path) -> None:
    """Write the contact sheet of a case."""
    source = case.material.source
    rows = {"source": source[shown(source)]} | {row: work.pictures(case, row) for row in (TRUTH, *methods)}
    columns = [f"frame {i}" for i in shown(source)]
    sheet = contact_sheet(rows, columns=columns, cell_px=max(source.shape[-2:]))
    save_picture(sheet, folder / f"{case.name.replace(' ', '-')}.png")


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure what is not measured yet and write everything; returns the folder.

    Raises ValueError or FileNotFoundError for a prior that cannot be used.
    """
    given, settings = settings, settings.effective()
    prior = InstructPrior.load(settings.prior, device=settings.device, dtype=getattr(torch, settings.precision))
    methods = standard(
        settings.csd,
        sampling_steps=settings.sampling_steps,
        s_text=settings.s_text,
        s_image=settings.s_image,
        keys=settings.keys,
        ablation=settings.ablation,
    )
    methods = selected(methods, settings.rows)
    work, records = Work(settings), []
    total = settings.clips * settings.edits_per_clip
    tracked = progress.track("clips and edits", cases(settings), total=total)
    for done, case in enumerate(tracked, start=1):
        records += run_case(case, methods, prior, settings, work, progress.say)
        draw_sheet(case, methods, work, settings.out / "sheets")
        about = asdict(settings) | {
            "prior": given.prior if given.prior.startswith("builtin") else Path(given.prior).name,
            "out": None,
            "quick": given.quick,
            "edits": done,
            "command": command(given),
            "torch": torch.__version__,
        }
        write_json(settings.out / "video.json", to_json(records, about))
        write_text(settings.out / "video.md", to_markdown(records, about))
    return settings.out


def command(given: Settings) -> str:
    """How to get the same numbers: what differs from the defaults."""
    usual, words = Settings(), ["scripts/benchmark_video.py"]
    names = (
        "clips",
        "per_clip",
        "frames",
        "height_px",
        "width_px",
        "sampling_steps",
        "judged",
        "gap",
        "keys",
        "seed",
        "precision",
    )
    for name in names:
        if (value := getattr(given, name)) != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += [f"--{name}" for name in ("quick", "ablation") if getattr(given, name)]
    words += ["--kinds", *given.kinds] if given.kinds != usual.kinds else []
    words += ["--rows", *given.rows] if given.rows else []
    return shlex.join(words)


def main(settings: Settings) -> int:
    """Compare; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/video.md, video.json, sheets/")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
