"""The page of the benchmark of objectives."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from csd3d.metrics import aggregate, markdown_table

MEASURES = ("accuracy", "psnr", "background", "sharpness", "structure", "seconds", "peak_mb", "variety")


def networks_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Networks against optimisation, the first row."""
    table = aggregate(records, "row", MEASURES)
    slowest = max((r["seconds"].value for r in table.values()), default=0.0)
    rows = [
        [
            name,
            r["accuracy"].n,
            f"{100 * r['accuracy'].value:.0f}",
            r["psnr"],
            f"{100 * r['structure'].value:.2f}",
            f"{r['variety'].value:.2f}",
            f"{1000 * r['seconds'].value:.0f}",
            f"{slowest / r['seconds'].value:.0f}",
        ]
        for name, r in table.items()
    ]
    header = ["", "pictures", "right, %", "PSNR, dB", "structure, %", "variety", "ms / picture", "times faster"]
    return markdown_table(header, rows)


def to_markdown(
    records: Sequence[Mapping[str, Any]],
    directions: Sequence[Mapping[str, float]],
    samples: Sequence[Mapping[str, Any]],
    networks: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> str:
    """The page."""
    table = aggregate(records, "row", MEASURES)
    rows = [
        [
            name,
            f"{100 * r['accuracy'].value:.0f}",
            r["psnr"],
            100 * r["background"].value,
            r["sharpness"],
            f"{100 * r['structure'].value:.2f}",
            f"{1000 * r['seconds'].value:.0f}" if r["seconds"].n else None,
            f"{r['peak_mb'].value:.0f}" if r["peak_mb"].n else None,
        ]
        for name, r in table.items()
    ]
    header = ["", "right, %", "PSNR, dB", "background, %", "sharpness", "structure, %", "ms / step", "peak, MB"]
    times = [[r["t"], r["aligned"], r["unaligned"], r["dds"], r["cosine"], r["cosine_others"]] for r in directions]
    csd = about["csd"]
    parts = [
        "# Objectives of score distillation against exact truth\n\n"
        f"Prior `{about['prior']}`, {about['tasks']} edits of {about['sources']} held-out pictures of "
        f"{about['size_px']} px, {csd['steps']} steps, lr {csd['lr']:.3g}, s_text {csd['s_text']:g}, "
        f"t in [{csd['t_min']}, {csd['t_max']}), seed {about['seed']}; "
        f"`scripts/benchmark_objectives.py{' --quick' if about['quick'] else ''}`.\n",
        "Right: nearest to the truth of the edit among the truths of all edits that apply, and the source. Background: "
        "mean change where the true edit changes nothing. Sharpness: pixel differences there, divided by the truth's. "
        "Structure: distance of edge self-similarities to the source (`csd3d/metrics/structure.py`).\n",
        markdown_table(header, rows),
        f"## Gradients averaged over {about['draws']} noises\n\n"
        "Norms: SDS with the picture's own caption, SDS with another one's, DDS between an edited picture and its "
        "source. Cosines: SDS gradients of an edited picture and of its source under one noise, and of different "
        "scenes.\n\n![Norms over t](gradients.svg)\n",
        markdown_table(["t", "SDS, aligned", "SDS, unaligned", "DDS", "cosine", "cosine, others"], times),
        "## Samples of one caption\n\nMean root mean square difference of two of them.\n",
        markdown_table(
            ["", "captions", "spread"],
            [
                [name, r["spread"].n, f"{r['spread'].value:.3f}"]
                for name, r in aggregate(samples, "row", ("spread",)).items()
            ],
        ),
        "## Networks that edit in one pass\n\n"
        f"Two edits (by night, in snow) learnt in {about['network_steps']} steps of 8 of the clear summer days among "
        f"{about['pupils']} scenes, lr {about['network_lr']:g}; judged on held-out pictures. Variety: distance of "
        "results from each other over that of the truths.\n",
        networks_table(networks),
    ]
    return "\n".join(parts)


def norms_svg(directions: Sequence[Mapping[str, float]]) -> str:
    """The norms of the averaged gradients over t, as a picture of its own; logarithmic."""
    width, height, left, bottom = 520, 260, 60, 40
    lines = (
        ("aligned", "SDS, aligned", "#c0392b"),
        ("unaligned", "SDS, unaligned", "#7f8c8d"),
        ("dds", "DDS", "#2471a3"),
    )
    levels = [math.log10(max(r[key], 1e-9)) for r in directions for key, _, _ in lines]
    low, high = min(levels), max(max(levels), min(levels) + 1e-6)
    last = max(r["t"] for r in directions)

    def at(t: float, value: float) -> str:
        share = (math.log10(max(value, 1e-9)) - low) / (high - low)
        return f"{left + (width - left - 110) * t / last:.1f},{height - bottom - (height - bottom - 20) * share:.1f}"

    body = []
    for row, (key, label, colour) in enumerate(lines):
        points = " ".join(at(r["t"], r[key]) for r in directions)
        body.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body.append(f'<text x="{width - 100}" y="{30 + 18 * row}" fill="{colour}">{label}</text>')
    for level in (low, high):
        y = at(0, 10**level).split(",")[1]
        body.append(f'<text x="{left - 8}" y="{y}" text-anchor="end">{10**level:.2g}</text>')
    body.append(f'<text x="{left}" y="{height - 12}">0</text>')
    body.append(f'<text x="{width - 110}" y="{height - 12}" text-anchor="end">t = {last:.0f}</text>')
    style = 'font-family="sans-serif" font-size="12"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {style}>'
        f'<rect width="{width}" height="{height}" fill="white"/>{"".join(body)}</svg>\n'
    )
