"""What the video benchmark measured: one record a clip, edit and row; tables of their means."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.metrics import aggregate, background_change, flicker, is_nearest, jsonable, markdown_table, mean, psnr, ratio
from csd3d.world.edits import Edit
from scripts.benchmarks.clips import Material, Pairs

Detail = Literal["none", "mapped", "steady"]
"""What happens to the frames of a method: nothing; the source's lost detail is put back through local colour maps; as
the video editor writes them, averaged along the estimated flow before that."""
TRUTH, CODEC, UNEDITED = "truth", "codec of the truth", "unedited"
MEASURES = ("accuracy", "psnr", "warp", "warp_far", "background", "flicker", "seconds", "peak_mb", "unet_calls")


def measure(
    output: Float[Tensor, "n 3 H W"],
    found: Material,
    edit: Edit,
    truth: Float[Tensor, "n 3 H W"],
    near: Pairs,
    far: Pairs,
) -> dict[str, float]:
    """Everything that is measured on a clip (see `csd3d.metrics`); numbers of frames and pairs are averaged."""
    right = 1 + found.edits.index(edit)
    judged = torch.tensor(found.judged)
    correct = is_nearest(output[judged], found.truths.float() / 255, right)
    return {
        "accuracy": correct.float().mean().item(),
        "psnr": psnr(output, truth).mean().item(),
        "warp": mean(near.error(output).tolist()).value,
        "warp_far": mean(far.error(output).tolist()).value,
        "background": mean(background_change(output, found.source, truth).tolist()).value,
        "flicker": mean(flicker(output).tolist()).value,
    }


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means by row, with warp errors and flicker as multiples of the truth's (ratios of means)."""
    table = aggregate(records, "row", MEASURES)
    for row in table.values():
        for name in ("warp", "warp_far", "flicker"):
            row[f"{name}_ratio"] = ratio(row[name].value, table[TRUTH][name].value)  # pyright: ignore[reportArgumentType]
    return table


def with_detail(records: Sequence[Mapping[str, Any]], detail: Detail) -> list[Mapping[str, Any]]:
    """The records with that detail, and those of rows that have none to put back."""
    return [r for r in records if r["detail"] in (detail, None)]


def rows_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The main table."""
    rows = [
        [
            name,
            f"{100 * row['accuracy'].value:.0f}",
            f"{row['psnr'].value:.2f}",
            f"{100 * row['warp'].value:.2f}",
            row["warp_ratio"],
            row["warp_far_ratio"],
            f"{100 * row['background'].value:.2f}" if row["background"].n else None,
            row["flicker_ratio"],
            row["seconds"].value,
            f"{row['unet_calls'].value:.0f}" if row["unet_calls"].n else None,
            f"{row['peak_mb'].value:.0f}" if row["peak_mb"].n else None,
        ]
        for name, row in summarise(records).items()
    ]
    header = ["", "right, %", "PSNR, dB", "warp error, %", "/ truth's", "/ truth's, far", "background, %"]
    return markdown_table([*header, "flicker / truth's", "s / frame", "UNet rows / frame", "peak, MB"], rows)


def kinds_table(records: Sequence[Mapping[str, Any]], rows: Sequence[str]) -> str:
    """Accuracy and warp error by kind of edit."""
    kinds = list(dict.fromkeys(r["kind"] for r in records))
    lines = []
    for row in rows:
        of_row = [r for r in records if r["row"] == row]
        by_kind = aggregate(of_row, "kind", MEASURES)
        cells = [f"{100 * by_kind[k]['accuracy'].value:.0f} / {100 * by_kind[k]['warp'].value:.2f}" for k in kinds]
        lines.append([row, *cells])
    return markdown_table(["right, % / warp error, %", *kinds], lines)


def to_markdown(records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """The page."""
    bare, mapped, steady = (with_detail(records, kept) for kept in get_args(Detail))
    rows, csd = list(dict.fromkeys(r["row"] for r in bare)), about["csd"]
    parts = [
        "# Editing clips: methods against exact truth\n\n"
        f"Prior `{about['prior']}`, {about['clips']} clips of {about['frames']} frames of {about['width_px']}x"
        f"{about['height_px']} px that no prior was trained on, {about['edits']} edits in all; "
        f"`{about['command']}`, seed {about['seed']}, in {about['precision']}.\n",
        f"Sampling: {about['sampling_steps']} steps, s_text {about['s_text']:g}, s_image {about['s_image']:g}. "
        f"csd-edit: {csd['steps']} steps, lr {csd['lr']:g}, s_text {csd['s_text']:g}, s_image {csd['s_image']:g}. "
        "First and key frames are edited by csd-edit too.\n",
        "Right: share of frames nearest (mean squared error) to the truth of the edit among the truths of all edits "
        "that apply, and the unedited clip. Warp error: mean difference between a frame and the next one warped to it "
        f"by the true flow, in % of full scale; far: {about['gap']} frames apart. Background: mean change where the "
        "true edit changes nothing. Flicker: temporal high-pass energy. Seconds: of all processors together. "
        "Definitions in `csd3d/metrics`.\n",
        "## As each method leaves them\n",
        rows_table(bare),
        "## With the source's detail put back through local colour maps (`csd3d/priors/detail.py`)\n",
        rows_table(mapped),
        "## As the video editor writes them: averaged along the estimated flow, then detail put back\n",
        rows_table(steady),
        "## By kind of edit, as each method leaves them\n",
        kinds_table(bare, rows),
    ]
    return "\n".join(parts)


def to_json(records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, as strict JSON."""
    means = {detail: summarise(with_detail(records, detail)) for detail in get_args(Detail)}
    return jsonable({"about": about, "means": means, "records": list(records)})
