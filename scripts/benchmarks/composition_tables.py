"""What an evaluation of a text-to-image prior found, as a page of markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from csd3d.metrics import markdown_table, wilson_interval
from csd3d.world.edits import describe
from csd3d.world.scene import COLOURS, Scene
from scripts.benchmarks.composition import LOOKS, SHAPES, Verdict, look_of

Row = dict[str, Any]
"""One caption: `caption`, `things` (a dict each with `shape`, `look`, `found`, `right`), `extra`, `ground`, `time`."""
WANTED = 0.98
"""Share of questions about real pictures that the reading network must answer."""


def rows_of(scenes: Sequence[Scene], verdict: Verdict) -> list[Row]:
    """One row a caption."""
    rows = []
    for i, scene in enumerate(scenes):
        things = []
        for thing in scene.things:
            k, look = SHAPES.index(thing.shape), look_of(thing)
            said = LOOKS[look] if look >= 0 else ""
            found, right = bool(verdict.found[i, k]), bool(verdict.right[i, k])
            things.append({"shape": thing.shape, "look": said, "found": found, "right": right})
        seen = {"extra": bool(verdict.extra[i].any()), "ground": bool(verdict.ground[i]), "time": bool(verdict.time[i])}
        rows.append({"caption": describe(scene), "things": things, **seen})
    return rows


def _share(values: Sequence[bool]) -> str:
    if not values:
        return "–"
    low, high = wilson_interval(sum(values), len(values))
    return f"{100 * sum(values) / len(values):.1f} ({100 * low:.0f}–{100 * high:.0f})"


def all_right(row: Row) -> bool:
    """Whether every thing is there as it is named."""
    return all(t["right"] for t in row["things"])


def _line(name: str, rows: Sequence[Row]) -> list[object]:
    things = [t for r in rows for t in r["things"]]
    return [
        name,
        len(rows),
        _share([t["found"] for t in things]),
        _share([t["right"] for t in things]),
        _share([all_right(r) for r in rows]),
        _share([all_right(r) and not r["extra"] for r in rows]),
        _share([r["ground"] for r in rows]),
        _share([r["time"] for r in rows]),
    ]


def counts_table(rows: Mapping[str, Sequence[Row]]) -> str:
    """Accuracy by the number of things in a caption."""
    lines = []
    for name, some in rows.items():
        lines.append(_line(name, some))
        for count in sorted({len(r["things"]) for r in some}):
            lines.append(
                _line(f"{name}, {count} thing{'s' * (count > 1)}", [r for r in some if len(r["things"]) == count])
            )
    header = ["%", "captions", "things there", "and as named", "all things as named", "and no others", "ground", "time"]
    return markdown_table(header, lines)


def looks_table(rows: Sequence[Row]) -> str:
    """Accuracy of single things by look and by shape."""
    things = [t for r in rows for t in r["things"]]
    groups: dict[str, Callable[[dict[str, Any]], bool]] = {
        "colours": lambda t: t["look"] in COLOURS,
        "materials": lambda t: t["look"] in LOOKS and t["look"] not in COLOURS,
        **{shape: (lambda t, shape=shape: t["shape"] == shape) for shape in SHAPES},
    }
    lines = []
    for name, belongs in groups.items():
        some = [t for t in things if belongs(t)]
        lines.append([name, len(some), _share([t["found"] for t in some]), _share([t["right"] for t in some])])
    return markdown_table(["%", "things", "there", "and as named"], lines)


def to_markdown(
    rows: Mapping[str, Sequence[Row]],
    reader: Mapping[str, tuple[int, int]],
    search: Sequence[Mapping[str, float]],
    about: Mapping[str, Any],
) -> str:
    """The page."""
    read = [
        [name, asked, _share([True] * right + [False] * (asked - right))] for name, (right, asked) in reader.items()
    ]
    right, asked = next(iter(reader.values()))
    parts = [
        "# Evaluation of a text-to-image prior\n\n"
        f"Prior `{about['prior']}` (weights {about['weights']}), DDIM, {about['steps']} steps, s_text "
        f"{about['s_text']:g}, {about['size_px']} px, seed {about['seed']}; `{about['command']}`, "
        f"{about['minutes']:.1f} minutes.\n",
        "One picture for every caption of a held-out scene. A small network, trained on pictures whose scenes are "
        "known (`scripts/benchmarks/composition.py`), reads which things are there, the colour or material of each, "
        "ground and time. In brackets the 95 % interval.\n",
        counts_table(rows),
        "## Single things, generated\n",
        looks_table(next(iter(rows.values()))),
        "## Can the network be believed?\n\n"
        "Asked of real pictures: for every thing that covers half a percent of them or more whether it is there and "
        "as it is, and for as many things that are not there whether they are. "
        f"At least {100 * WANTED:.0f} % right answers on real pictures are wanted: "
        f"{'reached' if right >= WANTED * asked else 'not reached'}.\n",
        markdown_table(["", "questions", "right, %"], read),
    ]
    if search:
        lines = [[f"{s['s_text']:g}", 100 * s["right"], 100 * s["all"]] for s in search]
        parts += [
            f"## Guidance, on {search[0]['n']} other captions\n",
            markdown_table(["s_text", "things as named, %", "all things as named, %"], lines, digits=1),
        ]
    return "\n".join(parts)
