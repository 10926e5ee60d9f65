"""Cross-Image attention (Alaluf et al. 2024): the look of a reference picture, while the layout stays one's own.

    A   = softmax(q k_r^T / sqrt(d))        A <- clip(b (A - 1/m) + 1/m, 0, 1)        x = A v_r
    e   <- e + s(t) (e_r - e)               s(t) = scale (1 + t / T) / 2
    x0^ <- sigma_r (x0^ - mu) / sigma + mu_r                                          AdaIN, of each channel

k_r, v_r   keys and values of m places of the reference, in the decoder's self-attentions at levels 0 and 1
b          contrast, which raises the variance of A
e, e_r     guided predictions without and with these, of the particle at the same level
mu, sigma  mean and standard deviation of x0^ over the places of the step's anchors, of the reference's latents with r;
           over those of a particle itself where it is alone

The reference is noised to the level of the step, always with the same noise, and read without a sentence, once a level,
whatever looks at it. The paper inverts both pictures and follows them for 100 steps; "steps 10 to 90" are shares of
the timesteps here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.attention.bank import Bank
from csd3d.attention.compositions import keeping
from csd3d.attention.control import Control
from csd3d.attention.rows import Rows
from csd3d.attention.score import Controllable
from csd3d.attention.sites import Site, choose
from csd3d.engine.ddim import clean
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Latents, Noised
from csd3d.engine.validate import require_number

COLOURS_AFTER = 0.2
"""Share of the timesteps, from noise, in which colours are not moved yet."""
Statistics = tuple[Float[Tensor, "c 1 1"], Float[Tensor, "c 1 1"]]
"""Mean and standard deviation of each channel."""


@dataclass(frozen=True)
class CrossImage:
    """The look of a reference picture; a `Composition` whose part beside the sources is done by `AttendedScore`."""

    sees_sources: ClassVar[bool] = False

    contrast: float = 1.67
    """b; 1 leaves attention as it is."""
    scale: float = 3.5
    """Of the guidance between looking at oneself and at the reference, at pure noise; half of it without noise."""
    after: float = 0.1
    """Share of the timesteps, from noise, in which particles look at themselves."""
    until: float = 0.9
    """Share of the timesteps, from noise, after which they do so again at level 0."""
    coarse_until: float = 0.7
    """The same at level 1."""
    colours: float = 1.0
    """How far colours go to those of the reference by AdaIN: 0 = not at all, 1 = all the way."""

    def __post_init__(self) -> None:
        require_number(self, 1, 10, "contrast")
        require_number(self, 0, 20, "scale")
        require_number(self, 0, 1, "after", "until", "coarse_until", "colours")

    def require(self, score: Controllable) -> None:
        """The decoder must have self-attentions there."""
        if not self.sites(score):
            raise ValueError("like: expected self-attentions in the decoder at levels 0 and 1, got none")

    def leave(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Nothing."""
        return ()

    def take(self, score: Controllable, bank: Bank, size_lat: tuple[int, int]) -> Sequence[Control]:
        """Nothing: particles are predicted with and without."""
        return ()

    def sites(self, score: Controllable) -> tuple[Site, ...]:
        """Where particles look at the reference."""
        return choose(score.sites, kind="self", places=("up",), levels=(0, 1))

    def acts(self, score: Controllable, t: int) -> tuple[Site, ...]:
        """Where they do so at timestep `t`."""
        left = t / score.schedule.num_timesteps
        if self.scale == 0 or left >= 1 - self.after:
            return ()
        return tuple(s for s in self.sites(score) if left >= 1 - (self.coarse_until if s.level else self.until))

    def strength(self, schedule: Schedule, t: int) -> float:
        """s(t)."""
        return self.scale * (1 + t / schedule.num_timesteps) / 2

    def looking(self, score: Controllable, sites: Sequence[Site], left: Bank) -> Control:
        """The control by which targets look at what the reference has left."""

        def qkv(site: Site, rows: Rows, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            branches = [score.wordless_branch[branch] for branch in rows.branch]
            k_r, v_r = left.read(site, "target", branches, [0] * len(branches))
            return q, k_r, v_r

        def weigh(site: Site, rows: Rows, A: Float[Tensor, "b heads n m"]) -> Float[Tensor, "b heads n m"]:
            return contrasted(A, self.contrast)

        return Control(sites, qkv=qkv, weigh=None if self.contrast == 1 else weigh, by_query=True)

    def moves_colours(self, schedule: Schedule, t: int) -> bool:
        """Whether AdaIN acts at timestep `t`."""
        return self.colours > 0 and t / schedule.num_timesteps < 1 - COLOURS_AFTER

    def coloured(self, e: Latents, x: Noised, ab: float, own: Statistics | None, theirs: Statistics) -> Latents:
        """A prediction `e` of `x` at level `ab` whose x0^ has their colours; `own` None: each particle has its own."""
        x0 = clean(x.z_t, e, ab)
        mean, deviation = (
            (x0.mean((2, 3), keepdim=True), _deviation(x0, (2, 3))) if own is None else (part.to(x0) for part in own)
        )
        mean_r, deviation_r = (part.to(x0) for part in theirs)
        moved = (x0 - mean) * (deviation_r / deviation) + mean_r
        return e - self.colours * (ab / (1 - ab)) ** 0.5 * (moved - x0)


class Reference:
    """A picture that others are to be like."""

    def __init__(self, z: Float[Tensor, "1 c h w"]) -> None:
        """`z`: its clean latents, of any size."""
        self.z = z
        self.e = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
        self._t: int | None = None
        self._bank = Bank()

    @property
    def colours(self) -> Statistics:
        """Of its latents."""
        return statistics(self.z)

    def left(self, score: Controllable, sites: Sequence[Site], t: int) -> Bank:
        """Its keys and values at `sites` at timestep `t`, which is asked for once; of the level before none are left.

        The network is not to be controlled meanwhile.
        """
        if t != self._t:
            self._t = None
            self._bank.clear()
            z_t = score.schedule.add_noise(self.z, self.e, t)
            x = Noised(self.z, self.z, torch.zeros(1, dtype=torch.int64), self.e, t, z_t, z_t)
            with score.controlled([Control(sites, qkv=keeping(self._bank))]):
                for branch in dict.fromkeys(score.wordless_branch.values()):
                    score.target_branch(x, branch)
            self._t = t
        return self._bank


def contrasted(A: Float[Tensor, "*b n m"], contrast: float) -> Float[Tensor, "*b n m"]:
    """clip(b (A - 1/m) + 1/m, 0, 1); rows then sum to 1 or more."""
    mean = A.mean(-1, keepdim=True)
    return (contrast * (A - mean) + mean).clamp(0, 1)


def statistics(z: Latents) -> Statistics:
    """Over all places of all latents."""
    return z.mean((0, 2, 3), keepdim=True)[0], _deviation(z, (0, 2, 3))[0]


def _deviation(z: Latents, over: tuple[int, ...]) -> Float[Tensor, "_n c 1 1"]:
    return z.std(over, correction=0, keepdim=True).clamp_min(1e-6)
