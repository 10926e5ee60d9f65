"""Structure Diffusion (Feng et al. 2023): colours and materials bound to their things by the values of phrases.

    O = A (V_0 + V_1 + ... + V_k) / (k + 1)

A     cross-attention of the whole caption, with its keys
V_0   its values
V_i   the same, with the tokens of noun phrase i as they are encoded without the rest of the caption

Values are linear in the text, so the mean is taken of embeddings, once for each caption. Without training or gradients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.attention.bank import Bank
from csd3d.attention.control import Control
from csd3d.attention.groups import Group, groups_in, groups_of
from csd3d.attention.rows import Rows
from csd3d.attention.score import Controllable
from csd3d.attention.sites import Site, choose
from csd3d.attention.words import Tokens


@dataclass(frozen=True)
class StructureDiffusion:
    """Noun phrases that are read each for itself too."""

    sees_sources: ClassVar[bool] = False

    groups: str = ""
    """Such as "red ball | blue cube"; empty: as they are found in the caption."""

    def require(self, score: Controllable) -> None:
        """Captions must name things."""
        if not any(self._groups(tokens) for tokens in score.read("target")):
            raise ValueError("structure: expected things in the prompt, such as a red ball, got none")

    def leave(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Nothing."""
        return ()

    def take(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Values of the mean embedding, in rows that read a caption which names things."""
        means: Mapping[Tokens, Tensor] = {
            tokens: self._phrases(score, tokens, groups)
            for tokens in score.read("target")
            if (groups := self._groups(tokens))
        }

        def text(site: Site, rows: Rows, y_k: Tensor, y_v: Tensor) -> tuple[Tensor, Tensor]:
            return y_k, torch.stack([_mean(own, means.get(t)) for own, t in zip(y_v, rows.tokens, strict=True)])

        return [Control(choose(score.sites, kind="cross"), text=text)]

    def _groups(self, tokens: Tokens) -> tuple[Group, ...]:
        return groups_of(tokens, self.groups) if self.groups else groups_in(tokens)

    def _phrases(self, score: Controllable, tokens: Tokens, groups: Sequence[Group]) -> Float[Tensor, "k l d"]:
        """What each phrase has in the place of its tokens; NaN elsewhere, where the caption stays as it is."""
        texts, read = score.encode([group.said for group in groups])
        placed = torch.full_like(texts, torch.nan)
        for i, (group, alone) in enumerate(zip(groups, read, strict=True)):
            assert alone.end - 1 == len(group.phrase)
            placed[i, list(group.phrase)] = texts[i, 1 : alone.end]
        return placed


def _mean(own: Float[Tensor, "l d"], phrases: Float[Tensor, "k l d"] | None) -> Float[Tensor, "l d"]:
    """Of the caption's embedding and the same with each phrase put in."""
    if phrases is None:
        return own
    every = torch.where(phrases.isnan(), own, phrases.to(own))
    return torch.cat([own[None], every]).mean(0)
