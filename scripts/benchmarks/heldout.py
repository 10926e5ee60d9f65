"""Held-out pictures: sources with the truth of every edit that applies to them, and an even choice of edits."""

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd3d.media.geometry import middle_square, read_square
from csd3d.world.edits import KINDS, Edit, about_absent, all_edits, applicable
from csd3d.world.families import every_edit
from csd3d.world.scene import SceneSampler
from scripts.training.pictures import (
    HELD_OUT_PHOTOS,
    TRAIN_PHOTOS,
    edited_pictures,
    load_photos,
    training_camera,
    visible,
)

FIRST_SEED = 10_000_000
"""Pictures are trained on with seeds below a million; held-out ones begin here."""
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Source:
    """A picture and the truth of every edit that can be seen in it."""

    name: str
    edits: tuple[Edit, ...]
    truths: UInt8[Tensor, "k 3 S S"]
    """The unedited picture, then what each of `edits` exactly gives."""
    absent: tuple[Edit, ...] = ()
    """Edits of things that are not there; of a photograph none is known."""

    @property
    def picture(self) -> Float[Tensor, "3 S S"]:
        """The unedited picture, in [0, 1]."""
        return self.truths[0].float() / 255

    def truth(self, edit: Edit) -> Float[Tensor, "3 S S"]:
        """What `edit` gives, in [0, 1]."""
        return self.truths[1 + self.edits.index(edit)].float() / 255


@dataclass(frozen=True)
class Task:
    """One edit of one source."""

    source: Source
    edit: Edit


@torch.inference_mode()
def _with_truths(
    name: str, pictures: Float[Tensor, "k 3 S S"], edits: list[Edit], absent: Sequence[Edit] = ()
) -> Source:
    """Keep the edits that can be seen."""
    kept = [i for i in range(len(edits)) if visible(pictures[0], pictures[1 + i])]
    levels = (pictures[[0, *(1 + i for i in kept)]] * 255).round().to(torch.uint8)
    return Source(name, tuple(edits[i] for i in kept), levels, tuple(absent))


@torch.inference_mode()
def world_source(seed: int, size_px: int, *, variants: bool = False) -> Source:
    """World picture number `seed`, seen as the training pictures are. Seeds from `FIRST_SEED` on are held out.

    With `variants` the truths are also those of edits without a sentence, which only families of edits mean.
    """
    scene = SceneSampler().sample(seed)
    edits = [e for e in every_edit() if e.applies(scene)] if variants else applicable(scene)
    pictures = edited_pictures(scene, training_camera(seed, size_px), edits)
    return _with_truths(f"world {seed}", pictures, edits, about_absent(scene))


def photo_source(name: str, picture: Float[Tensor, "3 S S"]) -> Source:
    """A photograph, whose only edits with a truth are the styles."""
    edits = [e for e in all_edits() if e.on_pixels]
    pictures = torch.stack([picture, *(e.on_pixels(picture[None])[0] for e in edits if e.on_pixels)])
    return _with_truths(name, pictures, edits)


def choose(sources: Sequence[Source], per_kind: int, *, seed: int, kinds: Sequence[str] = KINDS) -> list[Task]:
    """`per_kind` tasks of every kind (fewer if there are no more), spread over the sources and over the edits.

    Round after round each source gives one more edit of the kind, the one that was chosen least so far.
    """
    rng = random.Random(f"tasks-{seed}")
    tasks: list[Task] = []
    for kind in kinds:
        left = [[e for e in s.edits if e.kind == kind] for s in sources]
        used: Counter[str] = Counter()
        wanted = min(per_kind, sum(map(len, left)))
        while wanted:
            order = [i for i in range(len(sources)) if left[i]]
            rng.shuffle(order)
            for i in order[:wanted]:
                edit = min(left[i], key=lambda e: (used[e.name], rng.random()))
                left[i].remove(edit)
                used[edit.name] += 1
                tasks.append(Task(sources[i], edit))
            wanted -= min(wanted, len(order))
    return tasks


def held_out_photos(folder: Path | None, size_px: int) -> dict[str, Float[Tensor, "3 S S"]]:
    """Photographs never trained on, by name: short side scaled to `size_px`, middle square.

    Those bundled with scikit-image, where it is installed, and the pictures in `folder`, if given, except for the ones
    that training uses. Raises FileNotFoundError for a folder that is not there.
    """
    photos: dict[str, Float[Tensor, "3 S S"]] = {}
    with suppress(ImportError):
        photos |= {
            name: middle_square(photo, size_px)
            for name, photo in zip(HELD_OUT_PHOTOS, load_photos(HELD_OUT_PHOTOS), strict=True)
        }
    if folder is not None:
        if not folder.is_dir():
            raise FileNotFoundError(f"photos: expected a folder of pictures, got {folder}")
        for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES):
            if path.name not in (*TRAIN_PHOTOS, *HELD_OUT_PHOTOS):
                photos[path.name] = read_square(path, size_px)
    return photos
