"""What the speed benchmark measured: one record a setting and edit, tables of their means."""

from collections.abc import Mapping, Sequence
from typing import Any

from csd3d.metrics import aggregate, markdown_table, wilson_interval

MEASURES = ("unet_rows", "psnr", "psnr_written", "warp", "warp_written", "accuracy", "accuracy_written")


def rows_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Price and quality of each setting."""
    lines: list[list[object]] = []
    for name, row in aggregate(records, "row", MEASURES).items():
        frames = [(round(r["accuracy"] * r["frames"]), r["frames"]) for r in records if r["row"] == name]
        low, high = wilson_interval(sum(right for right, _ in frames), sum(of for _, of in frames))
        lines.append(
            [
                name,
                f"{row['unet_rows'].value:.0f}",
                f"{row['psnr'].value:.2f} / {row['psnr_written'].value:.2f}",
                f"{100 * row['warp'].value:.2f} / {100 * row['warp_written'].value:.2f}",
                f"{100 * row['accuracy'].value:.1f} / {100 * row['accuracy_written'].value:.1f}",
                f"{100 * low:.0f} to {100 * high:.0f}",
            ]
        )
    header = ["", "UNet rows / frame", "PSNR, dB", "warp error, %", "right, %", "95 % of frames"]
    return markdown_table(header, lines)


def kinds_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy and PSNR by kind of edit, as the settings leave them."""
    kinds = list(dict.fromkeys(r["kind"] for r in records))
    counts = {kind: len({(r["clip"], r["edit"]) for r in records if r["kind"] == kind}) for kind in kinds}
    lines: list[list[object]] = []
    for name in dict.fromkeys(r["row"] for r in records):
        by_kind = aggregate([r for r in records if r["row"] == name], "kind", ("accuracy", "psnr"))
        found = [by_kind.get(kind) for kind in kinds]
        lines.append(
            [name, *(f"{100 * f['accuracy'].value:.0f} / {f['psnr'].value:.1f}" if f else None for f in found)]
        )
    return markdown_table(["right, % / PSNR, dB", *(f"{kind} ({counts[kind]})" for kind in kinds)], lines)


def to_markdown(records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """The page."""
    edits = len({(r["clip"], r["edit"]) for r in records})
    return "\n".join(
        [
            "# How few UNet rows an edit takes\n\n"
            f"Prior `{about['prior']}`, {about['clips']} clips of {about['frames']} frames of {about['size_px']}x"
            f"{about['size_px']} px that no prior was trained on, {edits} edits in all, seed {about['seed']}, in "
            f"{about['precision']}. Guidance is 1 / 1 (text / image), timesteps are drawn at random below 500 and all "
            "frames are moved together by SVGD where nothing else is said; the learning rate falls in five plateaus.\n",
            "PSNR to the exact truth, warp error along the true flow and the share of frames nearest to the truth of "
            "the edit among the truths of all edits that apply and the unedited clip (`csd3d/metrics`): as left / as "
            "the video editor writes the clip, averaged along motion and with the source's detail put back.\n",
            rows_table(records),
            "\n## By kind of edit (how many), as left\n",
            kinds_table(records),
        ]
    )
