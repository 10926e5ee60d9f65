"""The speed benchmark on panoramas: what settings cost and how near to the truth they come, moved in windows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine import CsdConfig, draw_timestep
from csd3d.metrics import aggregate, markdown_table
from csd3d.metrics.fidelity import psnr
from csd3d.priors.instruct import InstructPrior
from csd3d.world.edits import Edit, Kind
from scripts.benchmarks.panorama_methods import (
    PanoramaKind,
    as_picture,
    assembled,
    collaboration,
    in_windows,
    make_task,
    sample,
    truths_of,
)
from scripts.benchmarks.panorama_tables import accuracy
from scripts.benchmarks.speed_ways import Way

KINDS: tuple[PanoramaKind, ...] = ("strip", "turn", "sphere")
CANDIDATES = 6
"""Edits among whose truths a window looks for its own."""
MEASURES = ("unet_rows", "psnr", "psnr_written", "accuracy", "accuracy_written")


@dataclass(frozen=True, eq=False)
class PanoramaCase:
    """One edit of one panorama."""

    kind: PanoramaKind
    number: int
    edit: Edit
    truths: Float[Tensor, "k 3 H W"]
    """Of the unedited panorama and of the candidates; the edit's own is number `right`."""
    right: int


def panorama_cases(count: int, edits: int, kinds: Sequence[Kind], window_px: int) -> Iterator[PanoramaCase]:
    """So many panoramas, kinds of them in turn, each with so many edits."""
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        views = sample(kind, number, window_px)
        known = views.choose(CANDIDATES, seed=number, kinds=tuple(kinds))
        truths = truths_of(views, known)
        for i, edit in enumerate(known[:edits]):
            yield PanoramaCase(kind, number, edit, truths, 1 + i)


@torch.no_grad()
def panorama_record(prior: InstructPrior, way: Way, case: PanoramaCase, window_px: int, seed: int) -> dict[str, Any]:
    """What a setting of the engine makes of a panorama, as it leaves it and (`_written`) with the source's detail put
    back. Raises ValueError for a way that only clips have."""
    if way != Way(way.csd, way.order) or way.order == "stratified":
        raise ValueError("rows: expected settings of the engine alone on panoramas, got some that only clips have")
    picture = as_picture(case.truths[0])
    task = make_task(picture, case.kind, prior, case.edit.wordings[0], window_px=window_px, seed=seed)
    judged = torch.stack([in_windows(task.surface, t, window_px) for t in case.truths])
    csd = replace(way.csd, timesteps=way.order)
    z = collaboration(csd)(task)
    about = {"panorama": f"{case.kind} {case.number}", "edit": case.edit.name, "kind": case.edit.kind}
    record: dict[str, Any] = about | {"unet_rows": way.rows(1, _times(csd))}
    for suffix, detail in (("", 0.0), ("_written", 1.0)):
        made = assembled(task, picture, z, detail=detail)
        right = accuracy(in_windows(task.surface, made, window_px), judged, case.right)
        record |= {
            f"psnr{suffix}": float(psnr(made[None], case.truths[case.right][None])[0]),
            f"accuracy{suffix}": right,
        }
    return record


def _times(csd: CsdConfig) -> list[int]:
    """Timesteps of as many moves, for what depends on them."""
    rng = torch.Generator().manual_seed(0)
    return [draw_timestep(rng, csd, move=move) for move in range(csd.steps)]


def to_page(records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """The page."""
    lines: list[list[object]] = [
        [
            name,
            f"{row['unet_rows'].value:.0f}",
            f"{row['psnr'].value:.2f} / {row['psnr_written'].value:.2f}",
            f"{100 * row['accuracy'].value:.0f} / {100 * row['accuracy_written'].value:.0f}",
        ]
        for name, row in aggregate(records, "row", MEASURES).items()
    ]
    edits = {(r["panorama"], r["edit"]) for r in records}
    which = ", ".join(dict.fromkeys(str(r["panorama"]) for r in records))
    return (
        "# How few UNet rows an edit of a panorama takes\n\n"
        f"Prior `{about['prior']}`, {len(edits)} edits of {len({p for p, _ in edits})} panoramas ({which}) that no "
        f"prior was trained on, windows of {about['size_px']} px, seed {about['seed']}, in {about['precision']}. "
        "Moved as the editor moves them. PSNR to the exact truth, and the share of windows nearest to the truth of "
        f"their edit among those of {CANDIDATES} edits and the unedited panorama: as left / with the source's "
        "detail put back.\n\n" + markdown_table(["", "UNet rows / window", "PSNR, dB", "right, %"], lines) + "\n"
    )
