"""Sentences to embeddings, by a CLIP text encoder (Radford et al. 2021)."""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from csd3d.attention.words import Tokens, Word
from csd3d.priors.networks.learnt import Learnt, spoken

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer


REMEMBERED = 512
"""Sentences whose embeddings are cached: 60 MB of those of Stable Diffusion 1.x in half precision."""


def sentence_length(tokenizer: "CLIPTokenizer", text_encoder: "CLIPTextModel") -> int:
    """Tokens of a sentence, begin and end included."""
    return min(int(tokenizer.model_max_length), int(text_encoder.config.max_position_embeddings))


class PromptEncoder:
    """Encodes sentences as the Stable Diffusion pipelines do: padded to the tokenizer's length, last hidden state.

    The `REMEMBERED` sentences that were asked for last are not encoded again.
    """

    def __init__(
        self, tokenizer: "CLIPTokenizer", text_encoder: "CLIPTextModel", learnt: Sequence[Learnt] = ()
    ) -> None:
        """`learnt`: words that readers of the network hear differently; each row is then what all of them read."""
        self._tokenizer = tokenizer
        self._encoder = text_encoder
        self._learnt = tuple(learnt)
        self.readers: int = len(self._learnt[0].vectors) if self._learnt else 1
        """How many read a text of their own, one after another in each row."""
        self._known: OrderedDict[str, Tensor] = OrderedDict()
        self.notes: list[str] = []
        """One sentence for every prompt that was too long and cut."""
        self.max_length: int = sentence_length(tokenizer, text_encoder)
        """Tokens of a sentence, begin and end included."""

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "k l d"]:
        """One row a sentence, on the encoder's device and in its precision. Longer ones are cut, and a note is left."""
        return torch.stack([self._one(sentence) for sentence in sentences])

    def _one(self, sentence: str) -> Float[Tensor, "l d"]:
        if sentence not in self._known:
            self._note_if_cut(sentence)
            tokens = self._tokenizer(
                self._spelled(sentence),
                padding="max_length",
                max_length=self.max_length,
                truncation=True,
                return_tensors="pt",
            )
            device = self._encoder.device
            masked = getattr(self._encoder.config, "use_attention_mask", False)
            mask = tokens.attention_mask.to(device) if masked else None
            with torch.no_grad():
                self._known[sentence] = self._heard(tokens.input_ids.to(device), mask)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(sentence)
        return self._known[sentence]

    def _heard(self, ids: Int64[Tensor, "1 l"], mask: Tensor | None) -> Float[Tensor, "sl d"]:
        """What each reader reads, one after another."""
        said = [word for word in self._learnt if torch.isin(ids, torch.tensor(word.ids, device=ids.device)).any()]
        if not said:
            return self._encoder(ids, attention_mask=mask)[0][0].repeat(self.readers, 1)
        parts: list[Tensor] = []
        for reader in range(self.readers):
            with ExitStack() as stack:
                for word in said:
                    stack.enter_context(spoken(self._encoder, word.ids, word.vectors[reader]))
                parts.append(self._encoder(ids, attention_mask=mask)[0][0])
        return torch.cat(parts)

    def copy(self) -> tuple["CLIPTokenizer", "CLIPTextModel"]:
        """Copies of tokenizer and encoder, the encoder in float32 and frozen, to which words may be added."""
        return copy.deepcopy(self._tokenizer), copy.deepcopy(self._encoder).float()

    def _spelled(self, sentence: str) -> str:
        """The sentence with a word that was added as several vectors written as so many tokens."""
        from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin  # slow to import

        spell: Any = TextualInversionLoaderMixin().maybe_convert_prompt  # typed for older tokenizers
        return spell(sentence, self._tokenizer)

    def tokens(self, sentence: str) -> Tokens:
        """Which tokens the words of a sentence become, as far as they are read."""
        ids = self._tokenizer(
            self._spelled(sentence), truncation=True, max_length=self.max_length, verbose=False
        ).input_ids
        words: list[Word] = []
        pieces: list[str] = []
        added, spelt = self._tokenizer.get_added_vocab(), self._tokenizer.convert_ids_to_tokens(ids)[1:-1]
        for place, (piece, after) in enumerate(zip(spelt, [*spelt[1:], ""], strict=False), start=1):
            pieces.append(piece)
            learnt = piece in added or after in added  # one of several vectors is called as the first, with a number
            if piece.endswith("</w>") or not after or (learnt and after != f"{pieces[0]}_{len(pieces)}"):
                text = self._tokenizer.convert_tokens_to_string(pieces).replace("</w>", "").strip()
                words.append(Word(text, tuple(range(place + 1 - len(pieces), place + 1))))
                pieces = []
        return Tokens(tuple(words), self.max_length)

    def _note_if_cut(self, sentence: str) -> None:
        length = len(self._tokenizer(self._spelled(sentence), truncation=False, verbose=False).input_ids)
        if length > self.max_length:
            self.notes.append(
                f"the prompt {sentence!r} has {length} tokens and was cut to the {self.max_length} that the prior reads"
            )
