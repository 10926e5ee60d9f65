"""Dense text-to-image (Kim et al. 2023): parts of a caption hold in regions of the picture, in one prediction.

    A = softmax(L + M)        M_ij = l(t) (1 - S_i) (R_ij (max_j L_ij - L_ij) - (1 - R_ij) (L_ij - min_j L_ij))

L      scaled logits of a place i and a token j in cross-attention, or another place j in self-attention
R_ij   cross: 1 where i is in the region of the phrase that token j is of, 0 elsewhere and for tokens of no phrase
       self: 1 where i and j are in one region, or both in none
S_i    share of the picture that the region of i has, or what belongs to none
l(t)   w (t / T)^p, in the noisiest `until` of the timesteps

Only rows that read the phrases are changed. The paper also puts phrases into the caption as they are encoded alone,
which is `csd3d.attention.structure`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, pad

from csd3d.attention.bank import Bank
from csd3d.attention.compositions import noisiest
from csd3d.attention.control import Control
from csd3d.attention.rows import Rows
from csd3d.attention.score import Controllable
from csd3d.attention.sites import Site, choose
from csd3d.attention.words import Tokens
from csd3d.engine.validate import require_number

MOST_PLACES = 32 * 32
"""Of a self-attention that is changed, whose logits appear in memory."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Where phrases hold."""

    phrases: tuple[str, ...]
    """Of the caption."""
    masks: Float[Tensor, "p r h w"]
    """Of each particle by its number, in [0, 1], one for each phrase; of several at a place the last counts."""

    def numbers(self, particles: Sequence[int], size: tuple[int, int]) -> Int[Tensor, "b n"]:
        """Which region each place of maps of `size` is in, from 1; 0 = none. A region that covers no half of any place
        has those that it covers most."""
        shares = interpolate(self.masks[list(particles)].float(), size, mode="area").flatten(2)
        least = shares.amax(2, keepdim=True).clamp(1e-6, 0.5)
        places = torch.zeros_like(shares[:, 0], dtype=torch.int64)
        for r in range(len(self.phrases)):
            places[shares[:, r] >= least[:, r]] = r + 1
        return places


@dataclass(frozen=True)
class Dense:
    """Phrases that hold in regions."""

    sees_sources: ClassVar[bool] = False

    cross: float = 1.0
    """w of cross-attention."""
    within: float = 0.3
    """w of self-attention, where maps have at most 32 x 32 places."""
    power: float = 5.0
    """p."""
    until: float = 0.3
    """Share of the timesteps, from noise."""
    regions: Regions | None = None
    """Phrases and masks."""

    def __post_init__(self) -> None:
        require_number(self, 0, 10, "cross", "within")
        require_number(self, 0, 20, "power")
        require_number(self, 0, 1, "until")

    def require(self, score: Controllable) -> None:
        """Every phrase must be in a prompt, and there must be some."""
        if self.regions is None:
            raise ValueError('dense: expected regions, --region mask.png="a red ball", got none')
        sentences = score.read("target")
        for phrase in self.regions.phrases:
            if not any(tokens.places(phrase) for tokens in sentences):
                sentences[0].find(phrase)

    def leave(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Nothing."""
        return ()

    def take(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """M, added to the logits."""
        small = [site for site in choose(score.sites, kind="self") if site.places(size_lat) <= MOST_PLACES]
        wanted = [(choose(score.sites, kind="cross"), self.cross), (small, self.within)]
        return [Control(sites, noisiest(self.until), bias=self._bias) for sites, weight in wanted if weight > 0]

    def _bias(
        self, site: Site, rows: Rows, q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads m d"]
    ) -> Float[Tensor, "b heads n m"] | None:
        assert self.regions is not None  # as it was required
        reads = [any(tokens.places(phrase) for phrase in self.regions.phrases) for tokens in rows.tokens]
        if not any(reads):
            return None
        own = self.regions.numbers(rows.particle, site.size(rows.size_lat)).to(q.device)
        if site.kind == "self":
            keys, weight = own, self.within
        else:
            keys, weight = torch.stack([self._of_tokens(tokens) for tokens in rows.tokens]).to(q.device), self.cross
        known = k[:, :, : keys.shape[1]]  # what others have added is left alone
        L = (q.float() @ known.float().transpose(2, 3)) * q.shape[3] ** -0.5
        size = weight * rows.noise**self.power * torch.tensor(reads, device=q.device)
        M = modulation(L, own, keys, tokens=site.kind == "cross") * size[:, None, None, None]
        return pad(M, (0, k.shape[2] - keys.shape[1]))

    def _of_tokens(self, tokens: Tokens) -> Int[Tensor, " l"]:
        """Number of the region of each token, 0 = none."""
        assert self.regions is not None
        numbers = torch.zeros(tokens.length, dtype=torch.int64)
        for r, phrase in enumerate(self.regions.phrases):
            numbers[list(tokens.places(phrase))] = r + 1
        return numbers


def modulation(
    L: Float[Tensor, "b heads n m"], places: Int[Tensor, "b n"], keys: Int[Tensor, "b m"], *, tokens: bool
) -> Float[Tensor, "b heads n m"]:
    """M of the module's text at l = 1, of places and keys in regions of these numbers; `tokens`: keys of none belong to
    nobody."""
    R = (places[:, None, :, None] == keys[:, None, None, :]) & ((keys > 0)[:, None, None, :] | (not tokens))
    S = (places[:, :, None] == places[:, None, :]).float().mean(2)[:, None, :, None]
    raised, lowered = L.amax(3, keepdim=True) - L, L - L.amin(3, keepdim=True)
    return (1 - S) * torch.where(R, raised, -lowered)
