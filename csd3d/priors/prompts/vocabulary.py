"""The closed set of sentences that a small prior knows.

Read from `vocabulary.json` beside the weights:

    {"edits": {"snow": {"kind": "weather", "wordings": ["make it snowy", "cover everything with snow"]}, ...}}

A prior without that file takes any sentence and has no Vocabulary.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, cached_property
from shlex import quote

FILE_NAME = "vocabulary.json"
ANY_PRIOR = "PRIOR"
"""Stands for the name of a prior that is not known, in what is said."""

_APOSTROPHES = "'\u2019\u02bc"


class UnknownPrompt(ValueError):  # noqa: N818  # what the person did, not what broke
    """What the prior called `title` was never taught. The message names the nearest known, and what lists all."""

    def __init__(self, what: str, nearest: list[str], *, title: str) -> None:
        self.nearest = nearest
        hint = f" (did you mean {' or '.join(map(repr, nearest))}?)" if nearest else ""
        super().__init__(
            f"this prior does not know {what}{hint}; `csd3d priors show {quote(title)}` lists what it knows"
        )


@dataclass(frozen=True)
class Entry:
    """One edit in words."""

    kind: str
    """Its group, e.g. "weather"."""
    wordings: tuple[str, ...]
    """Sentences that ask for it; the first one stands for the edit in lists."""


@dataclass(frozen=True)
class Vocabulary:
    """The edits a prior knows, by name."""

    edits: Mapping[str, Entry]
    title: str = field(default=ANY_PRIOR, compare=False)
    """What the prior is called."""

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        for name, entry in self.edits.items():
            for wording in entry.wordings:
                other = owner.setdefault(normalise(wording), name)
                if other != name:
                    raise ValueError(f"vocabulary: {wording!r} is a wording of both {other!r} and {name!r}")

    def match(self, sentence: str) -> str:
        """The known wording equal to `sentence` up to case, punctuation, accents and spaces, as the prior learnt it.

        Raises:
            UnknownPrompt: There is none. Similar is not enough: a guess could be another edit.
        """
        return self.lookup(sentence)[1]

    def lookup(self, sentence: str) -> tuple[str, str]:
        """The name of the edit that `sentence` asks for, and the matching wording. Raises as `match` does."""
        found = self._index.get(normalise(sentence))
        if found is None:
            raise UnknownPrompt(repr(sentence), self.nearest(sentence), title=self.title)
        return found

    def nearest(self, sentence: str, count: int = 3) -> list[str]:
        """Up to `count` wordings of different edits that look most like `sentence`, best first; may be empty."""
        close = get_close_matches(normalise(sentence), list(self._index), n=8 * count, cutoff=0.5)
        best: dict[str, str] = {}
        for name, wording in (self._index[c] for c in close):
            best.setdefault(name, wording)
        return list(best.values())[:count]

    @cached_property
    def _index(self) -> dict[str, tuple[str, str]]:
        return {normalise(w): (name, w) for name, entry in self.edits.items() for w in entry.wordings}

    @classmethod
    def from_dict(cls, content: Mapping[str, object], *, origin: str = "vocabulary") -> "Vocabulary":
        """From the content of a vocabulary.json. Raises ValueError, naming `origin`, when it is not one."""
        edits = content.get("edits")
        if not isinstance(edits, Mapping) or not edits:
            raise ValueError(f'{origin}: expected {{"edits": {{name: {{"kind", "wordings"}}}}}} with one edit or more')
        return cls({str(name): _entry(entry, f"{origin}: edit {name!r}") for name, entry in edits.items()})

    def to_json(self) -> str:
        """The content of vocabulary.json, in a stable order."""
        edits = {name: {"kind": e.kind, "wordings": list(e.wordings)} for name, e in self.edits.items()}
        return json.dumps({"edits": edits}, indent=1, ensure_ascii=False) + "\n"


def normalise(sentence: str) -> str:
    """Lower-case words and digits with single spaces: what is left of a sentence when only wording counts.

    Accents and punctuation go; letters of any script stay, since what is not understood must not vanish.
    """
    return " ".join("".join(map(_plain, unicodedata.normalize("NFKD", sentence))).casefold().split())


@cache  # a vocabulary is a hundred thousand characters, of forty kinds
def _plain(c: str) -> str:
    """A character of a sentence: letters and digits as they are, signs such as a crossed-out circle as a word."""
    if c.isalnum():
        return c
    kind = unicodedata.category(c)
    if kind[0] == "S" and not c.isascii():
        return f" {c} "
    return "" if kind[0] == "M" or kind == "Cf" or c in _APOSTROPHES else " "


def _entry(content: object, origin: str) -> Entry:
    kind = content.get("kind") if isinstance(content, Mapping) else None
    wordings = content.get("wordings") if isinstance(content, Mapping) else None
    sentences = isinstance(wordings, Iterable) and not isinstance(wordings, str) and tuple(wordings)
    if not isinstance(kind, str) or not sentences or not all(isinstance(w, str) and normalise(w) for w in sentences):
        raise ValueError(f'{origin}: expected a "kind" and a list of "wordings" that are sentences, got {content!r}')
    return Entry(kind, sentences)
