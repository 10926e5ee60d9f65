"""What attention maps should be: energies of the cross-attention maps of a caption, lower = more as it says.

    E_CONFORM = mean over (i, j) of -log  exp(s_ij / tau) / (exp(s_ij / tau) + sum_n exp(s_in / tau))
    E_excite  = max over things of (1 - max over places of A_noun)

s_ij    cosine of the smoothed maps i and j as vectors of places
(i, j)  ordered pairs of maps of one thing: its tokens now, and the same in the step before; n: maps of other things
tau     temperature

CONFORM (Meral et al. 2023) is the NT-Xent loss of those maps, Attend-and-Excite (Chefer et al. 2023) the peak of the
noun that is seen least. Columns of the maps are made comparable first, over tokens at every place:

    all     softmax_j(100 A_j) over all tokens but the first and the last of the sentence's length, as published
    words   A_j / sum_k A_k over the tokens of words alone, for networks that look mostly at padding
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from csd3d.attention.groups import Group
from csd3d.attention.words import Tokens
from csd3d.engine.validate import require

Columns = Literal["all", "words"]
SHARPNESS = 100.0
"""What probabilities are multiplied by before the softmax over tokens."""
SIGMA = 0.5 * math.sqrt(2)
"""Of the Gaussian of 3 x 3 places that smooths maps, in places: what is published as 0.5 and computed so."""


@runtime_checkable
class Energy(Protocol):
    """What is minimised."""

    targets: ClassVar[Mapping[float, float]]
    """Shares of the sampling steps at which a particle is refined, and the energy at which that is enough."""

    @property
    def compares(self) -> bool:
        """Whether it looks at maps of the step before."""
        ...

    def __call__(
        self, maps: Float[Tensor, "l a b"], before: Float[Tensor, "l a b"] | None, groups: Sequence[Group]
    ) -> Float[Tensor, ""]:
        """Of the comparable, smoothed maps of one particle, now and in the step before."""
        ...


@dataclass(frozen=True)
class Contrast:
    """CONFORM. 0 where nothing can be compared: a single thing, or things of one token without a step before."""

    temperature: float = 0.5
    """tau."""
    previous: bool = True
    """Maps of the step before belong to the same things."""
    negatives: bool = True
    """Maps of other things are to differ; without them E is the mean of -s_ij / tau."""
    targets: ClassVar[Mapping[float, float]] = MappingProxyType({0.0: -math.inf, 0.2: -math.inf, 0.4: -math.inf})

    def __post_init__(self) -> None:
        require(self, "temperature", 0 < self.temperature < math.inf, "more than 0")

    @property
    def compares(self) -> bool:
        """As asked for."""
        return self.previous

    def __call__(
        self, maps: Float[Tensor, "l a b"], before: Float[Tensor, "l a b"] | None, groups: Sequence[Group]
    ) -> Float[Tensor, ""]:
        """See the module."""
        numbers = [t for group in groups for t in group.tokens]
        things = torch.tensor([k for k, group in enumerate(groups) for _ in group.tokens], device=maps.device)
        vectors = maps[numbers].flatten(1)
        if self.previous and before is not None:
            vectors, things = torch.cat([vectors, before[numbers].flatten(1)]), torch.cat([things, things])
        if not self.negatives:
            s, pairs = _pairs(vectors, things, self.temperature)
            return -s[pairs].mean() if bool(pairs.any()) else 0 * s.sum()
        return nt_xent(vectors, things, temperature=self.temperature)


@dataclass(frozen=True)
class Excite:
    """Attend-and-Excite."""

    targets: ClassVar[Mapping[float, float]] = MappingProxyType({0.0: 1 - 0.05, 0.2: 1 - 0.5, 0.4: 1 - 0.8})

    @property
    def compares(self) -> bool:
        """Never."""
        return False

    def __call__(
        self, maps: Float[Tensor, "l a b"], before: Float[Tensor, "l a b"] | None, groups: Sequence[Group]
    ) -> Float[Tensor, ""]:
        """See the module. The map of a noun of several tokens is their mean."""
        nouns = torch.stack([maps[list(group.noun)].mean(0) for group in groups])
        return (1 - nouns.amax((1, 2))).amax()


def comparable(A: Float[Tensor, "n l a b"], sentences: Sequence[Tokens], columns: Columns) -> Float[Tensor, "n l a b"]:
    """Maps of which columns can be compared, 0 where tokens do not count. `sentences`: what each particle reads."""
    if columns == "all":
        kept = (SHARPNESS * A[:, 1:-1]).softmax(1)
        return functional.pad(kept, (0, 0, 0, 0, 1, 1))
    is_word = torch.zeros(A.shape[:2], dtype=A.dtype, device=A.device)
    for i, tokens in enumerate(sentences):
        is_word[i, 1 : tokens.end] = 1
    kept = A * is_word[:, :, None, None]
    return kept / kept.sum(1, keepdim=True).clamp_min(torch.finfo(A.dtype).tiny)


def smoothed(maps: Float[Tensor, "n l a b"]) -> Float[Tensor, "n l a b"]:
    """Maps after a Gaussian of 3 x 3 places; what lies beyond a border is mirrored at it."""
    offset = torch.arange(-1, 2, dtype=maps.dtype, device=maps.device)
    line = torch.exp(-(offset**2) / (2 * SIGMA**2))
    kernel = torch.outer(line, line)
    padded = functional.pad(maps.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(padded, (kernel / kernel.sum())[None, None])[:, 0].view_as(maps)


def nt_xent(vectors: Float[Tensor, "m d"], classes: Int[Tensor, " m"], *, temperature: float) -> Float[Tensor, ""]:
    """E_CONFORM of vectors of classes; 0, with a gradient of 0, where there are no pairs of one class or no two."""
    s, pairs = _pairs(vectors, classes, temperature)
    if not bool(pairs.any()) or bool((classes == classes[0]).all()):
        return 0 * s.sum()
    others = s.masked_fill(classes[:, None] == classes, -math.inf).logsumexp(1)
    return functional.softplus(others[:, None] - s)[pairs].mean()


def _pairs(
    vectors: Float[Tensor, "m d"], classes: Int[Tensor, " m"], temperature: float
) -> tuple[Float[Tensor, "m m"], Bool[Tensor, "m m"]]:
    """s / tau of all pairs, and which are pairs of two vectors of one class."""
    unit = functional.normalize(vectors, dim=1)
    other = ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    return unit @ unit.T / temperature, (classes[:, None] == classes) & other
