"""A picture edited by a prior from a folder, as it is and with its UNet compiled; times and memory as Markdown.

    python -m scripts.gpu.real_prior FOLDER PHOTO.png [--device cuda]

Writes PHOTO if it is not there, a photo of the sample world, and PHOTO-edited.png to look at.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from csd3d.media.pictures.read import open_picture
from csd3d.priors.auto import load_prior
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Prior
from csd3d.priors.store.resolve import loader_of
from csd3d.runs.progress import RunProgress
from csd3d.world.export import write_photo
from csd3d.world.sample import sample_photo
from panorama import PanoramaConfig
from panorama.edit import edit_image
from scripts.benchmarks.memory import peak_memory


@dataclass(frozen=True)
class Settings:
    """A picture edited by a prior from a folder."""

    prior: tyro.conf.Positional[Path]
    photo: tyro.conf.Positional[Path]
    device: str = "cuda"
    prompt: str = "make it snowy"
    steps: int = 20
    compiled: bool = True
    """Once more with its UNet compiled, where it is of Stable Diffusion's kind."""


def load(settings: Settings, *, compiled: bool) -> Prior:
    """The prior; one of Stable Diffusion's kind may be compiled. Raises what loading raises."""
    if compiled:
        return InstructPrior.load(settings.prior, device=settings.device, compiled=True)
    return load_prior(settings.prior, device=settings.device)


def table(settings: Settings) -> Iterator[str]:
    """Its lines. Raises what `edit_image` and `load_prior` do."""
    if not settings.photo.exists():
        settings.photo.parent.mkdir(parents=True, exist_ok=True)
        write_photo(sample_photo(8, height_px=512, width_px=512), settings.photo)
    picture = open_picture(settings.photo)
    yield f"{picture.width_px} x {picture.height_px} px, {settings.steps} moves, {settings.prompt!r}.\n"
    yield "| | loading, s | editing, s | peak, MB |\n| --- | ---: | ---: | ---: |"
    is_family = loader_of(settings.prior) == "family"
    for compiled in (False, True) if settings.compiled and not is_family else (False,):
        began = time.monotonic()
        prior = load(settings, compiled=compiled)
        loaded = time.monotonic()
        csd = replace(prior.defaults(), steps=settings.steps)
        config = PanoramaConfig(csd=csd, prior=str(settings.prior), device=settings.device)
        peak = peak_memory(torch.device(settings.device))
        place = settings.photo.with_name(f"{settings.photo.stem}-edited{'-compiled' if compiled else ''}.png")
        run = next(p for k in range(10**6) if not (p := place.with_name(f"{place.stem}-run-{k}")).exists())
        edit_image(
            settings.photo, settings.prompt, place, config, run_dir=run, prior=prior, progress=RunProgress(quiet=True)
        )
        seconds = time.monotonic() - loaded
        yield f"| {'compiled' if compiled else 'as it is'} | {loaded - began:.1f} | {seconds:.1f} | {peak():.0f} |"


def main(settings: Settings) -> int:
    """Edit; 1 and one line when the prior or the picture cannot be used."""
    try:
        for line in table(settings):
            print(line, flush=True)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
