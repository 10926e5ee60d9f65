"""The page of the benchmark of objectives."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from csd3d.metrics import Mean, aggregate, markdown_table

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


def _shown(x: Mean, form: str, times: float = 1.0) -> str | None:
    return format(times * x.value, form) if x.n else None


def edits_table(records: Sequence[Mapping[str, Any]], *, price: bool) -> str:
    """Rows of edited pictures; with what they cost, or with the weight of PatchNCE and its share of the gradient."""
    rows = []
    for name, r in aggregate(records, "row", [*MEASURES, "weight", "share"]).items():
        costs = [_shown(r["seconds"], ".0f", 1000), _shown(r["peak_mb"], ".0f")]
        last = costs if price else [_shown(r["weight"], ".3g"), _shown(r["share"], ".1f", 100)]
        right, structure = _shown(r["accuracy"], ".0f", 100), _shown(r["structure"], ".2f", 100)
        rows.append([name, right, r["psnr"], 100 * r["background"].value, r["sharpness"], structure, *last])
    header = ["", "right, %", "PSNR, dB", "background, %", "sharpness", "structure, %"]
    return markdown_table(header + (["ms / step", "peak, MB"] if price else ["weight", "share, %"]), rows)


def gradients_table(directions: Sequence[Mapping[str, float]]) -> str:
    """Norms and cosines at each timestep."""
    columns = {
        "t": "t", "aligned": "SDS, aligned", "unaligned": "SDS, unaligned", "dds": "DDS",
        "aligned_norms": "of norms: aligned", "unaligned_norms": "unaligned", "dds_norms": "DDS",
        "cosine": "cosine", "cosine_others": "cosine, others",
    }  # fmt: skip
    return markdown_table([*columns.values()], [[r[c] for c in columns] for r in directions])


def samples_table(samples: Sequence[Mapping[str, Any]]) -> str:
    """Spread of samples, and what the reading network says of them, with and without the look in the caption."""
    rows = []
    for left_open in (False, True):
        some = [r for r in samples if r["left_open"] == left_open]
        for name, r in aggregate(some, "row", ("spread", "found", "look", "same")).items():
            read = [_shown(r["found"], ".0f", 100), _shown(r["look"], ".0f", 100), r["same"]]
            rows.append([name, "open" if left_open else "said", r["spread"].n, _shown(r["spread"], ".3f"), *read])
    return markdown_table(["", "look", "captions", "spread", "found, %", "looks as said, %", "agreement"], rows)


def to_markdown(found: Mapping[str, Sequence[Mapping[str, Any]]], about: Mapping[str, Any]) -> str:
    """The page, of those parts that were measured."""
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
    ]
    if "methods" in found:
        parts.append(edits_table(found["methods"], price=True))
    if "contrast" in found:
        parts += [
            "## CDS where its term counts\n\n"
            "Weights of PatchNCE are chosen by its share of the gradient |c| / (|c| + |r|), measured at sources and "
            "truths; that in the table is what it was while pictures were edited.\n",
            edits_table(found["contrast"], price=False),
        ]
    if "gradients" in found:
        parts += [
            f"## Gradients averaged over {about['draws']} noises\n\n"
            f"Of {min(about['pairs'], about['tasks'])} edits. Norms of the mean gradient, which is the bias: SDS with "
            "the picture's own caption, SDS with another one's, DDS between an edited picture and its source. Then, as "
            "published, means of norms. Cosines: SDS gradients of an edited picture and of its source under one noise, "
            "and of different scenes.\n\n![Norms over t](gradients.svg)\n",
            gradients_table(found["gradients"]),
        ]
    if "samples" in found:
        parts += [
            "## Samples of one caption\n\nSpread: mean root mean square difference of two of them. The captions are "
            "of one thing, whose look they say or leave open. A network reads the samples: how many show the thing, "
            "how many of these look as in the picture the caption is of, which share has the most frequent look.\n",
            samples_table(found["samples"]),
        ]
    if "networks" in found:
        parts += [
            "## Networks that edit in one pass\n\n"
            f"Two edits (by night, in snow) learnt in {about['network_steps']} steps of 8 of the clear summer days "
            f"among {about['pupils']} scenes, lr {about['network_lr']:g}; judged on held-out pictures. "
            "Variety: distance of results from each other over that of the truths.\n",
            networks_table(found["networks"]),
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
