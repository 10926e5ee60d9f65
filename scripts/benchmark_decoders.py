"""Measure what decord brings over PyAV: the time of frames in their order, and one by one in no order, as ratios.

    python scripts/benchmark_decoders.py CLIP.mp4 ... [--out FOLDER]

Writes decoders.md. Each clip is read by both in turn, so that a busy machine slows both alike.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import tyro

from csd3d.engine.validate import require_int
from csd3d.media.atomic import write_text
from csd3d.media.clip.source import Backend, Clip, open_clip
from csd3d.metrics import markdown_table
from csd3d.runs.progress import RunProgress
from scripts.benchmarks.entry import run_script

CHUNK = 8
"""Frames that are read at a time, in their order."""


@dataclass(frozen=True)
class Settings:
    """Measure what decord brings over PyAV."""

    clips: tyro.conf.Positional[tuple[Path, ...]]
    """Video files."""
    out: Path = Path("outputs/benchmark_decoders")
    """Folder for the results."""
    picks: int = 24
    """Frames that are read one by one, in no order."""
    repeats: int = 3
    """Readings, of which the median counts."""
    seed: int = 0
    """Of the order."""

    def __post_init__(self) -> None:
        require_int(self, 1, None, "picks", "repeats")


def in_order(clip: Clip) -> None:
    """Read all frames."""
    for _ in clip.chunks(CHUNK):
        pass


def in_none(clip: Clip, picks: int, seed: int) -> None:
    """Read some frames, each alone."""
    rng = random.Random(seed)
    for _ in range(picks):
        i = rng.randrange(clip.info.frames)
        clip.read(i, i + 1)


def seconds(path: Path, backend: Backend, read: Callable[[Clip], None]) -> float:
    """How long it takes to read an opened clip; opening is the same work for both, and more for decord."""
    with open_clip(path, backend=backend) as clip:
        clip.read(0, 1)
        since = time.perf_counter()
        read(clip)
        return time.perf_counter() - since


def measure(path: Path, settings: Settings) -> dict[str, float]:
    """How many times as long PyAV takes as decord."""
    ways: dict[str, Callable[[Clip], None]] = {
        "in order": in_order,
        "in no order": lambda clip: in_none(clip, settings.picks, settings.seed),
    }
    found = dict[str, float]()
    for name, read in ways.items():
        taken: dict[str, list[float]] = {backend: [] for backend in get_args(Backend)}
        for _ in range(settings.repeats):
            for backend in get_args(Backend):
                taken[backend].append(seconds(path, backend, read))
        found[name] = statistics.median(taken["pyav"]) / statistics.median(taken["decord"])
    return found


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure all clips; returns the file of the results.

    Raises:
        ValueError, FileNotFoundError: a clip cannot be read, or not by decord.
    """
    clips = progress.track("clips", settings.clips, total=len(settings.clips))
    rows = [[path.name, *measure(path, settings).values()] for path in clips]
    text = "# What decord brings over PyAV\n\nHow many times as long PyAV takes: above 1 decord is the faster.\n\n"
    file = settings.out / "decoders.md"
    settings.out.mkdir(parents=True, exist_ok=True)
    write_text(file, text + markdown_table(["clip", "in order", "in no order"], rows))
    return file


def main(settings: Settings) -> int:
    """Measure; 2 and one line when a clip cannot be used."""
    return run_script(lambda progress: str(benchmark(settings, progress)))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
