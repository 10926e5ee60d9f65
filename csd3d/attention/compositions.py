"""Published methods of control, each a few lines over sites: what sources leave behind, what targets make of it.

The papers run two trajectories of denoising side by side, one of the source and one of the edit. Here both are in one
step: the noisy source s_t and the noisy particle z_t have the same t and the same noise, and each particle looks at its
own source. "The first 80 % of the steps" is the noisiest 80 % of timesteps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from csd3d.attention.bank import Bank
from csd3d.attention.control import Control, Leave, Qkv, Weigh
from csd3d.attention.rows import Rows
from csd3d.attention.score import Controllable
from csd3d.attention.sites import Site, choose
from csd3d.attention.words import Tokens, align
from csd3d.engine.validate import require_number

MOST_LAYOUT = 16 * 16
"""Places of the largest self-attention whose probabilities Prompt-to-Prompt replaces."""


@runtime_checkable
class Composition(Protocol):
    """A method, with its settings."""

    sees_sources: ClassVar[bool]
    """Whether targets look at their noisy sources."""

    def require(self, score: Controllable) -> None:
        """Raises ValueError if the prior or its sentences cannot serve it."""
        ...

    def leave(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """What sources leave in `bank`; none, if targets do not look at their sources."""
        ...

    def take(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """What is changed for targets. With other rows than those of targets it is never asked."""
        ...


@dataclass(frozen=True)
class Reweight:
    """How strongly one word, or some that follow each other, works: A[:, j] <- scale A[:, j] (Hertz et al. 2023).

    Probabilities are not normalised again. 1 changes nothing, 0 hides the word, -2 to 2 are usual.
    """

    sees_sources: ClassVar[bool] = False

    word: str
    """Of the prompt."""
    scale: float
    """1 = as it is."""

    def __post_init__(self) -> None:
        require_number(self, -10, 10, "scale")

    def require(self, score: Controllable) -> None:
        """The word must be in one of the prompts."""
        sentences = score.read("target")
        if not any(tokens.places(self.word) for tokens in sentences):
            sentences[0].find(self.word)

    def leave(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Nothing."""
        return ()

    def take(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Columns of the word, times `scale`, in rows that read it."""

        def weigh(site: Site, rows: Rows, A: Float[Tensor, "b heads n m"]) -> Float[Tensor, "b heads n m"]:
            factor = torch.ones(len(rows), 1, 1, A.shape[3], dtype=A.dtype, device=A.device)
            for i, tokens in enumerate(rows.tokens):
                factor[i, :, :, list(tokens.places(self.word))] = self.scale
            return A * factor

        def reads(rows: Rows) -> bool:
            return any(tokens.places(self.word) for tokens in rows.tokens)

        return [] if self.scale == 1 else [Control(choose(score.sites, kind="cross"), reads, weigh=weigh)]


@dataclass(frozen=True)
class PromptToPrompt:
    """Layout of the source kept while words change (Hertz et al. 2023), for captions.

    Cross-attention: a token of the target's caption takes the map of the source's token that it stands for, an added
    one its own, as `align` says; so a swapped word appears where the old one was. Self-attention: the source's maps,
    where they are of at most 16 x 16 places. Both only in the branch that reads the caption; values are the target's.
    """

    sees_sources: ClassVar[bool] = True

    cross_until: float = 0.8
    """Share of the timesteps, from noise, in which cross-attention is the source's."""
    self_until: float = 0.4
    """The same of self-attention."""

    def __post_init__(self) -> None:
        require_number(self, 0, 1, "cross_until", "self_until")

    def require(self, score: Controllable) -> None:
        """Sources must have captions."""
        if not score.read("source"):
            raise ValueError("p2p: expected a caption of the source, which only text-to-image priors take, got none")

    def leave(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Probabilities."""

        def keep(site: Site, rows: Rows, A: Tensor) -> Tensor:
            bank.write(site, rows, A)
            return A

        return self._controls(score, size_lat, keep)

    def take(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """The source's probabilities."""

        def weigh(site: Site, rows: Rows, A: Float[Tensor, "b heads n m"]) -> Float[Tensor, "b heads n m"]:
            changed = list(A)
            for i, (branch, particle) in enumerate(zip(rows.branch, rows.particle, strict=True)):
                if branch == "text":
                    (theirs,) = bank.read(site, "source", [branch], [particle])
                    old = bank.tokens("source", branch, particle)
                    changed[i] = theirs[0] if site.kind == "self" else transferred(theirs[0], A[i], old, rows.tokens[i])
            return torch.stack(changed)

        return self._controls(score, size_lat, weigh)

    def _controls(self, score: Controllable, size_lat: tuple[int, int], weigh: Weigh) -> list[Control]:
        small = [site for site in choose(score.sites, kind="self") if site.places(size_lat) <= MOST_LAYOUT]
        return [
            Control(choose(score.sites, kind="cross"), noisiest(self.cross_until), weigh=weigh),
            Control(small, noisiest(self.self_until), weigh=weigh),
        ]


@dataclass(frozen=True)
class PlugAndPlay:
    """Structure of the source kept while its look changes (Tumanyan et al. 2023).

    Targets take the source's queries and keys in the decoder's self-attentions but the first, and what leaves the
    second residual block of the decoder's second block, in every branch. Values are the target's.
    """

    sees_sources: ClassVar[bool] = True

    features_until: float = 0.8
    """Share of the timesteps, from noise, in which the residual block is the source's."""
    attention_until: float = 0.5
    """The same of queries and keys."""

    def __post_init__(self) -> None:
        require_number(self, 0, 1, "features_until", "attention_until")

    def require(self, score: Controllable) -> None:
        """The decoder must have such a block."""
        if not self._block(score):
            raise ValueError("pnp: expected a decoder of two blocks or more with two residual blocks each, got fewer")

    def leave(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """q, k, and what leaves the residual block."""

        def qkv(site: Site, rows: Rows, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            bank.write(site, rows, q, k)
            return q, k, v

        def leave(site: Site, rows: Rows, x: Tensor) -> Tensor:
            bank.write(site, rows, x)
            return x

        return self._controls(score, qkv, leave)

    def take(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Those of the source."""

        def qkv(site: Site, rows: Rows, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, k = of_sources(score, bank, site, rows)
            return q, k, v

        def leave(site: Site, rows: Rows, x: Tensor) -> Tensor:
            return of_sources(score, bank, site, rows)[0]

        return self._controls(score, qkv, leave)

    def _controls(self, score: Controllable, qkv: Qkv, leave: Leave) -> list[Control]:
        _, *later = choose(score.sites, kind="self", places=("up",)) or (None,)
        return [
            Control([site for site in later if site], noisiest(self.attention_until), qkv=qkv),
            Control(self._block(score), noisiest(self.features_until), leave=leave),
        ]

    def _block(self, score: Controllable) -> list[Site]:
        return [site for site in choose(score.sites, kind="resnet") if site.name == "up_blocks.1.resnets.1"]


@dataclass(frozen=True)
class MasaCtrl:
    """Identity of the source kept while shapes and poses change (Cao et al. 2023): mutual self-attention.

    In the decoder's self-attentions at levels 0 and 1 a target's queries look at the keys and values of its source,
    instead of its own, once the prompt has set the layout.
    """

    sees_sources: ClassVar[bool] = True

    after: float = 0.08
    """Share of the timesteps, from noise, in which attention is still the target's own."""

    def __post_init__(self) -> None:
        require_number(self, 0, 1, "after")

    def require(self, score: Controllable) -> None:
        """The decoder must have self-attentions there."""
        if not self._sites(score):
            raise ValueError("masactrl: expected self-attentions in the decoder at levels 0 and 1, got none")

    def leave(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Keys and values."""
        return [Control(self._sites(score), later_than(self.after), qkv=keeping(bank))]

    def take(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Those of the source instead."""

        def qkv(site: Site, rows: Rows, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            k, v = of_sources(score, bank, site, rows)
            return q, k, v

        return [Control(self._sites(score), later_than(self.after), qkv=qkv)]

    def _sites(self, score: Controllable) -> tuple[Site, ...]:
        return choose(score.sites, kind="self", places=("up",), levels=(0, 1))


@dataclass(frozen=True)
class KvFusion:
    """The source seen beside the particle itself: K = [K_own; K_source], V = [V_own; V_source] in every self-attention.

    Softer than `MasaCtrl`: what is new in the particle stays its own.
    """

    sees_sources: ClassVar[bool] = True

    def require(self, score: Controllable) -> None:
        """Nothing."""

    def leave(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Keys and values."""
        return [Control(choose(score.sites, kind="self"), qkv=keeping(bank))]

    def take(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Those of the source too."""

        def qkv(site: Site, rows: Rows, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            k_source, v_source = of_sources(score, bank, site, rows)
            return q, torch.cat([k, k_source], 2), torch.cat([v, v_source], 2)

        return [Control(choose(score.sites, kind="self"), qkv=qkv)]


def transferred(
    theirs: Float[Tensor, "heads n l_old"], own: Float[Tensor, "heads n l_new"], old: Tokens, new: Tokens
) -> Float[Tensor, "heads n l_new"]:
    """Cross-attention of a source for the sentence `new`: `own` for added tokens, else what `align` gives of theirs."""
    matrix, added = align(old, new)
    return torch.where(added.to(own.device), own, theirs @ matrix.to(theirs))


def keeping(bank: Bank) -> Qkv:
    """Leaves keys and values in `bank`, changes nothing."""

    def qkv(site: Site, rows: Rows, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bank.write(site, rows, k, v)
        return q, k, v

    return qkv


def of_sources(score: Controllable, bank: Bank, site: Site, rows: Rows) -> tuple[Shaped[Tensor, "b ..."], ...]:
    """What each row's own source has left, in the branch that its branch is compared with."""
    return bank.read(site, "source", [score.source_branch[branch] for branch in rows.branch], rows.particle)


def noisiest(share: float) -> Callable[[Rows], bool]:
    """In that share of the timesteps which is nearest to noise."""
    return lambda rows: share > 0 and rows.noise >= 1 - share


def later_than(share: float) -> Callable[[Rows], bool]:
    """In all timesteps but that share which is nearest to noise."""
    return lambda rows: not noisiest(share)(rows)
