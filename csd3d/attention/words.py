"""Words and tokens: which tokens a word has become, and which token of one sentence is which of another."""

from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Word:
    """A word of a sentence, or a mark such as a comma."""

    text: str
    tokens: tuple[int, ...]
    """Numbers of its tokens among those that the network reads."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of a sentence: one that begins it, those of the words, one that ends it, and padding."""

    words: tuple[Word, ...]
    length: int
    """With begin, end and padding."""

    @property
    def end(self) -> int:
        """Number of the token after the last word."""
        return 1 + sum(len(word.tokens) for word in self.words)

    def places(self, phrase: str) -> tuple[int, ...]:
        """Tokens of a word, or of words that follow each other, wherever they stand; none if they are not there. Upper
        case counts as lower."""
        wanted, found = "".join(phrase.lower().split()), set[int]()
        for start in range(len(self.words)):
            spelt = ""
            for stop in range(start, len(self.words)):
                spelt += self.words[stop].text.lower()
                if spelt == wanted:
                    found.update(token for word in self.words[start : stop + 1] for token in word.tokens)
                if len(spelt) >= len(wanted):
                    break
        return tuple(sorted(found))

    def find(self, phrase: str) -> tuple[int, ...]:
        """The same. Raises ValueError if they are not in the sentence."""
        if not (found := self.places(phrase)):
            named = " ".join(word.text for word in self.words) or "no words"
            raise ValueError(f"word: expected one of the prompt ({named}), got {phrase!r}")
        return found


def align(old: Tokens, new: Tokens) -> tuple[Float[Tensor, "l_old l_new"], Bool[Tensor, " l_new"]]:
    """Which tokens of `old` each token of `new` stands for, and which of `new` are added.

    Column j of the matrix says what token j of `new` takes: an equal word takes its own tokens, words in the place of
    others the sum of theirs in equal parts, begin, end and padding theirs. It is 0 for added words. For two sentences
    of the same words it is the identity. Words are matched in order (Ratcliff and Obershelp), so a word that stands
    twice is not mistaken.
    """
    matrix, added = torch.zeros(old.length, new.length), torch.zeros(new.length, dtype=torch.bool)
    matrix[0, 0] = 1.0
    texts = [[word.text.lower() for word in tokens.words] for tokens in (old, new)]
    for what, a, b, c, d in SequenceMatcher(None, *texts, autojunk=False).get_opcodes():
        theirs = [token for word in old.words[a:b] for token in word.tokens]
        ours = [token for word in new.words[c:d] for token in word.tokens]
        if what == "insert":
            added[ours] = True
        elif len(theirs) == len(ours):
            matrix[theirs, ours] = 1.0
        elif ours:
            matrix[torch.tensor(theirs)[:, None], torch.tensor(ours)] = 1.0 / len(ours)
    for j in range(new.end, new.length):
        matrix[min(old.end + j - new.end, old.length - 1), j] = 1.0
    return matrix, added
