"""Measure where points of frames are found, by flow and by features of the prior, against exact motion of the world.

    python scripts/benchmark_matches.py [--out FOLDER]

Writes matches.md and matches.json. A few minutes on one core.
"""

import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from csd3d.attention.correspondences import features, matches
from csd3d.engine.validate import require, require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.metrics import jsonable, markdown_table
from csd3d.priors.defaults import feature_level
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.progress import RunProgress
from csd3d.world.sample import Clip, sample_clip
from scripts.benchmarks.entry import run_script
from video.motion import ClipMotion, Move, grey_levels

FIRST_CLIP = 7200
"""Clips on which nothing was chosen."""


@dataclass(frozen=True)
class Settings:
    """Measure where points of frames are found."""

    out: Path = Path("outputs/benchmark_matches")
    """Folder for the results."""
    clips: int = 12
    """Pairs of frames of each size of motion."""
    sweeps: tuple[float, ...] = (0.1, 0.4, 0.8)
    """How far the camera moves between the two, of a whole path."""
    size_px: int = 128
    """Side of the frames."""
    seed: int = 0

    def __post_init__(self) -> None:
        require_int(self, 1, None, "clips")
        require(self, "size_px", self.size_px % 8 == 0 and self.size_px >= 64, "a multiple of 8, 64 or more")


Prior = InstructPrior | TextToImagePrior


def ways(clip: Clip, priors: Mapping[str, Prior]) -> dict[str, Move]:
    """From the first frame to the second, in latents: by flow, by features of each prior, and by both."""
    source = clip.source()
    found = {"flow": _move(ClipMotion(grey_levels(source), 8))}
    for name, prior in priors.items():
        score = prior.score(Prompts(""), Guidance(1.0))
        with torch.no_grad():
            s = prior.codec.encode(source)
        level = feature_level(builtin=True)
        there, known, back, back_known = matches(*features(score, s, torch.arange(2), level=level, seed=0))
        both = (there.float(), known.float()), (back.float(), back_known.float())
        found[f"features of `{name}`"] = both[0]
        found[f"flow, then features of `{name}`"] = _move(
            ClipMotion(grey_levels(source), 8, matches=lambda i, j, both=both: both)
        )
    return found


def _move(motion: ClipMotion) -> Move:
    position, sure = motion(0, torch.arange(2))
    return position[1] - position[0], sure[1]


def truth_of(clip: Clip) -> tuple[Float[Tensor, "h w 2"], Bool[Tensor, "h w"]]:
    """The exact move of each latent, in latents, and whether most of it can be seen in the second frame."""
    flow = clip.flow(0, 1)
    move = avg_pool2d(flow.flow, 8).permute(1, 2, 0) / 8
    return move, avg_pool2d(flow.visible[None].float(), 8)[0] > 0.5


def measure(move: Move, truth: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Of latents that are visible: errors in pixels, and shares of those within one latent."""
    visible = truth[1]
    error, known = 8 * (move[0] - truth[0]).norm(dim=2)[visible], move[1][visible] > 0.5
    right = error <= 8
    return {
        "known": float(known.float().mean()),
        "known, right": float(right[known].float().mean()),
        "known, error": float(error[known].mean()),
        "right": float((right & known).float().mean()),
    }


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure everything and write it; returns the folder."""
    priors: dict[str, Prior] = {
        "builtin": InstructPrior.load("builtin", device="cpu"),
        "builtin:t2i": TextToImagePrior.load("builtin:t2i", device="cpu"),
    }
    records: list[dict[str, Any]] = []
    for sweep in settings.sweeps:
        for k in progress.track(f"sweep {sweep:g}", range(settings.clips), total=settings.clips):
            side = settings.size_px
            seed = FIRST_CLIP + 1000 * settings.seed + k
            clip = sample_clip(seed, frames=2, height_px=side, width_px=side, moving=k % 2 == 1, sweep=sweep)
            truth = truth_of(clip)
            moved = float(8 * truth[0].norm(dim=2)[truth[1]].mean())
            for way, move in ways(clip, priors).items():
                records.append({"sweep": sweep, "clip": k, "way": way, "moved": moved} | measure(move, truth))
    about = {k: v for k, v in asdict(settings).items() if k != "out"}
    settings.out.mkdir(parents=True, exist_ok=True)
    write_json(settings.out / "matches.json", jsonable({"about": about, "records": records}))
    write_text(settings.out / "matches.md", to_markdown(settings, records))
    return settings.out


def to_markdown(settings: Settings, records: list[dict[str, Any]]) -> str:
    """The page."""
    rows: list[list[str]] = []
    for sweep, way in dict.fromkeys((r["sweep"], r["way"]) for r in records):
        some = [r for r in records if (r["sweep"], r["way"]) == (sweep, way)]
        mean = {k: statistics.fmean(r[k] for r in some if r[k] == r[k]) for k in some[0] if k not in ("way",)}
        shares = [f"{100 * mean[k]:.0f}" for k in ("known", "known, right", "right")]
        rows.append([f"{mean['moved']:.0f}", way, *shares, f"{mean['known, error']:.1f}"])
    header = ["points move, px", "found by", "known, %", "of these right, %", "known and right, %", "their error, px"]
    return (
        "# Where points of frames are found, against exact motion\n\n"
        f"{settings.clips} pairs of frames of {settings.size_px} px for each size of motion, half of them with things "
        f"that move too; seed {settings.seed}. Places are latents (8 px) that can be seen in both frames; right is "
        "within one of them.\n\n" + markdown_table(header, rows)
    )


def main(settings: Settings) -> int:
    """Measure; 2 and one line when the settings cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/matches.md and matches.json")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
