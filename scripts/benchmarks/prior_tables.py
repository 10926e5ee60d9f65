"""What an evaluation of a prior found, as numbers for JSON and as a page of markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from csd3d.metrics import Mean, jsonable, markdown_table, mean, wilson_interval

Wording = Literal["trained", "held-out"]
PHOTOS_KIND = "style (photographs)"

OVERALL, EVERY_KIND, WORDING_GAP, IDENTITY_DB, CODEC_WORLD_DB, CODEC_PHOTO_DB = 0.90, 0.75, 0.05, 1.5, 29.0, 27.0
"""What the built-in prior is held to."""


@dataclass(frozen=True)
class Outcome:
    """One edit that was tried."""

    source: str
    edit: str
    kind: str
    wording: Wording
    sentence: str
    nearest: str
    """The edit whose truth the output is nearest to, or "unedited"."""
    nearest_kind: str
    right: bool
    psnr: float
    """Of the output against the right truth, dB."""
    ceiling: float
    """Of the codec's reconstruction of the right truth against it, dB."""


@dataclass(frozen=True)
class Findings:
    """Everything an evaluation measured."""

    outcomes: Sequence[Outcome]
    identity: Mapping[str, Mean]
    """PSNR against the source: "output" for an empty instruction, "absent" for one about a thing that is not there,
    "codec" for its reconstruction."""
    codec: Mapping[str, Mean]
    """PSNR of the codec's reconstruction: "world", and one for every photograph."""
    search: Sequence[Mapping[str, float]]
    """Accuracy and PSNR for each pair of guidance scales that was tried."""
    about: Mapping[str, Any]
    """Prior, settings."""


def share(outcomes: Sequence[Outcome]) -> Mean:
    """Share of the outcomes that are right."""
    return mean(float(o.right) for o in outcomes)


def _of(outcomes: Sequence[Outcome], **wanted: str) -> list[Outcome]:
    return [o for o in outcomes if all(getattr(o, k) == v for k, v in wanted.items())]


def _kinds(outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(o.kind for o in outcomes))


def _world(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.kind != PHOTOS_KIND]


def _photographs(found: Findings) -> Mean:
    return mean(m.value for name, m in found.codec.items() if name != "world")


def bars(found: Findings) -> list[tuple[str, float, str, bool | None]]:
    """What is asked of the built-in prior: what, measured, wanted, reached (None: not measured)."""
    trained = _world(_of(found.outcomes, wording="trained"))
    held_out = _world(_of(found.outcomes, wording="held-out"))
    overall, unseen = share(trained).value, share(held_out).value
    weakest = min((share(_of(trained, kind=k)).value for k in _kinds(trained)), default=float("nan"))
    loss = found.identity["codec"].value - found.identity["output"].value
    world, photos = found.codec["world"].value, _photographs(found).value

    def bar(what: str, value: float, wanted: float, *, most: bool = False) -> tuple[str, float, str, bool | None]:
        reached = None if value != value else (value <= wanted if most else value >= wanted)
        return what, value, f"{'at most' if most else 'at least'} {wanted:g}", reached

    return [
        bar("instruction accuracy, %", 100 * overall, 100 * OVERALL),
        bar("accuracy of the weakest kind, %", 100 * weakest, 100 * EVERY_KIND),
        bar("points lost with wordings never trained on", 100 * (overall - unseen), 100 * WORDING_GAP, most=True),
        bar("dB lost by an empty instruction, beyond the codec", loss, IDENTITY_DB, most=True),
        bar("codec on world pictures, dB", world, CODEC_WORLD_DB),
        bar("codec on photographs, dB", photos, CODEC_PHOTO_DB),
    ]


def to_json(found: Findings, *, records: bool) -> dict[str, Any]:
    """Everything, as strict JSON; the single outcomes only if asked for."""
    edits = {
        name: {w: share(_of(found.outcomes, edit=name, wording=w)) for w in ("trained", "held-out")}
        for name in dict.fromkeys(o.edit for o in found.outcomes if o.kind != PHOTOS_KIND)
    }
    kinds = {
        kind: {w: share(_of(found.outcomes, kind=kind, wording=w)) for w in ("trained", "held-out")}
        for kind in _kinds(found.outcomes)
    }
    whole = {
        "about": found.about,
        "bars": [dict(zip(("what", "value", "wanted", "reached"), b, strict=True)) for b in bars(found)],
        "kinds": kinds,
        "edits": edits,
        "identity": found.identity,
        "codec": found.codec,
        "search": found.search,
    }
    return jsonable(whole | ({"outcomes": [asdict(o) for o in found.outcomes]} if records else {}))


def kinds_table(outcomes: Sequence[Outcome]) -> str:
    """Accuracy by kind, and what the failures came nearest to."""
    rows = []
    groups = [("all", _world(outcomes)), *((k, _of(outcomes, kind=k)) for k in _kinds(outcomes))]
    for name, group in groups:
        trained, held_out = _of(group, wording="trained"), _of(group, wording="held-out")
        n, right = len(trained), sum(o.right for o in trained)
        low, high = wilson_interval(right, n)
        wrong = [o for o in trained if not o.right]
        same = sum(o.nearest_kind == o.kind.split(" (")[0] for o in wrong)
        nothing = sum(o.nearest == "unedited" for o in wrong)
        rows.append(
            [
                name,
                n,
                100 * share(trained).value,
                f"{100 * low:.0f}–{100 * high:.0f}",
                100 * share(held_out).value,
                nothing,
                same,
                len(wrong) - nothing - same,
                mean(o.psnr for o in trained),
                mean(o.ceiling for o in trained),
            ]
        )
    header = ["kind", "n", "right, %", "95 %", "right, %, held-out wording", "unedited", "same kind", "other kind"]
    return markdown_table([*header, "PSNR, dB", "codec, dB"], rows, digits=1)


def edits_table(outcomes: Sequence[Outcome]) -> str:
    """Accuracy of every edit, both wordings together, one row a kind."""
    rows = []
    for kind in _kinds(outcomes):
        group = _of(outcomes, kind=kind)
        shares = {name: share(_of(group, edit=name)) for name in sorted({o.edit for o in group})}
        rows.append([kind, "; ".join(f"{name} {100 * m.value:.0f} ({m.n})" for name, m in shares.items())])
    return markdown_table(["kind", "edit, % right (of)"], rows).replace("---:", "---")


def to_markdown(found: Findings) -> str:
    """The page that goes beside the weights."""
    verdict = {True: "yes", False: "no", None: "not measured"}
    about = found.about
    codec = [[name, m.n, m.value] for name, m in found.codec.items()]
    parts = [
        "# Evaluation of an instruction editor\n\n"
        f"Prior `{about['prior']}` (weights {about['weights']}), diffusers {about['diffusers']}, stock "
        f"`StableDiffusionInstructPix2PixPipeline`, {about['steps']} steps, s_text {about['s_text']:g}, s_image "
        f"{about['s_image']:g}, {about['size_px']} px, seed {about['seed']}; "
        f"`{about['command']}`, {about['minutes']:.1f} minutes.\n",
        "An edit is right if the output is nearer (mean squared error) to its exact truth than to the truth of every "
        "other instruction that applies to the source, and to the unedited source. Sources, and the wordings called "
        "held-out, were never trained on.\n",
        markdown_table(
            ["", "measured", "wanted", "reached"], [[w, v, bar, verdict[ok]] for w, v, bar, ok in bars(found)]
        ),
        "## By kind\n\n"
        "Wrong outputs are counted by what they are nearest to: the unedited source, another edit of the same kind, an "
        "edit of another kind. PSNR is against the right truth, beside what the codec alone would reach.\n",
        kinds_table(found.outcomes),
        "## By edit\n",
        edits_table(_world(found.outcomes)),
        "## Codec and identity\n\n"
        f"With an empty instruction the output has {found.identity['output'].value:.2f} dB against the source, with "
        f"one about a thing that is not there {found.identity['absent'].value:.2f} dB, the codec's own reconstruction "
        f"{found.identity['codec'].value:.2f} dB (mean of {found.identity['output'].n}).\n",
        markdown_table(["reconstruction of", "n", "PSNR, dB"], codec),
    ]
    if found.search:
        table = [[s["s_text"], s["s_image"], int(s["n"]), 100 * s["accuracy"], s["psnr"]] for s in found.search]
        parts += [
            "## Guidance\n\nOn held-out sources of their own.\n",
            markdown_table(["s_text", "s_image", "n", "right, %", "PSNR, dB"], table, digits=1),
        ]
    return "\n".join(parts)
