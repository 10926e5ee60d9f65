"""The words that a small text-to-image prior knows. Captions are composed of them freely.

Read from `vocabulary.json` beside the weights:

    {"words": {"things": ["ball", "cube"], "colours": ["red", "blue"], "other": ["a", "and", "on"]}}
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from csd3d.priors.prompts.vocabulary import FILE_NAME, UnknownPrompt, Vocabulary, normalise
from csd3d.priors.store.resolve import Resolved, read_json


class UnknownWords(UnknownPrompt):
    """A caption with words that the prior was never taught. The message names the nearest known ones, then all."""

    def __init__(self, sentence: str, unknown: list[str], nearest: list[str], known: Mapping[str, list[str]]) -> None:
        self.unknown = unknown
        super().__init__(sentence, nearest, known, what=f"{', '.join(map(repr, unknown))} in {sentence!r}")


@dataclass(frozen=True)
class Words:
    """The words a prior knows, by group."""

    groups: Mapping[str, tuple[str, ...]]

    def match(self, sentence: str) -> str:
        """The caption in lower case, with commas as its only punctuation: as the prior learnt captions.

        Raises:
            UnknownWords: It holds a word that is not known.
        """
        parts = [normalise(part) for part in re.split("[,;]", sentence)]
        caption = ", ".join(part for part in parts if part)
        unknown = [w for w in dict.fromkeys(normalise(sentence).split()) if w not in self._known]
        if unknown:
            nearest = [near for w in unknown for near in get_close_matches(w, sorted(self._known), n=1, cutoff=0.7)]
            raise UnknownWords(sentence, unknown, nearest, {k: list(v) for k, v in self.groups.items()})
        return caption

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(w for group in self.groups.values() for w in group)

    @classmethod
    def from_dict(cls, content: Mapping[str, object], *, origin: str = "vocabulary") -> "Words":
        """From the content of a vocabulary.json. Raises ValueError, naming `origin`, when it is not one."""
        groups = content.get("words")
        groups = groups if isinstance(groups, Mapping) else {}
        if not groups or not all(isinstance(v, list | tuple) and v and all(map(_is_word, v)) for v in groups.values()):
            raise ValueError(f'{origin}: expected {{"words": {{group: [word, ...]}}}} with words in lower case')
        return cls({str(name): tuple(words) for name, words in groups.items()})

    def to_json(self) -> str:
        """The content of vocabulary.json."""
        words = {name: list(group) for name, group in self.groups.items()}
        return json.dumps({"words": words}, indent=1, ensure_ascii=False) + "\n"


def read_known(directory: Path) -> Vocabulary | Words | None:
    """What the prior in `directory` understands; None: anything. Raises ValueError when its file is damaged."""
    path = directory / FILE_NAME
    if not path.is_file():
        return None
    content = read_json(path, "a prior without its vocabulary")
    return (Words if "words" in content else Vocabulary).from_dict(content, origin=str(path))


def require_known(found: Resolved, sentences: Iterable[str]) -> None:
    """Raises UnknownPrompt for the first sentence that a prior was never taught, by its files alone, before it is
    loaded."""
    known = None if found.path is None else read_known(found.path)
    if known is not None:
        for sentence in filter(str.strip, sentences):
            known.match(sentence)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value != "" and normalise(value) == value
