"""Masks that are found, against what an edit exactly changes: pictures, clips and views; and words."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from csd3d.attention.masks import Found, difference, found_in, fuse
from csd3d.attention.word_masks import word_in, word_map
from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import Objective, run
from csd3d.media.detail import add_detail, colour_maps, restore_mapped
from csd3d.media.geometry import working_size
from csd3d.media.masks import masked
from csd3d.metrics import background_change, is_nearest, markdown_table, psnr
from csd3d.nerf.correspond import DepthCorrespondences
from csd3d.nerf.found_masks import near_views
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.found_masks import at_pixels
from csd3d.runs.mask_words import among_others
from csd3d.world.edits import Edit, Kind, describe
from csd3d.world.render import ID_FIRST_THING
from csd3d.world.sample import Clip, PosedScene, Views, sample_scene
from scripts.benchmarks.clips import Material, pick_edits
from scripts.benchmarks.heldout import Task
from scripts.benchmarks.objectives import Pictures
from scripts.training.pictures import edited_pictures
from video.found_mask import fused
from video.motion import ClipMotion, grey_levels

LOCAL: tuple[Kind, ...] = ("colour", "material", "shape", "add", "remove")
GLOBAL: tuple[Kind, ...] = ("time", "weather", "ground", "sky", "style")
CHANGED = 2 / 255
"""Difference in some channel above which a pixel counts as changed."""
WHOLE_SHARE = 0.6
"""Of the pixels: an edit that changes more is one of the whole picture."""
MOST_OF_LATENT = 0.25
"""Share of a latent's pixels above which the latent counts as changed."""
FuseMaps = Callable[[Float[Tensor, "n h w"]], Float[Tensor, "n h w"]]


@dataclass(frozen=True)
class Case:
    """One edit of pictures that are edited together."""

    what: str
    """Pictures, clips, views."""
    source: Float[Tensor, "n 3 H W"]
    truth: Float[Tensor, "n 3 H W"]
    edit: Edit
    judged: Sequence[int]
    """Of the pictures, on which accuracy is judged."""
    truths: Float[Tensor, "k m 3 H W"]
    """There: unedited, then what each edit that applies gives."""
    right: int
    """Which of them is the edit's."""
    fuse: FuseMaps = lambda maps: maps
    """How maps are averaged."""


def case_of_task(task: Task) -> Case:
    """One picture."""
    source, truths = task.source, task.source.truths.float()[:, None] / 255
    right = 1 + source.edits.index(task.edit)
    return Case("pictures", source.picture[None], source.truth(task.edit)[None], task.edit, [0], truths, right)


def cases_of_clip(found: Material, *, seed: int) -> Iterator[Case]:
    """One local edit of each kind; maps are averaged along the estimated motion, as the video editor does."""
    motion, frames = ClipMotion(grey_levels(found.source), 8), list(range(len(found.source)))
    for edit in pick_edits(found, LOCAL, seed=seed):
        truth, right = found.clip.truth(edit), 1 + found.edits.index(edit)
        truths = found.truths.float() / 255
        yield Case("clips", found.source, truth, edit, found.judged, truths, right, lambda m: fused(m, frames, motion))


def cases_of_scene(seed: int, *, views: int, size_px: int) -> Iterator[Case]:
    """One local edit of each kind; maps are averaged along the exact depth."""
    posed = sample_scene(seed, train_views=views, test_views=1, height_px=size_px, width_px=size_px)
    train, where = posed.train, depths(posed, size_px)
    near = near_views(torch.stack([camera.c2w[:3] for camera in train.cameras]))
    edits, judged = train.edits(), [0, views // 2]
    pictures = [edited_pictures(posed.scene, train.cameras[i], edits) for i in judged]
    found = Material(f"scene {seed}", _as_clip(train), train.source(), tuple(edits), tuple(judged), _levels(pictures))
    for edit in pick_edits(found, LOCAL, seed=seed):
        truths = found.truths.float() / 255
        right = 1 + edits.index(edit)
        yield Case(
            "views", found.source, train.truth(edit), edit, judged, truths, right, lambda m: fuse(m, where, near)
        )


def depths(posed: PosedScene, size_px: int) -> DepthCorrespondences:
    """Where points of training views are in the others, exactly, in latents."""
    cameras = posed.train.cameras
    focal = torch.tensor([[0.5 * size_px / math.tan(math.radians(camera.fov) / 2)] * 2 for camera in cameras])
    distance = posed.train.surfaces().depth.clamp_max(1e4)[:, None]
    c2w, centre = torch.stack([camera.c2w[:3] for camera in cameras]), torch.full_like(focal, size_px / 2)
    return DepthCorrespondences(c2w, focal, centre, distance, working_size(Fraction(1), size_px, 8), 8)


def _as_clip(views: Views) -> Clip:
    return Clip(views.scene, views.cameras, views.seconds)


def _levels(pictures: Sequence[Float[Tensor, "k 3 H W"]]) -> Tensor:
    return (torch.stack(list(pictures), dim=1) * 255).round().to(torch.uint8)


@torch.no_grad()
def maps_of(prior: InstructPrior, case: Case, *, noises: int, seed: int) -> tuple[Float[Tensor, "n c h w"], Tensor]:
    """Latents of the sources, and d of all of them, averaged."""
    s = torch.cat([prior.codec.encode(part) for part in case.source.split(8)])
    score, rng = prior.score(Prompts(case.edit.wordings[0]), Guidance(1.0)), torch.Generator().manual_seed(seed)
    parts = torch.arange(len(s)).split(8)
    return s, case.fuse(torch.cat([difference(score, s[i], i, rng=rng, noises=noises) for i in parts]))


@torch.no_grad()
def edited(
    prior: InstructPrior, case: Case, s: Tensor, csd: CsdConfig, *, seed: int
) -> tuple[Float[Tensor, "n 3 H W"], Float[Tensor, "n 3 H W"]]:
    """By csd-edit, with the source's detail put back; and the same with the smallest changes left in."""
    particles, score = Pictures(s, csd), prior.score(Prompts(case.edit.wordings[0]), Guidance.of(csd))
    for _ in run(particles, Objective(score, csd), rng=torch.Generator().manual_seed(seed)):
        pass
    e, r = (torch.cat([prior.codec.decode(part) for part in latents.split(1)]) for latents in (particles.z, s))
    kept = add_detail(case.source, e, r, colour_maps(e, r), amount=1.0)
    return restore_mapped(case.source, e, r), kept


def auc(values: Tensor, of: Bool[Tensor, " m"]) -> float:
    """Probability that a place of `of` has a higher value than another one; NaN without places of both kinds."""
    inside, outside = values[of], values[~of]
    if not len(inside) or not len(outside):
        return math.nan
    return float((inside[:, None] > outside).float().mean() + 0.5 * (inside[:, None] == outside).float().mean())


def about_map(case: Case, maps: Float[Tensor, "n h w"], found: Found) -> dict[str, Any]:
    """What is measured of a map: whether it tells what changes from what does not."""
    change = (case.source - case.truth).abs().amax(1)
    changed = (change > CHANGED).float()
    factor = change.shape[-1] // maps.shape[-1]
    energy, mask = (case.source - case.truth).square().sum(1), at_pixels(found.mask[:, None], case.source)[:, 0]
    return {
        "what": case.what, "kind": case.edit.kind, "edit": case.edit.name, "changed": float(changed.mean()),
        "extent": found.extent, "spread": found.spread, "lowest": found.lowest,
        "auc": auc(maps.flatten(), avg_pool2d(changed[:, None], factor).flatten() > MOST_OF_LATENT),
        "area": float(mask.mean()), "missed": float((energy * (1 - mask)).sum() / energy.sum()),
    }  # fmt: skip


def about_edit(
    case: Case, output: Float[Tensor, "n 3 H W"], kept: Float[Tensor, "n 3 H W"], found: Found
) -> dict[str, Any]:
    """What is measured of a result, without the mask and with it, and of `kept`, with the smallest changes left in."""
    mask = at_pixels(found.mask[:, None], case.source)
    record: dict[str, Any] = {}
    whole = {"": output, " masked": masked(case.source, output, mask)}
    for name, rgb in (whole | {" kept": kept, " kept masked": masked(case.source, kept, mask)}).items():
        right = is_nearest(rgb[list(case.judged)], case.truths, case.right)
        record["right" + name] = float(right.float().mean())
        record["background" + name] = float(background_change(rgb, case.source, case.truth).nanmean())
        record["psnr" + name] = float(psnr(rgb, case.truth).mean())
    return record


def measure(prior: InstructPrior, case: Case, csd: CsdConfig | None, *, noises: int, seed: int) -> dict[str, Any]:
    """The record of a case; without `csd` only of its map."""
    s, maps = maps_of(prior, case, noises=noises, seed=seed)
    found = found_in(maps)
    record = about_map(case, maps, found)
    if csd is not None:
        record |= about_edit(case, *edited(prior, case, s, csd, seed=seed), found)
    return record


@torch.no_grad()
def word_records(
    reader: TextToImagePrior, views: Views, *, noises: int, seed: int, least: float = 0.01
) -> list[dict[str, Any]]:
    """Of each thing in a picture, whether its word finds it, by what the reader is told."""
    source, ids = views.source(0, 1), views.surfaces(0, 1).ids
    s = reader.codec.encode(source)
    records: list[dict[str, Any]] = []
    for k, thing in enumerate(views.scene.things):
        mine = ids == ID_FIRST_THING + k
        if mine.float().mean() < least:
            continue
        told = {
            "the word alone": f"the {thing.shape}",
            "among other things": among_others(thing.shape, reader.things),
            "the true caption": describe(views.scene),
        }
        for how, caption in told.items():
            score = reader.score(Prompts(caption), Guidance(1.0))
            places, rng = score.read("target")[0].find(thing.shape), torch.Generator().manual_seed(seed)
            maps = word_map(score, s, torch.arange(1), [places], rng=rng, noises=noises)
            large = interpolate(maps[:, None], mine.shape[-2:], mode="bilinear")[:, 0]
            mask = at_pixels(word_in(maps).mask[:, None], source)[:, 0] > 0.5
            records.append({
                "how": how, "thing": thing.shape, "share": float(mine.float().mean()),
                "auc": auc(maps.flatten(), avg_pool2d(mine.float()[:, None], 8).flatten() > MOST_OF_LATENT),
                "iou": float((mask & mine).sum() / (mask | mine).sum()), "area": float(mask.float().mean()),
                "recall": float((mask & mine).sum() / mine.sum()), "peak": float(mine.flatten()[large.argmax()]),
            })  # fmt: skip
    return records


def mean_of(records: Sequence[Mapping[str, Any]], name: str) -> float:
    """Mean of a measure over the records that have it."""
    values = [r[name] for r in records if r.get(name) is not None and not math.isnan(r[name])]
    return statistics.fmean(values) if values else math.nan


def edits_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Local edits, by what is edited and by kind."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for r in records:
        groups.setdefault(r["what"], []).append(r)
    for r in records:
        groups.setdefault(f"{r['what']}: {r['kind']}", []).append(r)
    rows = []
    for name, some in groups.items():
        before, after = mean_of(some, "background"), mean_of(some, "background masked")
        rows.append([
            name, str(len(some)), f"{mean_of(some, 'auc'):.3f}", f"{100 * mean_of(some, 'changed'):.0f}",
            f"{100 * mean_of(some, 'area'):.0f}", f"{100 * mean_of(some, 'missed'):.1f}",
            f"{100 * before:.2f}", f"{100 * after:.2f}", f"{before / after:.1f}" if after else "-",
            *(f"{100 * mean_of(some, k):.0f}" for k in ("right", "right masked")),
            *(f"{mean_of(some, k):.2f}" for k in ("psnr", "psnr masked")),
        ])  # fmt: skip
    header = [
        "", "n", "AUC", "changed, %", "mask, %", "missed, %", "background, %", "masked", "fold", "right, %", "masked",
        "PSNR, dB", "masked",
    ]  # fmt: skip
    return markdown_table(header, rows)


def extent_table(records: Sequence[Mapping[str, Any]]) -> str:
    """What was taken for an edit of a part, by how much it changes."""
    shares = (("under 35 % of the pixels", 0.0, 0.35), ("35 to 60 %", 0.35, WHOLE_SHARE), ("over 60 %", WHOLE_SHARE, 2))
    rows = []
    for name, low, high in shares:
        some = [r for r in records if low <= r["changed"] < high]
        if not some:
            continue
        masked_ = [r for r in some if r["extent"] == "part"]
        spreads = [r["spread"] for r in some]
        rows.append([
            name, str(len(some)), str(len(masked_)), f"{min(spreads):.3f} to {max(spreads):.3f}",
            f"{min(r['lowest'] for r in some):.3f} to {max(r['lowest'] for r in some):.3f}",
            f"{100 * mean_of(masked_, 'missed'):.1f}" if masked_ else "-",
        ])  # fmt: skip
    return markdown_table(["edits that change", "n", "masked", "mean over peak", "lowest tenth", "missed, %"], rows)


def words_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Things by their words."""
    rows = []
    for how in dict.fromkeys(r["how"] for r in records):
        some = [r for r in records if r["how"] == how]
        rows.append([how, str(len(some)), f"{mean_of(some, 'auc'):.3f}", f"{mean_of(some, 'iou'):.2f}"]
                    + [f"{100 * mean_of(some, k):.0f}" for k in ("recall", "peak", "area", "share")])  # fmt: skip
    return markdown_table(
        ["the reader is told", "n", "AUC", "IoU", "found, %", "peak inside, %", "mask, %", "thing, %"], rows
    )
