"""How long, how dear and how large is the edit of a million clips? A simulation of workers, storage and faults.

    python scripts/plan_clips.py [--clips 1000000] [--gpus 8 64 512 4096] [--rows 1000] ...

Workers take clips from one queue. Each loads the prior, then for every clip reads, encodes, moves, decodes and writes;
pixel work is done by processors while the GPU of the same worker waits, as `csd3d video` does it. The shared storage
serves all that ask at once, each with an equal part. A worker that is lost loads the prior again, and its clip goes on
from the last saved state. Prints a table in markdown; docs/million-clips.md has the one of the defaults.
"""

import heapq
import random
import sys
from dataclasses import dataclass, replace

import tyro

HOUR_S, DAY_S = 3600.0, 86400.0
PARTS = ("network", "codec", "pixels", "storage", "prior")


@dataclass(frozen=True)
class Plan:
    """What is done, and by what. The defaults are clips of 512 px with a prior of Stable Diffusion 1.5's size."""

    clips: int = 1_000_000
    frames: float = 48.0
    """Of a clip in the mean; lengths are exponential, at least 8."""
    gpus: tuple[int, ...] = (8, 64, 512, 4096)
    """Workers, each with one: a row of the table for each number."""
    rows: float = 1000.0
    """Rows of the network for a frame: 200 moves of 5, the default of a big instruction editor."""
    row_tflop: float = 0.80
    """Of a row, in 10^12 operations: counted in the UNet of Stable Diffusion 1.5 with 8 input channels at 512 px."""
    codec_tflop: float = 6.15
    """Of a frame in its autoencoder: encoded once (1.12), decoded twice (2.51)."""
    peak_tflops: float = 989.0
    """Of a GPU, dense in 16 bits, published: H100 SXM 989, A100 312."""
    used: float = 0.35
    """Share of that peak which is reached. An assumption: measure it with scripts/check_gpu.sh."""
    gpu_hour: float = 2.5
    """Price of an hour of a GPU with its share of processors, in dollars. An assumption."""
    pixels_s: float = 0.15
    """Seconds of one core for a frame of 512 px: measured, 3.9 s for 24 frames (detail, flow, video codec)."""
    cores: float = 8.0
    """Processors of a worker that this work is spread over."""
    read_mb: float = 3.0
    """Of a clip of the mean length."""
    kept_mb: float = 24.0
    """Of its result and the folder of its run: of a frame 64 kB of sources, as much of saved state and 256 kB in grey;
    a report with two clips and two pictures, and the result."""
    prior_gb: float = 2.1
    """Read by every worker that starts, in half precision."""
    storage_gbs: float = 10.0
    """Of the shared storage together, in GB/s."""
    link_gbs: float = 1.0
    """At most of one worker."""
    lost_every_h: float = 500.0
    """Hours after which a worker is lost, in the mean."""
    start_s: float = 60.0
    """Of a new worker, before it loads the prior."""
    saved: float = 0.05
    """Share of a clip's moves between two saved states, half of which is done again in the mean."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clips < 1 or not self.gpus or min(self.gpus) < 1:
            raise ValueError(f"gpus: expected numbers of 1 or more, for 1 clip or more, got {self.gpus}")


@dataclass(frozen=True)
class Found:
    """What a number of GPUs comes to."""

    gpus: int
    days: float
    dollars: float
    shares: dict[str, float]
    """Of the workers' time in each of `PARTS`."""
    lost: int
    """Workers that were lost on the way."""
    asked_gbs: float
    """Of the storage, while all are at work."""
    idle: float
    """Share of the workers' time after their last clip."""


def simulate(plan: Plan, gpus: int) -> Found:
    """One batch with so many workers, event by event: the worker that is free first takes the next clip."""
    rng, spent = random.Random(plan.seed), {str(part): 0.0 for part in PARTS}
    flops = plan.peak_tflops * plan.used
    gbs = served_gbs(plan, gpus)
    load_s = plan.prior_gb / min(plan.link_gbs, plan.storage_gbs / gpus)  # all at once, at the beginning
    free, lost = [(plan.start_s + load_s, worker) for worker in range(gpus)], 0
    spent["prior"] += gpus * (plan.start_s + load_s)
    for _ in range(plan.clips):
        now, worker = heapq.heappop(free)
        frames = max(8.0, rng.expovariate(1 / plan.frames))
        parts = {
            "network": frames * plan.rows * plan.row_tflop / flops,
            "codec": frames * plan.codec_tflop / flops,
            "pixels": frames * plan.pixels_s / plan.cores,
            "storage": (plan.read_mb + plan.kept_mb) / 1000 * frames / plan.frames / gbs,
        }
        if rng.random() < sum(parts.values()) / HOUR_S / plan.lost_every_h:
            lost += 1
            parts["network"] *= 1 + plan.saved / 2
            parts["prior"] = plan.start_s + plan.prior_gb / gbs
        for part, seconds in parts.items():
            spent[part] += seconds
        heapq.heappush(free, (now + sum(parts.values()), worker))
    ends = [end for end, _ in free]
    total_s = max(ends)
    asked = plan.clips * (plan.read_mb + plan.kept_mb) / 1000 / total_s
    shares = {part: spent[part] / sum(spent.values()) for part in PARTS}
    idle = 1 - sum(ends) / (total_s * gpus)
    return Found(gpus, total_s / DAY_S, gpus * total_s / HOUR_S * plan.gpu_hour, shares, lost, asked, idle)


def served_gbs(plan: Plan, gpus: int) -> float:
    """What a worker that asks gets of the storage, while others compute.

    Those who ask at once are gpus x s / (s + c), for a service of s seconds and c of computing, and s grows with them:
    solved by iteration.
    """
    frame_s = (plan.rows * plan.row_tflop + plan.codec_tflop) / (plan.peak_tflops * plan.used)
    computing = plan.frames * (frame_s + plan.pixels_s / plan.cores)
    gb, asking, gbs = (plan.read_mb + plan.kept_mb) / 1000, 1.0, plan.link_gbs
    for _ in range(200):
        gbs = min(plan.link_gbs, plan.storage_gbs / max(asking, 1.0))
        asking = (asking + gpus * (gb / gbs) / (gb / gbs + computing)) / 2
    return gbs


def to_markdown(plan: Plan) -> str:
    """The table."""
    lines = [
        f"| GPUs | days | dollars a clip | {' | '.join(PARTS)} | workers lost | storage, GB/s | idle |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for gpus in plan.gpus:
        found = simulate(plan, gpus)
        shares = " | ".join(f"{100 * found.shares[part]:.1f} %" for part in PARTS)
        cells = (found.gpus, f"{found.days:.2f}", f"{found.dollars / plan.clips:.3f}", shares, found.lost)
        rest = (f"{found.asked_gbs:.2f}", f"{100 * found.idle:.1f} %")
        lines.append("| " + " | ".join(map(str, (*cells, *rest))) + " |")
    return "\n".join(lines)


def main(plan: Plan) -> int:
    """Print tables: of the plan, of a quarter of its rows, and of a twenty-fifth."""
    print(f"{plan.clips * plan.kept_mb / 1e6:.0f} TB are left behind.")
    for share in (1, 4, 25):
        print(f"\n{plan.rows / share:.0f} rows a frame:\n\n{to_markdown(replace(plan, rows=plan.rows / share))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Plan)))
