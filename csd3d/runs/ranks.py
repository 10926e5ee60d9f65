"""Several processes, each with particles of its own, and one coupled step over all of them.

Rank r of R takes particles r, r + R, r + 2 R, ...: renders, encodes, predicts and decodes them. Latents and predictions
are gathered, so that every rank has all of them and couples them alike, with the same random numbers. With one process,
or none that torch.distributed knows of, nothing is exchanged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.regularisers import FeatureLoss, Features, FeatureSite, Regularised
from csd3d.engine.residuals import Score, StepScore
from csd3d.engine.reuse import ReusingScore
from csd3d.engine.schedule import Schedule
from csd3d.engine.stein import Perceptual
from csd3d.engine.types import Latents, Noised


def ranks() -> tuple[int, int]:
    """(r, R)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def local_indices(count: int) -> list[int]:
    """Indices of this rank's share of `count` particles."""
    rank, world = ranks()
    return list(range(rank, count, world))


def gather(mine: Float[Tensor, "m *d"], count: int) -> Float[Tensor, "n *d"]:
    """All `count` rows in order, from every rank's share of them; on the device of `mine`, without gradients."""
    _, world = ranks()
    if world == 1:
        return mine.detach()
    most = -(-count // world)
    padded = torch.zeros(most, *mine.shape[1:], dtype=mine.dtype, device=_device())
    padded[: len(mine)] = mine.detach()
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.stack(parts, dim=1).flatten(0, 1)[:count].to(mine.device)


def map_sharded(count: int, do: Callable[[list[int]], Float[Tensor, "m *d"]]) -> Float[Tensor, "n *d"]:
    """`do` of all particles 0 to `count` - 1, one row each; every rank computes its share of them and gets all.

    A rank without a share computes the first particle too, to learn the shape; its row is dropped.
    """
    mine = local_indices(count)
    done = do(mine or [0])
    return gather(done if mine else done[:0], count)


def broadcast(value: Any) -> Any:
    """The value that rank 0 passes, on every rank."""
    if ranks()[1] == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@dataclass(frozen=True)
class SharedScore:
    """A prior of which every rank holds a copy: each does its share of the particles. Satisfies `StepScore`,
    `Features`, `Regularised` and `Perceptual`."""

    score: Score

    @property
    def schedule(self) -> Schedule:
        """The prior's."""
        return self.score.schedule

    @property
    def reuses(self) -> bool:
        """Whether the prior's score does, of all particles on every rank."""
        return isinstance(self.score, ReusingScore)

    def for_step(self, x: Noised) -> Score:
        """The score of one step: every rank prepares it for itself, from all particles."""
        return SharedScore(self.score.for_step(x)) if isinstance(self.score, StepScore) else self

    def target(self, x: Noised) -> Latents:
        """Noise in the edited latents, of all particles."""
        return map_sharded(len(x.z), lambda mine: self.score.target(x.rows(mine)))

    def source(self, x: Noised) -> Latents:
        """Noise in the source latents, of all particles."""
        return map_sharded(len(x.z), lambda mine: self.score.source(x.rows(mine)))

    def feature_gradient(self, x: Noised, site: FeatureSite, loss: FeatureLoss) -> Latents:
        """Gradient of a loss between features of edited and source latents, of all particles."""
        score = self.score
        assert isinstance(score, Features)  # as the scores of all our priors are
        return map_sharded(len(x.z), lambda mine: score.feature_gradient(x.rows(mine), site, loss))

    @property
    def has_term(self) -> bool:
        """Whether the score brings a term."""
        return isinstance(self.score, Regularised) and self.score.has_term

    def own_gradient(self, x: Noised) -> Latents:
        """Of that term, of all particles."""
        score = self.score
        assert isinstance(score, Regularised)  # as it has a term
        return map_sharded(len(x.z), lambda mine: score.own_gradient(x.rows(mine)))

    def perceptual_features(self, z: Latents) -> Float[Tensor, "n d"]:
        """Features of clean latents; every rank evaluates all, as it differentiates them."""
        assert isinstance(self.score, Perceptual)  # as the scores of all our priors are
        return self.score.perceptual_features(z)


def _device() -> torch.device:
    """Where tensors are exchanged: NCCL knows only GPUs, gloo gathers on the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
