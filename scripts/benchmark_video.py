"""Compare ways of editing a clip on clips of the world, whose true edited versions and true motion are known exactly.

    python scripts/benchmark_video.py [--prior builtin] [--out FOLDER] [--quick] [--ablation]

Writes video.md, video.json and one contact sheet for each clip and edit. All methods get the same clip, codec, sentence
and seed. The clips are samples of the world, which no prior was trained on. On two CPU cores the default takes an hour
or two.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.priors.codec import Codec
from csd3d.priors.detail import restore_detail, restore_mapped
from csd3d.priors.editor import BUILTIN
from csd3d.priors.instruct import InstructPrior
from csd3d.runs.atomic import write_json, write_text
from csd3d.runs.progress import RunProgress
from csd3d.runs.sheet import contact_sheet, evenly, save_picture
from csd3d.world.camera import PathName
from csd3d.world.edits import Edit, Kind
from scripts.benchmarks.clips import Material, material, pick_edits
from scripts.benchmarks.video_methods import Edited, Job, Method, standard, timed
from scripts.benchmarks.video_tables import CODEC, TRUTH, UNEDITED, Detail, measure, to_json, to_markdown

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
    s_text: float = 1.5
    """Text guidance for sampling."""
    s_image: float = 1.5
    """Image guidance for sampling."""
    sampling_steps: int = 20
    """Steps of the sampler."""
    csd: CsdConfig = field(default_factory=lambda: BUILTIN)
    """Settings of csd-edit."""
    judged: int = 6
    """Frames of a clip on which accuracy is judged."""
    gap: int = 6
    """Frames between the two of a far pair."""
    ablation: bool = False
    """Also: where the kernel is measured, shared noise, repulsion."""
    seed: int = 0
    device: str | None = None
    """None: CUDA when there is one."""
    quick: bool = False
    """One short clip, two edits, few steps."""

    def __post_init__(self) -> None:
        for name in ("clips", "frames", "sampling_steps", "judged", "gap"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        for name in ("height_px", "width_px"):
            if getattr(self, name) % 8 or getattr(self, name) < 64:
                raise ValueError(f"{name}: expected a multiple of 8, 64 or more, got {getattr(self, name)}")

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
        for edit in pick_edits(found, settings.kinds, seed=seed):
            yield Case(found, edit)


@torch.no_grad()
def reconstruct(codec: Codec, clip: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
    """What the codec leaves of a clip."""
    return codec.decode(codec.encode(clip)).cpu()


def run_case(
    case: Case, methods: Mapping[str, Method], prior: InstructPrior, settings: Settings, progress: RunProgress
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Records of all rows, and the clips to look at."""
    found, edit = case.material, case.edit
    source, truth = found.source, found.clip.truth(edit)
    lost = reconstruct(prior.codec, source)
    job = Job(prior, source, edit.wordings[0], settings.seed)
    records: list[dict[str, Any]] = []

    def record(row: str, output: Tensor, detail: Detail | None, **price: float) -> None:
        moves_as = None if row == UNEDITED else edit
        pairs = found.pairs(moves_as, 1), found.pairs(moves_as, settings.gap)
        measured = measure(output, found, edit, truth, *pairs)
        about = {"clip": found.name, "edit": edit.name, "kind": edit.kind, "row": row, "detail": detail}
        records.append(about | measured | price)

    shown = {"source": source, TRUTH: truth}
    record(TRUTH, truth, None)
    record(CODEC, reconstruct(prior.codec, truth), None)
    record(UNEDITED, source, None)
    for name, method in methods.items():
        edited: Edited = timed(method, job)
        price = {"seconds": edited.seconds, "peak_mb": edited.peak_mb, "unet_calls": float(method.unet_calls)}
        record(name, edited.clip, "none", **price)
        progress.say(f"{case.name}: {name}: {summary(records[-1])}")
        record(name, restore_detail(source, edited.clip, lost), "plain", **price)
        record(name, restore_mapped(source, edited.clip, lost), "mapped", **price)
        shown[name] = edited.clip
    return records, shown


def summary(record: Mapping[str, Any]) -> str:
    """One line about a record."""
    return (
        f"right {100 * record['accuracy']:.0f} %, {record['psnr']:.2f} dB, warp {100 * record['warp']:.2f} %, "
        f"{record['seconds']:.2f} s a frame"
    )


def draw_sheet(case: Case, shown: Mapping[str, Tensor], folder: Path) -> None:
    """Write the contact sheet of a case."""
    frames = torch.tensor(evenly(len(case.material.source), SHEET_FRAMES))
    rows = {name: clip[frames] for name, clip in shown.items()}
    columns = [f"frame {i}" for i in frames.tolist()]
    sheet = contact_sheet(rows, columns=columns, cell_px=max(case.material.source.shape[-2:]))
    save_picture(sheet, folder / f"{case.name.replace(' ', '-')}.png")


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure everything and write it; returns the folder.

    Raises ValueError or FileNotFoundError for a prior that cannot be used.
    """
    given, settings = settings, settings.effective()
    prior = InstructPrior.load(settings.prior, device=settings.device)
    methods = standard(
        settings.csd,
        sampling_steps=settings.sampling_steps,
        s_text=settings.s_text,
        s_image=settings.s_image,
        ablation=settings.ablation,
    )
    records: list[dict[str, Any]] = []
    total = settings.clips * len(settings.kinds)
    tracked = progress.track("clips and edits", cases(settings), total=total)
    for done, case in enumerate(tracked, start=1):
        found, shown = run_case(case, methods, prior, settings, progress)
        records += found
        draw_sheet(case, shown, settings.out / "sheets")
        about = asdict(settings) | {
            "prior": given.prior if given.prior.startswith("builtin") else Path(given.prior).name,
            "out": None,
            "quick": given.quick,
            "edits": done,
            "torch": torch.__version__,
        }
        write_json(settings.out / "video.json", to_json(records, about))
        write_text(settings.out / "video.md", to_markdown(records, about))
    return settings.out


def main(settings: Settings) -> int:
    """Compare; 2 and one line when the settings or the prior cannot be used."""
    try:
        with RunProgress() as progress:
            progress.say(f"wrote {benchmark(settings, progress)}/video.md, video.json, sheets/")
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
