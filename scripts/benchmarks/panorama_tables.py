"""What the panorama benchmark measures: one record a panorama, edit and row; tables of their means."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.metrics import aggregate, is_nearest, jsonable, markdown_table, psnr

TRUTH, CODEC, UNEDITED = "truth", "codec of the truth", "unedited"
MEASURES = ("accuracy", "psnr", "seam", "wrap", "drift", "seconds", "peak_mb", "unet_rows")


def seam_strength(rgb: Float[Tensor, "3 H W"], borders: Sequence[int]) -> float:
    """Mean step over the column borders `borders` (between b - 1 and b) over the mean step between all neighbours.

    1 = window borders are like any other place. NaN without borders.
    """
    steps = rgb.diff(dim=-1).abs().mean((0, 1))
    at = [b - 1 for b in borders if 0 < b < rgb.shape[-1]]
    return float(steps[at].mean() / steps.mean()) if at else float("nan")


def wrap_strength(rgb: Float[Tensor, "3 H W"]) -> float:
    """The step from the last column to the first over the mean step between neighbours."""
    return float((rgb[..., 0] - rgb[..., -1]).abs().mean() / rgb.diff(dim=-1).abs().mean())


def colour_drift(rgb: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"], width_px: int) -> float:
    """How much the mean error varies along the picture: standard deviation, over stretches of `width_px`, of the mean
    of output - truth, averaged over channels. 0 = the same tint everywhere."""
    error = (rgb - truth).mean(1)
    parts = error.split(width_px, -1)
    means = torch.stack([part.mean(-1) for part in parts if part.shape[-1] > width_px // 2])
    return float(means.std(0, unbiased=False).mean())


def accuracy(output: Float[Tensor, "n 3 h w"], truths: Float[Tensor, "k n 3 h w"], right: int) -> float:
    """Share of windows nearest to the truth of their edit."""
    return float(is_nearest(output, truths, right).float().mean())


def measure_picture(
    output: Tensor, truth: Tensor, *, borders: Sequence[int], wraps: bool, window_px: int
) -> dict[str, float]:
    """What needs no windows."""
    return {
        "psnr": float(psnr(output[None], truth[None])[0]),
        "seam": seam_strength(output, borders),
        "wrap": wrap_strength(output) if wraps else float("nan"),
        "drift": colour_drift(output, truth, window_px),
    }


def rows_table(records: Sequence[Mapping[str, Any]]) -> str:
    """One kind of panorama."""
    rows = []
    for name, row in aggregate(records, "row", MEASURES).items():
        rows.append(
            [
                name,
                f"{100 * row['accuracy'].value:.0f}",
                row["psnr"].value,
                row["seam"].value,
                row["wrap"].value,
                100 * row["drift"].value,
                row["seconds"].value,
                f"{row['unet_rows'].value:.0f}" if row["unet_rows"].n else None,
                f"{row['peak_mb'].value:.0f}" if row["peak_mb"].n else None,
            ]
        )
    header = ["", "right, %", "PSNR, dB", "window borders", "wrap", "drift, %", "s", "UNet rows", "peak, MB"]
    return markdown_table(header, rows)


def to_markdown(records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """The page."""
    csd = about["csd"]
    parts = [
        "# Editing panoramas: methods against exact truth\n\n"
        f"Prior `{about['prior']}`, {about['edits']} edits of panoramas that no prior was trained on; "
        f"`scripts/benchmark_panorama.py{' --quick' if about['quick'] else ''}`, seed {about['seed']}.\n",
        f"Sampling: DDIM, {about['sampling_steps']} steps, s_text {about['s_text']:g}, s_image {about['s_image']:g}. "
        f"csd-edit: {csd['steps']} moves, lr {csd['lr']:g}, s_text {csd['s_text']:g}, s_image {csd['s_image']:g}.\n",
        f"Right: share of windows nearest (mean squared error) to the truth of the edit among the truths of "
        f"{about['candidates']} edits and the unedited panorama. Window borders, wrap: mean step over the borders of "
        "windows side by side, and from the last column to the first, over the mean step between neighbouring columns. "
        "Drift: standard deviation along the picture of the mean error, in % of full scale. A sphere has no common "
        "canvas to average samples on.\n",
    ]
    for kind in dict.fromkeys(r["kind"] for r in records):
        for detail, words in ((False, "nothing put back"), (True, "the source's detail put back, as the editor does")):
            some = [r for r in records if r["kind"] == kind and r["detail"] in (detail, None)]
            parts.append(f"## {kind}, {words}\n\n{rows_table(some)}")
    return "\n".join(parts)


def to_json(records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, as strict JSON."""
    return jsonable({"about": about, "records": list(records)})
