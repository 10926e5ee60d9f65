"""What the benchmark of radiance fields measured: one record an edit and row; tables of their means."""

from collections.abc import Mapping, Sequence
from typing import Any

from csd3d.metrics import aggregate, jsonable, markdown_table, ratio

TRUTH, UNEDITED = "truth", "unedited scene"
CEILING, FLOOR = "true edited views", "one view at a time"
MEASURES = (
    "accuracy", "psnr", "warp", "warp_far", "background", "psnr_train", "structure", "agreement", "seconds", "peak_mb",
    "unet_rows",
)  # fmt: skip


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means by row, with warp errors as multiples of the truth's, and how far PSNR got from floor to ceiling."""
    table: dict[str, dict[str, Any]] = aggregate(records, "row", MEASURES)
    for row in table.values():
        for name in ("warp", "warp_far"):
            row[f"{name}_ratio"] = ratio(row[name].value, table[TRUTH][name].value)
        row["way"] = float("nan")
        if FLOOR in table and CEILING in table:
            low, high = table[FLOOR]["psnr"].value, table[CEILING]["psnr"].value
            row["way"] = ratio(row["psnr"].value - low, high - low)
    return table


def rows_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The main table."""
    rows = [
        [
            name,
            f"{100 * row['accuracy'].value:.0f}",
            f"{row['psnr'].value:.2f}",
            None if name in (TRUTH, UNEDITED) else f"{100 * row['way']:.0f}" if row["way"] == row["way"] else None,
            f"{100 * row['warp'].value:.2f}",
            row["warp_ratio"],
            row["warp_far_ratio"],
            f"{row['psnr_train'].value:.2f}",
            f"{100 * row['background'].value:.2f}" if row["background"].n else None,
            f"{100 * row['structure'].value:.2f}" if row["structure"].n else None,
            f"{100 * row['agreement'].value:.0f}" if row["agreement"].n else None,
            f"{row['seconds'].value:.0f}" if row["seconds"].n else None,
            f"{row['unet_rows'].value:.0f}" if row["unet_rows"].n else None,
            f"{row['peak_mb'].value:.0f}" if row["peak_mb"].n else None,
        ]
        for name, row in summarise(records).items()
    ]
    header = ["", "right, %", "PSNR, dB", "way, %", "views: warp error, %", "/ truth's", "/ truth's, far"]
    return markdown_table(
        [*header, "views: PSNR, dB", "background, %", "structure, %", "agreement, %", "s", "UNet rows", "peak, MB"],
        rows,
    )


def edits_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy, PSNR and warp error by edit."""
    edits = list(dict.fromkeys(r["sentence"] for r in records))
    lines = []
    for row in dict.fromkeys(r["row"] for r in records):
        by_edit = aggregate([r for r in records if r["row"] == row], "sentence", MEASURES)
        cells = [
            f"{100 * found['accuracy'].value:.0f} / {found['psnr'].value:.2f} / {100 * found['warp'].value:.2f}"
            if (found := by_edit.get(edit)) is not None
            else None
            for edit in edits
        ]
        lines.append([row, *cells])
    return markdown_table(["right, % / PSNR, dB / warp error, %", *edits], lines)


def to_markdown(records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """The page."""
    size = f"{about['size_px']}x{about['size_px']}"
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    clock = "processor time" if about["device"] == "cpu" else "by the clock"
    parts = [
        "# Editing radiance fields: methods against exact truth\n\n"
        f"Prior `{about['prior']}`, one scene of {about['train_views']} training and {about['test_views']} held-out "
        f"views of {size} px that no prior was trained on, {len(about['edits_done'])} edits; "
        f"`scripts/benchmark_nerf.py{' --quick' if about['quick'] else ''}`, seed {about['seed']}, {threads}.\n",
        f"All methods start from one field (the csd-edit-cpu method after {about['scene_steps']} steps on the "
        f"photographs), train it {about['edits'] * about['edit_every']} steps more and put the photographs' detail "
        f"back in the same way. csd-edit: {about['edits']} batches of {about['views_per_edit']} views, "
        f"{about['edit_steps']} moves each from what the field shows by then, every view once before training goes on; "
        "`paper`: the published kernel, normalisation and learning rate; `by depth`, the default: views talk where "
        "they show the same point, and are averaged there once decoded. One view at a time: "
        "as Instruct-NeRF2NeRF, a view every few steps sampled anew from its noised render, in "
        f"{about['sampling_steps']} steps with s_text = s_image = {about['sampling_guidance']:g}, at least as many "
        "views as the same number of UNet rows pays for. csd-edit: "
        f"s_text {about['s_text']:g} and s_image {about['s_image']:g}.\n",
        f"sds, csd, dds, cds: `{about['t2i']}` with captions of the scene before and after the edit, in batches as "
        f"csd-edit. distil: {about['distil_views']} renders of {about['distil_px']} px in every training step, and no "
        "picture is replaced; its views are what the field shows.\n",
        "At the held-out cameras: right, the share of renders nearest (mean squared error) to the truth of the edit "
        "among the truths of all edits that apply, and the unedited scene; PSNR to the true edited scene; way, how "
        "far PSNR got from one view at a time (0) to training on the true edited views (100; through the codec: as "
        "they come back from latents); background, mean change where the true edit changes nothing; structure, "
        "distance of edge self-similarities to the unedited scene. Of the "
        "edited training views: warp error, mean difference between a view and its neighbour reprojected by the true "
        f"depth, in % of full scale (far: {about['gap']} views apart), PSNR, and agreement, the share of views nearest "
        "to the answer that most are nearest to, where a sentence has several right ones. "
        f"s, {clock}. Definitions in `csd3d/metrics`.\n",
        rows_table(records),
        "## By edit\n",
        edits_table(records),
    ]
    return "\n".join(parts)


def to_json(records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, as strict JSON."""
    return jsonable({"about": about, "means": summarise(records), "records": list(records)})
