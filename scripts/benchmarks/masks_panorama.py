"""Masks that are found in panoramas, as the editor finds them, against what an edit exactly changes."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from csd3d.attention.masks import Found
from csd3d.engine.config import CsdConfig
from csd3d.media.masks import masked
from csd3d.media.pictures.read import Picture
from csd3d.metrics import background_change, psnr
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from csd3d.runs.found_masks import ByDifference, each_map
from csd3d.world.edits import Edit
from csd3d.world.sample import Views
from panorama.found_mask import Place, find_masks, over_picture, overlapped
from scripts.benchmarks.masks import CHANGED, LOCAL, MOST_OF_LATENT, auc
from scripts.benchmarks.panorama_methods import (
    PanoramaKind,
    Task,
    as_picture,
    assembled,
    collaboration,
    in_windows,
    make_task,
    sample,
    truths_of,
)
from scripts.benchmarks.panorama_tables import accuracy


def panorama_records(
    prior: InstructPrior, kind: PanoramaKind, seed: int, csd: CsdConfig, *, window_px: int, run_seed: int
) -> Iterator[dict[str, Any]]:
    """The records of one local edit of each kind of panorama number `seed`, where it has one."""
    views = sample(kind, seed, window_px)
    edits = views.choose(12, seed=seed, kinds=LOCAL)
    truths = truths_of(views, edits)
    for edit in {edit.kind: edit for edit in reversed(edits)}.values():
        yield record(prior, kind, views, edit, truths, 1 + edits.index(edit), csd, window_px, run_seed)


def record(
    prior: InstructPrior,
    kind: PanoramaKind,
    views: Views,
    edit: Edit,
    truths: Float[Tensor, "k 3 H W"],
    right: int,
    csd: CsdConfig,
    window_px: int,
    seed: int,
) -> dict[str, Any]:
    """Of one edit: its map, and its result without the mask and with it."""
    source, truth = truths[0], truths[right]
    task = make_task(as_picture(source), kind, prior, edit.wordings[0], window_px=window_px, seed=seed)
    found, map_px, mask = found_by(task, as_picture(source), edit)
    output = assembled(task, as_picture(source), collaboration(csd)(task), detail=1.0)
    about: dict[str, Any] = {"what": "panoramas", "kind": edit.kind, "edit": edit.name, "panorama": kind}
    about |= of_map(source, truth, found, map_px, mask)
    judged = torch.stack([in_windows(task.surface, t, window_px) for t in truths])
    for name, rgb in (("", output), (" masked", masked(source[None], output[None], mask[None, None])[0])):
        about["right" + name] = accuracy(in_windows(task.surface, rgb, window_px), judged, right)
        about["background" + name] = float(background_change(rgb[None], source[None], truth[None])[0])
        about["psnr" + name] = float(psnr(rgb[None], truth[None])[0])
    return about


def found_by(task: Task, picture: Picture, edit: Edit) -> tuple[Found, Tensor, Tensor]:
    """What is found, and the map and the mask over the picture."""
    windows = task.windows()
    seeker = ByDifference(task.prior.score(Prompts(edit.wordings[0]), Guidance(1.0)))
    place = Place(
        task.prior, seeker, [task.sentence], picture, task.s, task.surface, windows, task.seed, task.windows_per_step
    )
    maps = torch.cat([*each_map(seeker, place.parts, place.latents, seed=task.seed)])
    values, _ = overlapped(place, maps, torch.arange(len(windows)))
    ((_, found),), mask = find_masks(place, maps)
    size_px = picture.height_px, picture.width_px
    over = [interpolate(x[None, None], size_px, mode="bilinear")[0, 0]
            for x in (task.surface.unrolled(values), over_picture(place, mask))]  # fmt: skip
    return found, over[0], over[1]


def of_map(
    source: Float[Tensor, "3 H W"],
    truth: Float[Tensor, "3 H W"],
    found: Found,
    map_px: Float[Tensor, "H W"],
    mask: Float[Tensor, "H W"],
) -> dict[str, Any]:
    """Whether a map tells what changes from what does not; names as in `about_map`."""
    changed, energy = ((source - truth).abs().amax(0) > CHANGED).float(), (source - truth).square().sum(0)
    coarse, of = (avg_pool2d(x[None, None], 8).flatten() for x in (map_px, changed))
    return {
        "changed": float(changed.mean()), "extent": found.extent, "spread": found.spread, "lowest": found.lowest,
        "auc": auc(coarse, of > MOST_OF_LATENT), "area": float(mask.mean()),
        "missed": float((energy * (1 - mask)).sum() / energy.sum()),
    }  # fmt: skip
