"""Everything that only a GPU can show, in at most 20 minutes, as one page; scripts/check_gpu.sh does the set-up too.

    scripts/check_gpu.sh [--out FILE] [--prior FOLDER] [--csd CHECKOUT] [--only PART ...] [--dry-run]

Each part is a process of its own with a limit of time. What fails or takes too long is recorded and the others go on;
the page is written after every part.
"""

import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from csd3d.media.atomic import write_text
from scripts.gpu.parts import Outcome, attempt, page, parts


@dataclass(frozen=True)
class Settings:
    """Everything that only a GPU can show, as one page of Markdown."""

    out: Path = Path("outputs/gpu/gpu.md")
    """The page."""
    prior: Path | None = None
    """Folder of an instruction editor in diffusers layout, such as InstructPix2Pix. None: that part is left out."""
    csd: Path | None = None
    """Checkout of the published code of CSD. None: that part is left out."""
    only: tuple[str, ...] = ()
    """Only these parts; none = all."""
    minutes: float = 20.0
    """For all parts together."""
    dry_run: bool = False
    """Only list the parts."""

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"minutes: expected a number above 0, got {self.minutes}")
        for name, path in (("prior", self.prior), ("csd", self.csd)):
            if path is not None and not path.is_dir():
                raise ValueError(f"{name}: expected a folder, got {path}")


def machine() -> str:
    """The GPUs and what computes on them, in one line."""
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    gpus = ", ".join(f"{p.name} ({p.total_memory / 2**30:.0f} GiB)" for p in found) or "no GPU"
    return f"{gpus}; torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"


def check(settings: Settings) -> int:
    """Try all parts; returns the exit code: 1 if one failed.

    Raises:
        ValueError: there is no part of a name, or no GPU.
    """
    chosen = parts(prior=settings.prior, csd=settings.csd, scratch=settings.out.parent)
    if unknown := set(settings.only) - {part.name for part in chosen}:
        names = ", ".join(part.name for part in chosen)
        raise ValueError(f"only: expected parts among {names}, got {', '.join(sorted(unknown))}")
    chosen = [part for part in chosen if not settings.only or part.name in settings.only]
    if settings.dry_run:
        for part in chosen:
            print(f"{part.name:<10}{part.without or f'at most {part.limit_s:.0f} s':<28}{part.about}")
        return 0
    if not torch.cuda.is_available():
        raise ValueError("check_gpu: expected a CUDA device, found none; scripts/test.sh tests without one")
    began, outcomes = time.monotonic(), list[Outcome]()
    for part in chosen:
        left = 60 * settings.minutes - (time.monotonic() - began)
        outcomes.append(attempt(part, limit_s=min(part.limit_s, left)))
        done = outcomes[-1]
        print(f"{part.name:<10}{done.status:<14}{done.seconds:6.0f} s", flush=True)
        write_text(settings.out, page(outcomes, machine=machine(), seconds=time.monotonic() - began))
    print(f"wrote {settings.out}")
    return int(any(outcome.status in ("failed", "out of time") for outcome in outcomes))


def main() -> int:
    """Check; 2 and one line when something asked for cannot be had."""
    try:
        return check(tyro.cli(Settings, description=__doc__))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
