"""What a small prior, trained on drawn pictures, does on photographs: said before the work, and beside its vocabulary.

Read from `photographs.json` beside the weights, which says of each kind of edit whether photographs are edited as the
sentence says: "yes", "in part" (weakly, or in some pictures only), "no". The model card says how that was found out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

from csd3d.priors.prior import Prior
from csd3d.priors.store.resolve import read_json

FILE_NAME = "photographs.json"
Mark = Literal["yes", "in part", "no"]


def read_marks(directory: Path) -> Mapping[str, Mark]:
    """Kind of edit to what it does on photographs; empty where nothing is known. Raises ValueError for other marks."""
    path = directory / FILE_NAME
    if not path.is_file():
        return {}
    marks: dict[str, Mark] = {}
    for kind, mark in read_json(path, "a prior with a damaged list of what it does on photographs").items():
        if mark not in get_args(Mark):
            raise ValueError(f"{path}: expected {', '.join(get_args(Mark))}, got {mark!r}")
        marks[kind] = cast(Mark, mark)
    return marks


def prior_note(prior: Prior, sentences: Sequence[str]) -> str | None:
    """What a person should know of a built-in prior before it works on `sentences`; None of any other."""
    if not prior.builtin:
        return None
    if prior.kind == "text-to-image":
        return (
            "the built-in prior is small and knows a closed set of words; --prior takes any Stable Diffusion 1.x or "
            "2.x (a folder or hub id)"
        )
    marks = read_marks(prior.path)
    kinds = {mark: [kind for kind, own in marks.items() if own == mark] for mark in get_args(Mark)}
    text = "the built-in prior is small and knows a closed set of sentences"
    if marks:
        text += f": on photographs {_joined(kinds['yes'])} work, {_joined(kinds['in part'])} in part"
        text += f", {_joined(kinds['no'])} only in pictures of csd3d world"
    asked = zip(sentences, prior.kinds_of(sentences), strict=False)
    if fails := [sentence for sentence, kind in asked if marks.get(kind) == "no"]:
        text += f" ({', '.join(map(repr, fails))} would damage a photograph)"
    return text + "; --prior timbrooks/instruct-pix2pix (or a folder) uses a big one"


def _joined(words: Sequence[str]) -> str:
    *first, last = words or ("nothing",)
    return f"{', '.join(first)} and {last}" if first else last
