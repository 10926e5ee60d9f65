"""How fast the world renders: different scenes on two single-threaded processes. Prints one line.

    python scripts/benchmark_world.py [--images 1000] [--size 128] [--processes 2]

The bar: 1,000 pictures of 128 x 128 px, 4 rays a pixel, in under 60 s on two cores. It is held against the processor
time of the slower process, which is the time on idle cores; the line also says how long it took on these. The exit code
is 1 if the bar is missed.
"""

import itertools
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
import tyro

from csd3d.world.render import SAMPLES
from csd3d.world.sample import sample_photo

BAR_S_PER_PIXEL = 60 / (1000 * 128 * 128)


@dataclass(frozen=True)
class Settings:
    """Time the rendering of the world."""

    images: int = 1000
    """Pictures, each of another scene."""
    size: int = 128
    """Their side in pixels."""
    processes: int = 2
    """Processes of one thread each; 1 works in this one."""

    def __post_init__(self) -> None:
        if min(self.images, self.size, self.processes) < 1:
            raise ValueError(f"images, size, processes: expected 1 or more, got {self}")


def _one_thread() -> None:
    torch.set_num_threads(1)
    sample_photo(0, height_px=16, width_px=16).source()  # builds what is kept between pictures


def render_some(first: int, count: int, size_px: int) -> float:
    """Render `count` pictures and return the processor seconds they took."""
    begun = time.process_time()
    for seed in range(first, first + count):
        sample_photo(seed, height_px=size_px, width_px=size_px).source()
    return time.process_time() - begun


def _timed(jobs: list[tuple[int, int, int]]) -> tuple[float, list[float]]:
    """Seconds that passed, and processor seconds of every job."""
    begun = time.monotonic()
    busy = [render_some(*job) for job in jobs]
    return time.monotonic() - begun, busy


def _timed_in_parallel(jobs: list[tuple[int, int, int]]) -> tuple[float, list[float]]:
    """The same with a process for each job; the clock starts when all are ready."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(jobs), mp_context=spawn, initializer=_one_thread) as pool:
        for ready in [pool.submit(render_some, 0, 1, 16) for _ in jobs]:
            ready.result()
        begun = time.monotonic()
        busy = [done.result() for done in [pool.submit(render_some, *job) for job in jobs]]
        return time.monotonic() - begun, busy


def main(settings: Settings) -> int:
    """Run the benchmark and print its line. Returns 1 if the bar is missed."""
    shares = [settings.images * k // settings.processes for k in range(settings.processes + 1)]
    jobs = [(first, last - first, settings.size) for first, last in itertools.pairwise(shares)]
    wall, busy = _timed(jobs) if settings.processes == 1 else _timed_in_parallel(jobs)
    bar = BAR_S_PER_PIXEL * settings.images * settings.size**2
    slower = max(busy)
    print(
        f"{settings.images:,} pictures of {settings.size} x {settings.size} px, {SAMPLES**2} rays a pixel, on "
        f"{settings.processes} processes of one thread: {slower:.1f} s of processor time each "
        f"({1000 * sum(busy) / settings.images:.1f} ms a picture), {wall:.1f} s here; bar {bar:.1f} s: "
        f"{'met' if slower < bar else 'missed'}"
    )
    return 0 if slower < bar else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
