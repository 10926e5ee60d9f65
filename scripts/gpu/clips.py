"""Time and memory of whole clips on a device, as Markdown: `csd3d video` with 24, 240 and 2,000 frames.

    python -m scripts.gpu.clips [--device cuda] [--frames 24 240 2000]

Clips are a sample clip forwards and backwards, so that making them takes no time. Each run is a process of its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
import tyro

from csd3d.media.clip.sink import write_clip
from csd3d.world.sample import sample_clip

MADE = 24
"""Frames that differ."""


@dataclass(frozen=True)
class Settings:
    """Time and memory of `csd3d video`, as Markdown on the standard output."""

    device: str = "cuda"
    frames: tuple[int, ...] = (24, 240, 2000)
    size_px: int = 128
    """Side of a frame."""
    steps: int | None = None
    """Moves. None: those of the built-in editor."""
    prompt: str = "make it snowy"


def write_long(path: Path, frames: int, size_px: int) -> None:
    """A sample clip, forwards and backwards until it has so many frames."""
    made = sample_clip(8, frames=min(MADE, frames), height_px=size_px, width_px=size_px).source()
    turn = [*range(len(made)), *range(len(made) - 2, 0, -1)]
    with write_clip(
        path, width_px=size_px, height_px=size_px, fps=Fraction(24), pts=range(frames), time_base=Fraction(1, 24)
    ) as writer:
        for start in range(0, frames, 64):
            writer.write(torch.stack([made[turn[i % len(turn)]] for i in range(start, min(start + 64, frames))]))


def table(settings: Settings, folder: Path) -> Iterator[str]:
    """Its lines, each as soon as it is known. Raises `RuntimeError` with what was said by a run that failed."""
    yield "| frames | seconds | encode, s | edit, s | write, s | resident, MB | GPU, MB |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for frames in settings.frames:
        clip, run = folder / f"{frames}.mp4", folder / f"run-{frames}"
        write_long(clip, frames, settings.size_px)
        steps = [] if settings.steps is None else ["--steps", str(settings.steps)]
        words = ["video", str(clip), "--prompt", settings.prompt, "--device", settings.device, *steps]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "csd3d", *words, "--run-dir", str(run)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{frames} frames: {done.stderr.strip()}")
        found = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        times, memory = found["timing_s"], found["memory_bytes"]
        phases = " | ".join(f"{times.get(phase, 0.0):.1f}" for phase in ("encode", "edit", "write"))
        gpu = f"{memory['cuda'] / 1e6:.0f}" if "cuda" in memory else ""
        yield f"| {frames} | {time.monotonic() - began:.1f} | {phases} | {memory['resident'] / 1e6:.0f} | {gpu} |"


def main(settings: Settings) -> int:
    """Print the table; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            for line in table(settings, Path(folder)):
                print(line, flush=True)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
