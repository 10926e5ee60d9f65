"""A picture edited by a prior from a folder, as it is and with its UNet compiled, or, of a family, offloaded and in 8
bits; times and memory as Markdown, and how far replays of a family are from its pipeline.

    python -m scripts.gpu.real_prior FOLDER PHOTO.png [--device cuda]

Writes PHOTO if it is not there, a photo of the sample world, and PHOTO-edited.png to look at.
"""

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from csd3d.media.pictures.read import open_picture
from csd3d.priors.auto import load_prior
from csd3d.priors.families.prior import FamilyPrior
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.loading import PLAIN, Loading
from csd3d.priors.prior import Prior
from csd3d.priors.store.resolve import loader_of
from csd3d.runs.progress import RunProgress
from csd3d.world.export import write_photo
from csd3d.world.sample import sample_photo
from panorama import PanoramaConfig
from panorama.edit import edit_image
from scripts.benchmarks.memory import peak_memory

AS_IT_IS = "as it is"


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
    savings: bool = True
    """Once more in 8 bits, and on CUDA with layers that wait on the CPU, where it is of a family."""


def ways(settings: Settings) -> Mapping[str, Callable[[], Prior]]:
    """How it is loaded, by name. Loading raises what `load_prior` does."""

    def read(how: Loading = PLAIN) -> Prior:
        return load_prior(settings.prior, device=settings.device, how=how)

    found: dict[str, Callable[[], Prior]] = {AS_IT_IS: read}
    if loader_of(settings.prior) != "family":
        if settings.compiled:
            found["compiled"] = lambda: InstructPrior.load(settings.prior, device=settings.device, compiled=True)
    elif settings.savings:
        found["fp8"] = lambda: read(Loading(quantise="fp8"))
        if torch.device(settings.device).type == "cuda":
            found["offloaded"] = lambda: read(Loading(offload=True))
    return found


def table(settings: Settings) -> Iterator[str]:
    """Its lines. Raises what `edit_image` and `load_prior` do."""
    if not settings.photo.exists():
        settings.photo.parent.mkdir(parents=True, exist_ok=True)
        write_photo(sample_photo(8, height_px=512, width_px=512), settings.photo)
    picture = open_picture(settings.photo)
    yield f"{picture.width_px} x {picture.height_px} px, {settings.steps} moves, {settings.prompt!r}.\n"
    yield "| | loading, s | editing, s | peak, MB | off the pipeline |\n| --- | ---: | ---: | ---: | ---: |"
    for name, load in ways(settings).items():
        began = time.monotonic()
        prior = load()
        loaded = time.monotonic()
        csd = replace(prior.defaults(), steps=settings.steps)
        config = PanoramaConfig(csd=csd, prior=str(settings.prior), device=settings.device)
        peak = peak_memory(torch.device(settings.device))
        place = settings.photo.with_name(f"{settings.photo.stem}-edited{'' if name == AS_IT_IS else f'-{name}'}.png")
        run = next(p for k in range(10**6) if not (p := place.with_name(f"{place.stem}-run-{k}")).exists())
        edit_image(
            settings.photo, settings.prompt, place, config, run_dir=run, prior=prior, progress=RunProgress(quiet=True)
        )
        seconds = time.monotonic() - loaded
        off = f"{prior.learnt.error:.1e}" if isinstance(prior, FamilyPrior) else "\u2013"
        yield f"| {name} | {loaded - began:.1f} | {seconds:.1f} | {peak():.0f} | {off} |"
        del prior
        gc.collect()  # before the next one is read


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
