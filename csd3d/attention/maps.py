"""Attention maps of a prior, read while it predicts.

    cross-attention   A[p, j]   how much place p looks at token j       sums to 1 over all tokens
    self-attention    S[p, q]   how much place p looks at place q       sums to 1 over all places

Both are means over the heads of a site and over the sites of one size.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.attention.bank import Bank
from csd3d.attention.control import Control
from csd3d.attention.rows import Role, Rows
from csd3d.attention.score import Controllable
from csd3d.attention.sites import Site, choose
from csd3d.engine.types import Noised


class Maps:
    """Maps of `sites`. `control` fills them in: enter it, let the prior predict, read."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites, self._bank = tuple(sites), Bank()
        self._size_lat = (0, 0)
        self._branches: dict[str, None] = {}
        self.control = Control(self._sites, weigh=self._keep)
        """Changes nothing."""

    @property
    def branches(self) -> tuple[str, ...]:
        """Those of guidance that were predicted, in their order."""
        return tuple(self._branches)

    def cross(self, role: Role, branch: str, particles: Sequence[int], *, level: int) -> Float[Tensor, "n l a b"]:
        """A of all tokens, as maps of a x b places, at the sites of a level.

        Raises:
            ValueError: there are none, or those rows were not predicted.
        """
        maps, size = self._mean(choose(self._sites, kind="cross", levels=(level,)), role, branch, particles)
        return maps.transpose(1, 2).reshape(len(maps), -1, *size)

    def within(self, role: Role, branch: str, particles: Sequence[int], *, level: int) -> Float[Tensor, "n p p"]:
        """S, the places of a map row by row, at the sites of a level. Raises as `cross` does."""
        return self._mean(choose(self._sites, kind="self", levels=(level,)), role, branch, particles)[0]

    def keep_values(self) -> None:
        """What was read so far goes on without its graph."""
        self._bank.detach()

    def _mean(
        self, sites: Sequence[Site], role: Role, branch: str, particles: Sequence[int]
    ) -> tuple[Float[Tensor, "n p m"], tuple[int, int]]:
        if not sites:
            raise ValueError("maps: expected the level of a site that is read, got one that has none")
        branches = [branch] * len(particles)
        kept = [self._bank.read(site, role, branches, particles)[0] for site in sites]
        return torch.stack(kept).mean(0), sites[0].size(self._size_lat)

    def _keep(self, site: Site, rows: Rows, A: Float[Tensor, "b heads p m"]) -> Float[Tensor, "b heads p m"]:
        self._bank.write(site, rows, A.mean(1))
        self._size_lat = rows.size_lat
        self._branches.update(dict.fromkeys(rows.branch))
        return A


def read_maps(score: Controllable, x: Noised, role: Role = "target", *, sites: Sequence[Site] | None = None) -> Maps:
    """Maps of the particles `x` (`target`) or of their noisy sources (`source`); `sites` None: all attentions of at
    most 32 x 32 places.

    The particles are to be read by their numbers `x.index`, in the branches that guidance evaluates.
    """
    if sites is None:
        size_lat = (x.z_t.shape[-2], x.z_t.shape[-1])
        small = [site for site in score.sites if site.kind in ("self", "cross") and site.places(size_lat) <= 32 * 32]
        sites = tuple(small)
    maps = Maps(sites)
    with score.controlled([maps.control]):
        score.target(x) if role == "target" else score.source(x)
    return maps


def refine(A: Float[Tensor, "n l a b"], S: Float[Tensor, "n p p"]) -> Float[Tensor, "n l a b"]:
    """S A: what a place looks at is also what the places like it look at. Both of the same level."""
    refined = S @ A.flatten(2).transpose(1, 2)
    return refined.transpose(1, 2).reshape(A.shape)
