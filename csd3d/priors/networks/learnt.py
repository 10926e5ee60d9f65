"""Words whose vectors come from outside a text encoder's table: the same for all readers of a network, or own ones.

    row of token k  <-  V[k]                            textual inversion (Gal et al. 2022)
    row of token k, in what reader s reads  <-  V[s, k]          extended, P+ (Voynov et al. 2023)

The readers of a UNet are its cross-attentions, in order, and last what embeds the text beside the timestep, where there
is such a part. What they read lies one after another, [k (s l) d]; text of the plain length l is read by all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import CLIPTextModel

Arguments = tuple[Tensor, ...]
Keywords = dict[str, Tensor]
PreHook = Callable[[nn.Module, Arguments, Keywords], tuple[Arguments, Keywords]]
"""What a module is called with, as a module is called."""


@dataclass(frozen=True, eq=False)
class Learnt:
    """A word of one token or several, with vectors for each reader."""

    ids: tuple[int, ...]
    """Of its tokens in the tokenizer."""
    vectors: Float[Tensor, "s v d"]


def token_names(word: str, count: int) -> list[str]:
    """What the tokens of a word of `count` vectors are called, by diffusers."""
    return [word, *(f"{word}_{k}" for k in range(1, count))]


@contextmanager
def spoken(encoder: "CLIPTextModel", ids: Sequence[int], vectors: Float[Tensor, "v d"]) -> Iterator[None]:
    """Within the context the tokens `ids` have these vectors, through which gradients flow, and not those of the
    table."""

    def put(module: nn.Module, arguments: tuple[Tensor, ...], rows: Tensor) -> Tensor:
        for token, vector in zip(ids, vectors, strict=True):
            rows = torch.where((arguments[0] == token)[..., None], vector.to(rows), rows)
        return rows

    hook = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()


def read_apart(readers: Sequence[nn.Module], length: int) -> None:
    """From now on each of `readers` takes the part of a longer text that is its own; `length` is that of a plain one.
    Instances are changed, no class is."""
    for number, reader in enumerate(readers):
        reader.register_forward_pre_hook(_own_part(number, length), with_kwargs=True)


def _own_part(number: int, length: int) -> PreHook:
    name = "encoder_hidden_states"

    def take(text: Tensor) -> Tensor:
        return text if text.shape[1] == length else text[:, number * length : (number + 1) * length]

    def hook(module: nn.Module, args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
        if name in kwargs:
            return args, {**kwargs, name: take(kwargs[name])}
        return (take(args[0]), *args[1:]), kwargs

    return hook
