"""Is a picture the edit that was asked for? It is if no other truth is nearer.

The truths are what every instruction that applies to the source would exactly give, and the unedited source. Nearness
is the mean squared error over all pixels and channels: a choice, and a strict one for small objects, since everything
around them counts too, whether the editor preserved it or not.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csd3d.metrics.fidelity import mean_squared_error


def squared_distances(output: Float[Tensor, "n 3 H W"], truths: Float[Tensor, "k n 3 H W"]) -> Float[Tensor, "k n"]:
    """Mean squared error of each of n pictures to each of its k truths, lower is nearer."""
    return torch.stack([mean_squared_error(output, truth) for truth in truths])


def nearest(output: Float[Tensor, "n 3 H W"], truths: Float[Tensor, "k n 3 H W"]) -> Int[Tensor, " n"]:
    """Which of its k truths each picture is nearest to, 0 to k - 1; the first of equally near ones."""
    return squared_distances(output, truths).argmin(0)


def is_nearest(output: Float[Tensor, "n 3 H W"], truths: Float[Tensor, "k n 3 H W"], right: int) -> Bool[Tensor, " n"]:
    """Whether truth number `right` is the nearest. A tie counts as right: equal truths cannot be told apart.

    The share of these that are true is the edit accuracy; by guessing it would be about 1 / k. Raises ValueError when
    `right` is no number of a truth.
    """
    if not 0 <= right < len(truths):
        raise ValueError(f"right: expected the number of a truth, 0 to {len(truths) - 1}, got {right}")
    distances = squared_distances(output, truths)
    return distances[right] <= distances.amin(0)
