"""What a set of edited pictures made of a sentence with several right answers, and the page that says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd3d.metrics import (
    aggregate,
    agreement,
    chance_agreement,
    is_any_nearest,
    markdown_table,
    mean,
    nearest,
    psnr,
    variety,
    window_choices,
)
from csd3d.world.edits import Edit
from csd3d.world.families import FEWEST, Family, every_edit, families_in
from csd3d.world.sample import Views, changed_share, least_share
from scripts.training.pictures import edited_pictures

WINDOW_SHARE = 4
"""Windows within a picture are this part of its short side, half of that apart."""


@dataclass(frozen=True)
class OpenEdit:
    """A family that some views leave open, and the exact truth of everything that can be seen in them."""

    family: Family
    members: tuple[Edit, ...]
    """Those that can be seen in every view."""
    edits: tuple[Edit, ...]
    """Everything else too: what an output may be instead."""
    truths: UInt8[Tensor, "k n 3 H W"]
    """The unedited views, then what each of `edits` gives."""

    @property
    def numbers(self) -> list[int]:
        """Rows of `truths` that are right."""
        return [1 + self.edits.index(e) for e in self.members]

    def member_truths(self) -> Float[Tensor, "m n 3 H W"]:
        """What each member gives, in [0, 1]."""
        return self.truths[self.numbers].float() / 255


@torch.no_grad()
def open_edits(views: Views) -> list[OpenEdit]:
    """Every family that the views leave open, whose truths are rendered once for all of them."""
    edits = [e for e in every_edit() if e.applies(views.scene)]
    scenes = [views.scene.at(s) for s in views.seconds]
    rendered = [edited_pictures(s, c, edits) for s, c in zip(scenes, views.cameras, strict=True)]
    truths = torch.stack(rendered, dim=1)
    least = least_share(views.cameras[0])
    seen = [bool((changed_share(truths[0], t) > least).all()) for t in truths[1:]]
    kept = tuple(e for e, s in zip(edits, seen, strict=True) if s)
    levels = (truths[[0, *(1 + k for k, s in enumerate(seen) if s)]] * 255).round().to(torch.uint8)
    found = []
    for family in families_in(views.scene):
        members = tuple(e for e in family.members if e in kept)
        if len(members) >= FEWEST:
            found.append(OpenEdit(family, members, kept, levels))
    return found


def measure(output: Float[Tensor, "n 3 H W"], asked: OpenEdit) -> dict[str, Any]:
    """Numbers of one edited set, and which member most of it is (`choice`).

    `accuracy` is the share of pictures nearest to some member, `agreement` that of the most frequent member among the
    nearest ones, `windows` the mean agreement within a picture, `psnr` that to the member that most are nearest to.
    """
    truths = asked.truths.float() / 255
    members = truths[asked.numbers]
    chosen = nearest(output, members)
    most = int(chosen.mode().values)
    size = min(output.shape[-2:]) // WINDOW_SHARE
    within = [
        agreement(window_choices(o, members[:, i], size_px=size, stride_px=size // 2)) for i, o in enumerate(output)
    ]
    return {
        "accuracy": is_any_nearest(output, truths, asked.numbers).float().mean().item(),
        "agreement": agreement(chosen),
        "chance": chance_agreement(len(output), len(members)),
        "windows": mean(within).value,
        "psnr": psnr(output, members[most]).mean().item(),
        "choice": most,
        "members": len(members),
    }


COLUMNS = {
    "accuracy": "accuracy, %", "agreement": "agreement", "chance": "by chance", "windows": "of windows",
    "psnr": "PSNR, dB", "warp": "warp, %", "variety": "variety",
}  # fmt: skip


def to_markdown(records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """The page: for what is edited, one line for each way of editing it, then one for each way and kind."""

    def rows(some: Sequence[Mapping[str, Any]]) -> list[list[object]]:
        found = aggregate(some, "row", [c for c in COLUMNS if c != "variety"])
        lines = []
        for row, means in found.items():
            values = {c: means[c].value * (100 if "%" in COLUMNS[c] else 1) for c in means}
            lines.append([row, means["agreement"].n, *(values.get(c, _variety(some, row)) for c in COLUMNS)])
        return lines

    head = ["way of editing", "n", *COLUMNS.values()]
    parts = []
    for what in dict.fromkeys(r["of"] for r in records):
        own = [r for r in records if r["of"] == what]
        parts += [f"## {what.capitalize()}", "", markdown_table(head, rows(own)), ""]
        for kind in dict.fromkeys(r["kind"] for r in own):
            parts += [
                f"### {what.capitalize()}, {kind}",
                "",
                markdown_table(head, rows([r for r in own if r["kind"] == kind])),
                "",
            ]
    text = (
        "Frames of clips, views of scenes and windows of panoramas are edited by a sentence with several right "
        "answers. Accuracy: share of them nearest to some member of the family. Agreement: share nearest to the "
        "member that most are nearest to; by chance: what independent even choices would give. Of windows: the same "
        "within one picture. PSNR: to that member. Variety: how many members different seeds share among them, of one "
        "place and sentence."
    )
    return "\n".join([
        "# Edits with several right answers",
        "",
        f"Prior `{about['prior']}`, `{about['command']}`.",
        "",
        text,
        "",
        *parts,
    ])  # fmt: skip


def _variety(records: Sequence[Mapping[str, Any]], row: str) -> float:
    """Mean over places and families of the variety of the seeds' choices."""
    groups: dict[tuple[str, str], list[int]] = {}
    for r in records:
        if r["row"] == row:
            groups.setdefault((r["views"], r["family"]), []).append(r["choice"])
    return mean(variety(torch.tensor(g)) for g in groups.values()).value
