"""What the benchmark of composition found, as a page of markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from csd3d.metrics import markdown_table, wilson_interval
from scripts.benchmarks.composition_tables import Row, all_right

PLAIN = "plain"
"""The row with which the others are compared, caption by caption."""


@dataclass(frozen=True)
class Sampled:
    """What came of one way of sampling."""

    rows: Sequence[Row]
    """One a caption, of the first captions."""
    seconds: float
    """For each picture, of the clock: kept beside the table, as it says little where a machine is shared."""


def share(values: Sequence[bool]) -> str:
    """In percent, with the 95 % interval."""
    low, high = wilson_interval(sum(values), len(values))
    return f"{100 * sum(values) / len(values):.1f} ({100 * low:.0f}–{100 * high:.0f})" if values else "–"


def line(name: str, sampled: Sampled, plain: Sequence[Row]) -> list[object]:
    """One way of sampling against the plain one on the same captions and first noises."""
    things = [thing for row in sampled.rows for thing in row["things"]]
    right, before = ([all_right(row) for row in rows] for rows in (sampled.rows, plain[: len(sampled.rows)]))
    gained, lost = (sum(a and not b for a, b in zip(x, y, strict=True)) for x, y in ((right, before), (before, right)))
    few = [[all_right(row) for row in sampled.rows if len(row["things"]) == count] for count in (2, 3)]
    return [
        name,
        len(sampled.rows),
        share([thing["found"] for thing in things]),
        share([thing["right"] for thing in things]),
        share(right),
        *map(share, few),
        "" if name == PLAIN else f"+{gained} -{lost}",
    ]


HEADER = [
    "%", "captions", "things there", "and as named", "all as named", "of two", "of three", "captions won and lost",
]  # fmt: skip


def to_markdown(
    main: Mapping[str, Sampled],
    ablations: Mapping[str, Sampled],
    signal: Mapping[str, tuple[float, int, int]],
    reader: tuple[int, int],
    about: Mapping[str, Any],
) -> str:
    """The page.

    Args:
        main: all captions.
        ablations: the first captions only.
        signal: by when noises are looked at, AUC of their worth, and how many pictures show all things or do not.
        reader: right answers of the network that reads pictures, and questions.
        about: settings.
    """
    plain = main[PLAIN].rows
    n = len(next(iter(ablations.values())).rows) if ablations else 0
    short = {PLAIN: Sampled(plain[:n], main[PLAIN].seconds), **{k: v for k, v in main.items() if k == "conform"}}
    answers = [True] * reader[0] + [False] * (reader[1] - reader[0])
    short = {name: Sampled(sampled.rows[:n], sampled.seconds) for name, sampled in short.items()}
    parts = [
        "# Things that a caption names\n\n"
        f"Prior `{about['prior']}`, DDIM, {about['steps']} steps, s_text {about['s_text']:g}, {about['size_px']} px, "
        f"seed {about['seed']}, on a CPU. {len(plain)} captions of held-out scenes, half of two things and half of "
        "three; all ways begin with the same noise. A small network reads which things are there and the colour or "
        f"material of each; asked of real pictures, it is right in {share(answers)} % of {reader[1]} questions. In "
        "brackets the 95 % interval; *won and lost*: captions all of whose things are as named here and not when "
        "sampled plainly, and the other way round.\n",
        markdown_table(HEADER, [line(name, sampled, plain) for name, sampled in main.items()]),
        f"## What each part of CONFORM does, first {n} captions\n",
        markdown_table(HEADER, [line(name, sampled, plain) for name, sampled in (short | dict(ablations)).items()]),
        "## Does the peak of the least seen noun predict that all things will be there?\n",
        markdown_table(
            ["noise looked at", "AUC", "pictures with all things", "without"],
            [[when, auc, there, missing] for when, (auc, there, missing) in signal.items()],
        ),
    ]
    return "\n".join(parts)
