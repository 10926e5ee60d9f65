"""Words as masks (`--mask-words`): who reads them, in which sentence, and which of its tokens they are.

    prior                         reader         sentence
    builtin                       builtin:t2i    the words among other things that it knows, which draw attention off
    a text-to-image model         itself         the caption of the source, or the same
    another instruction editor    itself         the instruction, or the words alone if they are not in it

A caption may be given with the words, "the ball: a red ball and a blue cube on grass", which helps most.

In the built-in editor most of the sentence enters beside attention, so that its words attract little of it; the
built-in text-to-image model has the same codec, hence reads the same latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from jaxtyping import Int
from torch import Tensor

from csd3d.attention.score import Controllable
from csd3d.attention.words import Tokens
from csd3d.engine.types import numbers
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.priors.prompts.sentences import assign_texts
from csd3d.priors.prompts.vocabulary import UnknownPrompt

OWN = "instruction"
"""The words of the settings that stand for the things that each sentence names."""
ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True, eq=False)
class Reading:
    """Who reads what."""

    score: Controllable
    """The reader's, at guidance 1."""
    tokens: tuple[Tokens, ...]
    """The sentences that it reads."""
    words: tuple[str, ...]
    """What is looked for in each of them."""
    assign: Int[Tensor, " m"] | None
    """Which sentence each particle reads; None: the only one, or the one of its own number."""

    @property
    def named(self) -> str:
        """What is looked for, to be said."""
        return " or ".join(map(repr, dict.fromkeys(self.words)))

    def places(self, index: Int[Tensor, " n"]) -> list[tuple[int, ...]]:
        """Of particles, the tokens of their words in the sentences that they read."""
        of = assign_texts(self.words, self.assign)
        return [self.tokens[k].places(self.words[k]) for k in numbers(of.places(index))]


def reader_of(prior: Prior) -> Prior:
    """Who reads words for a prior: itself, or the one that knows better where things are."""
    if prior.builtin and prior.kind == "instruct":
        from csd3d.priors.auto import load_prior  # slow to import, and most runs look for no words

        return load_prior("builtin:t2i", device=prior.device)
    return prior


def read_words(words: str, prompts: Prompts, reader: Prior, *, editor: Prior) -> Reading:
    """What `reader` reads to find `words`, or what the sentences themselves name (`OWN`).

    Args:
        words: one or several that follow each other, with an article or without; maybe, after a colon, a caption that
            has them.
        prompts: of the edit.
        reader: of `reader_of`.
        editor: whose sentences `prompts` are.

    Raises:
        ValueError: no words, words that the reader does not know, or that are not in the caption; a prior whose
            attention cannot be read, or whose layers are on several GPUs.
    """
    if reader.how.device_map != "none":
        raise ValueError(f"mask-words: expected none with --device-map balanced, got {words!r}")
    sentences = [prompts.target] if isinstance(prompts.target, str) else list(prompts.target)
    asked, _, said = (part.strip() for part in words.partition(":"))
    captions = [said] * len(sentences) if said else _captions_of(editor, prompts, len(sentences))
    if asked.lower() == OWN:
        wanted = [named_in(s, c, reader.things) for s, c in zip(sentences, captions, strict=True)]
    else:
        wanted = [_plain(asked)] * len(sentences)
    texts = [c or among_others(w, reader.things) for c, w in zip(captions, wanted, strict=True)]
    if reader is editor and editor.kind == "instruct" and not said:
        texts = [s if _holds(s, w) else t for s, w, t in zip(sentences, wanted, texts, strict=True)]
    score = _score(reader, texts, wanted, prompts.assign)
    tokens = score.read("target")
    for sentence, word in zip(tokens, wanted, strict=True):
        if not sentence.places(word):
            caption = " ".join(part.text for part in sentence.words)
            raise ValueError(f"mask-words: expected words of the caption ({caption}), got {word!r}")
    return Reading(score, tokens, tuple(wanted), prompts.assign if len(wanted) > 1 else None)


def among_others(words: str, things: Sequence[str]) -> str:
    """A caption that names the words, and if they name one of the `things` the others beside it: what shows those
    looks at them."""
    mine = next((thing for thing in things if thing in words.lower().split()), None)
    if mine is None:
        return f"the {words}"
    return " and ".join(f"a {words if thing == mine else thing}" for thing in things)


def named_in(sentence: str, caption: str | None, known: Sequence[str]) -> str:
    """The thing that a sentence edits: the first of `known` in an instruction; of a `caption` of the source what the
    sentence has other words for.

    Raises:
        ValueError: nothing is named.
    """
    if caption is None:
        things = [word for word in sentence.lower().replace(",", " ").split() if word in known]
    else:
        old, new = caption.split(), sentence.split()
        changes = SequenceMatcher(
            None, [w.lower() for w in old], [w.lower() for w in new], autojunk=False
        ).get_opcodes()
        changed = [" ".join(old[a:b]).strip(" ,") for what, a, b, _, _ in changes if what in ("replace", "delete")]
        things = [words for words in changed if words]
    if not things:
        raise ValueError(
            f"mask-words: expected the words to look for, such as 'the ball', as {sentence!r} names nothing that can "
            f"be looked for, got {OWN}"
        )
    return things[0]


def _captions_of(editor: Prior, prompts: Prompts, count: int) -> list[str | None]:
    """What the source shows under each of `count` sentences; None: nobody says so."""
    if editor.kind != "text-to-image" or prompts.source is None:
        return [None] * count
    captions = [prompts.source] if isinstance(prompts.source, str) else list(prompts.source)
    return [*captions * count] if len(captions) == 1 else [*captions]


def _plain(words: str) -> str:
    """The words without an article before them. Raises ValueError where nothing is left."""
    first, *others = words.split() or [""]
    plain = " ".join(others if first.lower() in ARTICLES else [first, *others])
    if not plain:
        raise ValueError(f"mask-words: expected what to look for, such as 'the ball', got {words!r}")
    return plain


def _holds(sentence: str, words: str) -> bool:
    return f" {words.lower()} " in f" {sentence.lower()} "


def _score(reader: Prior, texts: Sequence[str], wanted: Sequence[str], assign: Tensor | None) -> Controllable:
    try:
        score = reader.score(Prompts(texts, assign=assign if len(texts) > 1 else None), Guidance(1.0))
    except UnknownPrompt as error:
        things = ", ".join(reader.things) or "other words"
        asked = " or ".join(map(repr, dict.fromkeys(wanted)))
        raise ValueError(f"mask-words: expected what {reader.name} knows ({things}, ...), got {asked}") from error
    if not isinstance(score, Controllable):
        raise ValueError(
            f"mask-words: expected a prior of Stable Diffusion's kind, whose attention can be read, got {reader.name}"
        )
    return score
