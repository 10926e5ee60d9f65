"""The words that a small text-to-image prior knows. Captions are composed of them freely.

Read from `vocabulary.json` beside the weights:

    {"words": {"things": ["ball", "cube"], "colours": ["red", "blue"], "other": ["a", "and", "on"]}}
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from itertools import chain
from pathlib import Path

from csd3d.priors.loading import PLAIN, Loading
from csd3d.priors.prompts.vocabulary import ANY_PRIOR, FILE_NAME, UnknownPrompt, Vocabulary, normalise
from csd3d.priors.store.files import word_of
from csd3d.priors.store.resolve import Resolved, read_json


class UnknownWords(UnknownPrompt):
    """A caption with words that the prior was never taught."""

    def __init__(self, sentence: str, unknown: list[str], nearest: list[str], *, title: str) -> None:
        self.unknown = unknown
        super().__init__(f"{', '.join(map(repr, unknown))} in {sentence!r}", nearest, title=title)


@dataclass(frozen=True)
class Words:
    """The words a prior knows, by group."""

    groups: Mapping[str, tuple[str, ...]]
    learnt: tuple[str, ...] = ()
    """Words that were added by textual inversion, as sentences spell them."""
    title: str = field(default=ANY_PRIOR, compare=False)
    """What the prior is called."""

    def adding(self, words: Iterable[str]) -> "Words":
        """The same with more learnt words."""
        return replace(self, learnt=(*self.learnt, *words))

    @property
    def by_group(self) -> Mapping[str, tuple[str, ...]]:
        """All words, the learnt ones as a group."""
        return {**self.groups, "learnt": self.learnt} if self.learnt else self.groups

    def match(self, sentence: str) -> str:
        """The caption in lower case, with commas as its only punctuation: as the prior learnt captions.

        Raises:
            UnknownWords: It holds a word that is not known.
        """
        parts = [list(self._split(part)) for part in re.split("[,;]", sentence)]
        caption = ", ".join(" ".join(part) for part in parts if part)
        unknown = [w for w in dict.fromkeys(chain(*parts)) if w not in self._known]
        if unknown:
            spelt = {normalise(w): w for w in sorted(self._known)}  # learnt words have signs and capitals
            nearest = [spelt[near] for w in unknown for near in get_close_matches(w, spelt, n=1, cutoff=0.7)]
            raise UnknownWords(sentence, unknown, nearest, title=self.title)
        return caption

    def _split(self, part: str) -> Iterator[str]:
        """Words in lower case; learnt ones as they are spelt, a full stop behind them left out."""
        for word in part.split():
            plain = word if word in self.learnt else word.rstrip(".:!?")
            yield from [plain] if plain in self.learnt else normalise(word).split()

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(w for group in self.by_group.values() for w in group)

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


def with_learnt(known: Vocabulary | Words | None, how: Loading, *, title: str) -> Vocabulary | Words | None:
    """What a prior called `title` understands with the words of textual inversions. Raises ValueError for one that
    knows no words but whole sentences, and for files that add none."""
    if known is None:
        return None
    known = replace(known, title=title)
    if not how.embeddings:
        return known
    if not isinstance(known, Words):
        raise ValueError(f"embedding: expected none, {title!r} knows a closed set of sentences")
    return known.adding(word_of(path) for path in how.embeddings)


def require_known(found: Resolved, sentences: Iterable[str], how: Loading = PLAIN) -> None:
    """Raises UnknownPrompt for the first sentence that a prior was never taught, by its files alone, before it is
    loaded, ValueError for one that is no UTF-8, which no tokenizer takes, and as `with_learnt` does."""
    known = None if found.path is None else with_learnt(read_known(found.path), how, title=found.name)
    for sentence in filter(str.strip, sentences):
        if any("\ud800" <= c <= "\udfff" for c in sentence):
            raise ValueError(f"prompt: expected text in UTF-8, got {sentence!r}")
        if known is not None:
            known.match(sentence)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value != "" and normalise(value) == value
