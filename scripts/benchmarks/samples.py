"""Samples of one caption: how far they are from each other, and whether they show the same where it leaves that open.

Captions are those of pictures with one thing, as they are ("a red ball on grass") or without what says how it looks ("a
ball on grass"), as captions in the training of the built-in prior are now and then. A network reads what colour or
material the thing of a sample has (`scripts/benchmarks/composition.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.media.geometry import read_square
from csd3d.metrics import agreement
from csd3d.priors.defaults import GenerateMethod
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from csd3d.world.captions import without_looks
from csd3d.world.edits import describe
from csd3d.world.scene import SIMPLE_SHAPES, Scene
from panorama.generate import SPREAD, generate
from panorama.generate_config import GenerateConfig
from scripts.benchmarks.composition import SHAPES, Reader, content_of
from scripts.evaluate_t2i import held_out

WAYS: Mapping[str, tuple[GenerateMethod, Mapping[str, Any]]] = {
    "ddim": ("ddim", {}),
    "sds": ("sds", {}),
    "csd": ("csd", {}),
    "csd, no repulsion": ("csd", {"repulsion": 0.0}),
    "csd, uniform kernel": ("csd", {"bandwidth": 0.0}),
}
"""Rows: a method of `csd3d generate`, and what of its settings is changed."""


@dataclass(frozen=True)
class Asked:
    """A caption of a picture with one thing."""

    caption: str
    scene: Scene
    left_open: bool
    """How the thing looks."""


def asked_of(count: int, *, first: int) -> list[Asked]:
    """Captions of `count` held-out scenes with one thing that has a look, each as it is and without the look."""
    asked: list[Asked] = []
    for scene in _scenes(first):
        caption = describe(scene)
        asked += [Asked(caption, scene, False), Asked(without_looks(caption), scene, True)]
        if len(asked) == 2 * count:
            break
    return asked


def _scenes(first: int) -> Iterator[Scene]:
    while True:
        (scene,) = held_out(first, 1)
        if len(scene.things) == 1 and scene.things[0].shape in SIMPLE_SHAPES:
            yield scene
        first += 1


def records_of(
    prior: TextToImagePrior,
    asked: Asked,
    row: str,
    *,
    samples: int,
    size_px: int,
    seed: int,
    reader: Reader | None,
    steps: int | None = None,
) -> dict[str, Any]:
    """One caption by one way: spread, and if there is a reader what it says; `steps` None: the usual number."""
    method, changes = WAYS[row]
    csd: CsdConfig = replace(prior.generation(method), **changes)
    csd = csd if steps is None else replace(csd, steps=steps)
    config = GenerateConfig(method=method, prior=str(prior.path), seed=seed, n=samples, csd=csd)
    with TemporaryDirectory() as folder:
        quiet = RunProgress(quiet=True)
        done = generate(asked.caption, None, config, run_dir=Path(folder) / "run", prior=prior, progress=quiet)
        spread = Manifest.read(done.run_dir / "manifest.json").numbers[SPREAD]
        rgb = torch.stack([read_square(path, size_px) for path in done.outputs])
    about = {"row": row, "caption": asked.caption, "left_open": asked.left_open, "spread": spread}
    return about if reader is None else about | read(reader, rgb, asked.scene)


def read(reader: Reader, rgb: Float[Tensor, "n 3 S S"], scene: Scene) -> dict[str, float]:
    """Share of samples that show the thing, of these that look as the scene, and the agreement of their looks.

    The last two are NaN where no sample shows it.
    """
    place = SHAPES.index(scene.things[0].shape)
    seen, wanted = reader.read(rgb), content_of([scene]).look[0, place]
    looks = seen.look[seen.present[:, place], place]
    return {"found": len(looks) / len(rgb), "look": float((looks == wanted).float().mean()), "same": agreement(looks)}
