"""Which sentence each particle reads, encoded once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from csd3d.attention.words import Tokens
from csd3d.priors.networks.text import PromptEncoder


@dataclass(frozen=True, eq=False)
class Texts:
    """One or several sentences, and which particle reads which. Make them with `assign_texts`."""

    sentences: tuple[str, ...]
    """One or more."""
    assign: Int[Tensor, " m"] | None
    """Which sentence each particle takes; None: the only one, or the one of its own number."""

    def places(self, index: Int[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Number of the sentence that each particle reads. Raises ValueError for particles that have none."""
        index = index.long()
        if len(self.sentences) == 1:
            return torch.zeros_like(index)
        most = len(self.sentences) if self.assign is None else len(self.assign)
        if bool(((index < 0) | (index >= most)).any()):
            raise ValueError(f"index: expected 0 to {most - 1}, the particles with a prompt, got {index.tolist()}")
        return index if self.assign is None else self.assign.to(index)[index]

    def of(self, index: Int[Tensor, " n"]) -> list[str]:
        """The sentence that each particle reads. Raises as `places` does."""
        return [self.sentences[place] for place in self.places(index).tolist()]


@dataclass(frozen=True, eq=False)
class Sentences:
    """The embeddings of one or several sentences, and of the negative one. Make them with `encode_sentences`."""

    text: Float[Tensor, "k l d"]
    """Row 0: the negative sentence, usually "". Row 1 + p: sentence p."""
    tokens: tuple[Tokens, ...]
    """Of the same rows."""
    texts: Texts
    """The sentences."""

    def rows(self, index: Int[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Row of `text` that each particle reads. Raises ValueError for particles that have no sentence."""
        return 1 + self.texts.places(index)


def assign_texts(prompt: str | Sequence[str], assign: Int[Tensor, " m"] | None, *, name: str = "prompt") -> Texts:
    """One sentence for all particles, or several: particle i takes sentence `assign[i]`, or i if that is None.

    Raises ValueError if there is no sentence, or `assign` points past the last one.
    """
    sentences = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    if not sentences:
        raise ValueError(f"{name}: expected a sentence or more, got none")
    if assign is not None and not bool(((assign >= 0) & (assign < len(sentences))).all()):
        raise ValueError(f"assign: expected numbers from 0 to {len(sentences) - 1}, got {assign.tolist()}")
    return Texts(sentences, None if len(sentences) == 1 else assign)


def encode_sentences(
    encoder: PromptEncoder,
    prompt: str | Sequence[str],
    assign: Int[Tensor, " m"] | None,
    known: Callable[[str], str],
    *,
    negative: str = "",
    name: str = "prompt",
) -> Sentences:
    """The sentences of `assign_texts`, encoded.

    `known` gives a sentence as the prior learnt it, or raises `UnknownPrompt`. Raises as `assign_texts` does.
    """
    texts = assign_texts(prompt, assign, name=name)
    read = [known(sentence) for sentence in (negative, *texts.sentences)]
    return Sentences(encoder.encode(read), tuple(encoder.tokens(sentence) for sentence in read), texts)
