"""Which views are edited together: spread over the scene, never in file order.

A batch is chosen by farthest points: the first camera at random, every further one as far as possible from those that
are in the batch. Distance between two cameras is that of their centres, in units of the cameras' spread, plus one minus
the cosine between their viewing directions. In an epoch every view is taken once.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def camera_distances(c2w: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n n"]:
    """Distances between cameras given as camera-to-world matrices that look along their own -z, as nerfstudio's do."""
    centre, forward = c2w[:, :, 3], -torch.nn.functional.normalize(c2w[:, :, 2], dim=-1)
    spread = (centre - centre.mean(dim=0)).norm(dim=-1).mean().clamp_min(1e-8)
    return torch.cdist(centre, centre) / spread + (1 - forward @ forward.T)


def farthest(distances: Float[Tensor, "n n"], candidates: list[int], count: int, rng: torch.Generator) -> list[int]:
    """`count` of the candidates (all, if there are no more), spread as far as possible; the first is drawn."""
    left = list(candidates)
    chosen: list[int] = []
    while left and len(chosen) < count:
        if chosen:
            nearest = distances[left][:, chosen].min(dim=1).values
            pick = int(nearest.argmax())
        else:
            pick = int(torch.randint(len(left), (), generator=rng))
        chosen.append(left.pop(pick))
    return sorted(chosen)


class Cover:
    """Partitions the views of a scene into batches, epoch after epoch."""

    def __init__(self, c2w: Float[Tensor, "n 3 4"]) -> None:
        self._distances = camera_distances(c2w.detach().double().cpu())
        self.left: list[int] = list(range(len(c2w)))
        """Views that the epoch has not had yet."""

    def next(self, count: int, rng: torch.Generator) -> list[int]:
        """The next batch; the last one of an epoch is filled up with other views to the full `count`."""
        batch = farthest(self._distances, self.left, count, rng)
        self.left = [v for v in self.left if v not in batch]
        if len(batch) < count:
            others = [v for v in range(len(self._distances)) if v not in batch]
            extra = farthest(self._distances, others, count - len(batch), rng)
            self.left = [v for v in range(len(self._distances)) if v not in extra]
            batch = sorted(batch + extra)
        elif not self.left:
            self.left = list(range(len(self._distances)))
        return batch
