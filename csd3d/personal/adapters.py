"""What learns of a subject, beside a frozen copy of a prior's networks: vectors of a new word, or low-rank weights.

    vectors   rows of the new word's tokens in the text encoder's table, V [s v d]; s = 1 (Gal et al. 2022), or one for
              each layer that reads the text (P+, Voynov et al. 2023)
    LoRA      W + (alpha / r) B A at the attentions of the UNet, B = 0 at first (Hu et al. 2021), alpha = r

Gradients reach these alone. What is written is in the layouts that diffusers publishes, [s v d] apart.
"""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from csd3d.personal.config import TOKEN, PersonalConfig
from csd3d.priors.networks.learnt import read_apart, spoken, token_names
from csd3d.priors.prompts.words import Words
from csd3d.priors.text_to_image import TextToImagePrior

LORA_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
"""Ends of the names of the layers that a LoRA changes: those of attentions."""


class Adapter(ABC):
    """What learns, and the network that it is in."""

    unet: nn.Module
    """A copy of the prior's, float32; frozen but for the adapter."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """All that learns, by name."""

    @abstractmethod
    def require(self, captions: Sequence[str]) -> None:
        """Raises UnknownPrompt for captions with other words than the prior knows, and ValueError for those that are
        cut before the word of the subject."""

    @abstractmethod
    def text(self, captions: Sequence[str]) -> Float[Tensor, "b l d"]:
        """Embeddings of captions with `{}`, differentiable by what learns."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What is written, float32, by the names in the file."""

    @property
    @abstractmethod
    def size(self) -> float:
        """How far it is from doing nothing, or how long its vectors are; for a curve."""


class NewWord(Adapter):
    """Vectors of a word that the prior did not have."""

    def __init__(self, prior: TextToImagePrior, config: PersonalConfig) -> None:
        """Raises ValueError for a token that the prior has already, an `init` that it does not know, and a prior whose
        layers read different texts already."""
        if prior.text.readers > 1:
            raise ValueError("embedding: expected none with vectors for each layer where a word is learnt, got one")
        self.unet = prior.copy_unet().requires_grad_(False)
        self._prior, self.word = prior, config.word
        self._tokenizer, self._encoder = prior.text.copy()
        self._ids = _added(self._tokenizer, self.word, config.vectors)
        from csd3d.priors.networks.sites import readers_of  # imports diffusers, which a loaded prior did

        readers = readers_of(self.unet) if config.method == "xti" else ()
        if readers:
            read_apart(readers, prior.text.max_length)
        first = _first_vectors(self._tokenizer, self._encoder, prior, config)
        table: Any = self._encoder.get_input_embeddings()
        rows = max(len(table.weight), max(self._ids) + 1)
        self._encoder.resize_token_embeddings(rows, mean_resizing=False)
        self._encoder.requires_grad_(False)
        self._vectors = nn.Parameter(first.expand(max(1, len(readers)), -1, -1).clone())
        self._extended = bool(readers)

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The vectors."""
        return {"vectors": self._vectors}

    def require(self, captions: Sequence[str]) -> None:
        """See `Adapter`."""
        for caption, whole in ((c, (self._tokens([c]) == self._ids[-1]).any()) for c in captions):
            if not bool(whole):
                length = self._prior.text.max_length
                raise ValueError(
                    f"captions: expected {TOKEN} within the {length} tokens that are read, got {caption!r}"
                )

    def _tokens(self, captions: Sequence[str]) -> Int64[Tensor, "b l"]:
        said = [known_caption(self._prior, caption, self.word) for caption in captions]
        return self._tokenizer(
            [caption.replace(self.word, " ".join(token_names(self.word, len(self._ids)))) for caption in said],
            padding="max_length",
            max_length=self._prior.text.max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self._vectors.device)

    def text(self, captions: Sequence[str]) -> Float[Tensor, "b sl d"]:
        """What each reader reads, one after another."""
        ids, parts = self._tokens(captions), list[Tensor]()
        for vectors in self._vectors:
            with spoken(self._encoder, self._ids, vectors):
                parts.append(self._encoder(ids)[0])
        return torch.cat(parts, 1)

    def tensors(self) -> dict[str, Tensor]:
        """One tensor, called as the word: [v d], or [s v d]."""
        return {self.word: self._vectors if self._extended else self._vectors[0]}

    @property
    def size(self) -> float:
        """Mean length of a vector."""
        return float(self._vectors.detach().norm(dim=-1).mean())


class LowRank(Adapter):
    """Low-rank weights in the attentions of the UNet, by peft."""

    def __init__(self, prior: TextToImagePrior, config: PersonalConfig) -> None:
        """Raises ValueError without peft."""
        if importlib.util.find_spec("peft") is None:
            raise ValueError('method: lora needs peft: pip install "csd3d[families]"')
        from peft import LoraConfig

        unet: Any = prior.copy_unet().requires_grad_(False)  # which diffusers extends
        with torch.random.fork_rng(devices=[]):  # peft draws A from the global generator
            torch.manual_seed(config.seed)
            unet.add_adapter(LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=list(LORA_LAYERS)))
        self.unet, self._prior, self._word = unet, prior, config.word

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """A and B of all layers."""
        return {name: p for name, p in self.unet.named_parameters() if p.requires_grad}

    def require(self, captions: Sequence[str]) -> None:
        """See `Adapter`."""
        self.text(captions)

    def text(self, captions: Sequence[str]) -> Float[Tensor, "b l d"]:
        """As the prior embeds it."""
        return self._prior.embed([caption.replace(TOKEN, self._word) for caption in captions])

    def tensors(self) -> dict[str, Tensor]:
        """A and B, in the layout of diffusers."""
        from peft.utils import get_peft_model_state_dict

        return {f"unet.{name}": value for name, value in get_peft_model_state_dict(self.unet).items()}

    @property
    def size(self) -> float:
        """Root mean square of B, 0 at first."""
        ups = [p.detach().flatten() for name, p in self.parameters.items() if "lora_B" in name]
        return float(torch.cat(ups).square().mean().sqrt())


def make_adapter(prior: TextToImagePrior, config: PersonalConfig) -> Adapter:
    """An untrained one. Raises ValueError as its kind does."""
    return LowRank(prior, config) if config.method == "lora" else NewWord(prior, config)


def known_caption(prior: TextToImagePrior, caption: str, word: str) -> str:
    """A caption with `{}`, with `word` in its place, as the prior learnt captions. Raises UnknownPrompt for other words
    that it does not know."""
    said = caption.replace(TOKEN, word)
    known = prior.vocabulary
    return known.adding([word]).match(said) if isinstance(known, Words) else prior.known(said)


def _added(tokenizer: Any, word: str, count: int) -> tuple[int, ...]:
    """Numbers of a word's new tokens, called as diffusers calls them. Raises ValueError where they are there."""
    names = token_names(word, count)
    if there := [name for name in names if {name, f"{name}</w>"} & set(tokenizer.get_vocab())]:
        raise ValueError(f"token: expected a word that the prior does not have, such as <own>, got {there[0]!r}")
    tokenizer.add_tokens(names)
    return tuple(tokenizer.convert_tokens_to_ids(names))


def _first_vectors(tokenizer: Any, encoder: Any, prior: TextToImagePrior, config: PersonalConfig) -> Tensor:
    """[v d]: of the word `init`, else random ones with mean and spread of the table's. Several differ a little."""
    table = encoder.get_input_embeddings().weight.detach()
    rng = torch.Generator().manual_seed(config.seed)
    noise = torch.randn(config.vectors, table.shape[1], generator=rng).to(table)
    if config.init is None:
        return table.mean(0) + table.std(0) * noise
    ids = tokenizer(prior.known(config.init)).input_ids[1:-1]
    if len(ids) != 1:
        raise ValueError(f"init: expected a word of one token, got {config.init!r}, of {len(ids)}")
    return table[ids[0]] + (0.01 * table.std(0) * noise if config.vectors > 1 else 0 * noise)
