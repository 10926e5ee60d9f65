"""Which things a caption names, each with what is said of it: groups of tokens, found by the words between them.

English captions are read without a parser: articles, numbers, joints ("and", "with", "next to") and commas end a thing,
its noun is the last word before them, and the words before the noun are its attributes. A place or a time ("on grass",
"at night", "under a pink sky") and a medium ("a drawing of") are no things. What is read wrongly can be said instead:
"red ball | blue cube".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from csd3d.attention.words import Tokens, Word

_ARTICLES = frozenset(
    ["a", "an", "the", "some", "another", "his", "her", "its", "their", "my", "your", "this", "that", "these", "those"]
)
_NUMBERS = frozenset(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "several", "many"])
_PLACING = frozenset(
    (
        "on", "in", "at", "under", "over", "above", "below", "beneath", "inside", "within", "during", "against",
        "across", "around", "by",
    )
)  # fmt: skip
"""A thing after one of these and without an article is where or when the rest is."""
_JOINTS = _PLACING | frozenset(
    (
        "and", "or", "with", "without", "near", "beside", "behind", "between", "next", "to", "from", "into",
        "onto", "of", "for", "while", "but", "as", "like", "is", "are", "has", "have", "holding", "wearing",
        "sitting", "standing", "lying", "riding", "eating", "carrying", "playing", "looking", "walking",
        "running", "flying", "jumping", "swimming", "chasing", "watching", "who", "which", "that",
    )
)  # fmt: skip
_SCENERY = frozenset(
    (
        "sky", "snow", "rain", "fog", "mist", "clouds", "sunset", "sunrise", "sunlight", "night", "day",
        "morning", "evening", "autumn", "winter", "spring", "summer", "background", "foreground", "style",
        "ground", "grass", "sand", "stone", "ice", "lava", "checkerboard",
    )
)  # fmt: skip
"""After a word of `_PLACING` these are no things even with an article."""
_COLOURS = frozenset(
    (
        "red", "green", "blue", "yellow", "purple", "white", "black", "orange", "pink", "brown", "gray", "grey",
        "gold", "golden", "silver",
    )
)  # fmt: skip
"""Two of them with "and" in between are said of one thing."""
_MEDIA = frozenset(
    (
        "photo", "photograph", "picture", "image", "painting", "drawing", "sketch", "rendering", "illustration",
        "render", "art",
    )
)  # fmt: skip
_STYLES = _MEDIA | {"poster", "blueprint", "texture", "place", "negative"}


@dataclass(frozen=True)
class Group:
    """A thing of a caption."""

    text: str
    noun: tuple[int, ...]
    """Its tokens."""
    attributes: tuple[int, ...]
    """Those of the words that go with it."""
    phrase: tuple[int, ...]
    """Those of the whole phrase, article included, which follow each other."""
    said: str
    """The words of the phrase."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of the noun and its attributes, in order."""
        return tuple(sorted({*self.attributes, *self.noun}))


@dataclass
class _Phrase:
    """Words between joints."""

    after: str
    """The joint before it."""
    article: Word | None
    words: list[Word]

    @property
    def noun(self) -> str:
        return self.words[-1].text.lower()

    @property
    def is_scenery(self) -> bool:
        return self.after in _PLACING and (self.article is None or self.noun in _SCENERY)


def groups_in(tokens: Tokens) -> tuple[Group, ...]:
    """The things that a caption names, in order; maybe none.

    Where some things have an article or a number, phrases that have neither count only after "and", "or" or "with".
    """
    phrases = [p for p in _phrases(tokens.words) if not p.is_scenery]
    if any(p.article for p in phrases):
        phrases = [p for p in phrases if p.article or p.after in ("and", "or", "with", "of")]
    found: list[tuple[_Phrase, list[Word]]] = []
    for phrase in phrases:
        if phrase.after == "of" and found:
            medium, _ = found[-1]
            if medium.noun in _MEDIA:
                found.pop()
                found.append((phrase, []))
            else:  # "a bowl of red fruit" is one thing
                found[-1][1].extend(phrase.words)
        else:
            found.append((phrase, []))
    return tuple(_group(phrase, more) for phrase, more in found if phrase.noun not in _STYLES)


def groups_of(tokens: Tokens, text: str) -> tuple[Group, ...]:
    """Those that `text` lists, such as "red ball | blue cube": the last word of each is its noun.

    Words of a group that stand next to each other in the caption are taken there, else each wherever it stands.

    Raises:
        ValueError: a word that the caption has not, a group without words, or words of two groups.
    """
    groups: list[Group] = []
    for part in text.split("|"):
        if not (words := part.split()):
            raise ValueError(f"group: expected words between bars, such as red ball | blue cube, got {text!r}")
        together = tokens.places(part)
        own = [_last_of(tokens, word, together) for word in words]
        every = tuple(sorted({t for some in own for t in some}))
        whole = tuple(range(every[0], every[-1] + 1))
        phrase = every if every == whole else own[-1]
        said = part.strip() if every == whole else words[-1]
        attributes = tuple(t for t in every if t not in own[-1])
        groups.append(Group(part.strip(), own[-1], attributes, phrase, said))
    seen = [t for group in groups for t in group.tokens]
    if len(seen) != len(set(seen)):
        raise ValueError(f"group: expected every word in one group, got {text!r}")
    return tuple(groups)


def _last_of(tokens: Tokens, word: str, together: Sequence[int]) -> tuple[int, ...]:
    """Tokens of a word: within the phrase that it is part of, if the caption has that; else wherever it is."""
    places = tokens.find(word)
    return tuple(t for t in places if t in together) or places


def _phrases(words: Sequence[Word]) -> list[_Phrase]:
    """What stands between joints, marks and articles."""
    phrases: list[_Phrase] = []
    current = _Phrase("", None, [])
    texts = [word.text.lower() for word in words]
    for place, (word, text) in enumerate(zip(words, texts, strict=True)):
        if text == "and" and _COLOURS.issuperset(texts[place - 1 : place] + texts[place + 1 : place + 2]):
            continue
        mark = not any(c.isalnum() for c in text)
        if not (mark or text in _JOINTS or text in _ARTICLES or text in _NUMBERS):
            current.words.append(word)
            continue
        if current.words:
            phrases.append(current)
            current = _Phrase("", None, [])
        if text in _ARTICLES or text in _NUMBERS:
            current.article = word
        elif mark and phrases and phrases[-1].after != "," and _listed(phrases[-1]):
            current.after = "and" if phrases[-1].after in ("and", "") else ","
        else:
            current.after = text if not mark else ","
    return [*phrases, current] if current.words else phrases


def _listed(phrase: _Phrase) -> bool:
    """Whether a comma after it goes on with a list of things."""
    return phrase.article is not None and not phrase.is_scenery


def _group(phrase: _Phrase, more: Sequence[Word]) -> Group:
    *attributes, noun = phrase.words
    counted = [phrase.article] if phrase.article and phrase.article.text.lower() in _NUMBERS else []
    others = [*counted, *attributes, *more]
    whole = [*([phrase.article] if phrase.article else []), *phrase.words]
    return Group(
        " ".join(word.text for word in (*counted, *phrase.words)),
        noun.tokens,
        tuple(t for word in others for t in word.tokens),
        tuple(t for word in whole for t in word.tokens),
        " ".join(word.text for word in whole),
    )
