"""What the benchmark of personal priors found, as a page of markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from csd3d.metrics import markdown_table
from scripts.benchmarks.steering_tables import share

Answer = Mapping[str, Any]
"""One picture: `look`; `of` the subject, another thing, or another thing `without` the word; whether the thing is
`there`; and `right`: there with the look."""

SEEN = ("there", "with the look")


@dataclass(frozen=True)
class Asked:
    """One caption that is asked for."""

    shape: str
    caption: str
    """With `{}` for the look, unless it is not said."""
    said: bool = True


def line(name: str, answers: Sequence[Answer]) -> list[object]:
    """One way: the subject, other things, other things without the word."""
    cells: list[object] = [name]
    for of in ("subject", "other", "without"):
        some = [answer for answer in answers if answer["of"] == of]
        cells += [len(some), share([a["there"] for a in some]), share([a["right"] for a in some])] if some else [""] * 3
    return cells


def to_markdown(found: Mapping[str, Sequence[Answer]], reader: tuple[int, int], about: Mapping[str, Any]) -> str:
    """The page.

    Args:
        found: answers of each way, over all looks.
        reader: right answers of the network that reads pictures about real ones, and questions.
        about: settings.
    """
    answered = share([True] * reader[0] + [False] * (reader[1] - reader[0]))
    looks = list(about["looks"])
    parts = [
        "# Looks learnt from pictures of one subject\n\n"
        f"Prior `{about['prior']}`, {about['learning']} steps of learning from {about['pictures']} pictures that it "
        f"drew of a ball of one look ({', '.join(looks)}), each for itself. Then DDIM, {about['steps']} steps, s_text "
        f"{about['s_text']:g}, seed {about['seed']}, on a CPU: the ball, and four other things that were not among the "
        "pictures, on six grounds, under captions with the learnt word in the place of the look. A small network reads "
        f"whether the thing is there, and whether it is there *with the look*; asked of real pictures, it is right in "
        f"{answered} % of {reader[1]} questions. In brackets the 95 % interval. *no word*: the same captions without "
        "any, by chance. *without the word*: those again after a LoRA was put in, which should change nothing in them "
        "(an embedding does not, bit for bit).\n",
        markdown_table(
            ["%", *("balls", *SEEN, "other things", *SEEN, "without the word", *SEEN)],
            [line(name, answers) for name, answers in found.items()],
        ),
        "## Other things with the look, look by look\n",
        markdown_table(
            ["%", *looks],
            [
                [
                    name,
                    *(share([a["right"] for a in rows if a["look"] == look and a["of"] == "other"]) for look in looks),
                ]
                for name, rows in found.items()
            ],
        ),
    ]
    return "\n".join(parts)
