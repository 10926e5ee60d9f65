"""Edits with several right answers: was it one of them, and was it everywhere the same one?

A family of m members gives a set of pictures m exact truths. Each picture chooses the member whose truth is nearest
to it (mean squared error, `accuracy.nearest`). From choices alone follow the agreement of a set (frames of a clip,
views of a scene, windows of a picture) and the variety of several runs; accuracy says whether there was a choice at
all.

An editor that decides for each of n pictures by itself agrees by `chance_agreement(n, m)`, one that decides once by 1.
"""

from collections.abc import Collection
from math import comb, exp, log

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csd3d.metrics.accuracy import nearest, squared_distances

LEAST_DIFFERENCE = 0.03
"""Root mean square by which any two truths of a window must differ for it to tell which of them it shows."""


def is_any_nearest(
    output: Float[Tensor, "n 3 H W"], truths: Float[Tensor, "k n 3 H W"], right: Collection[int]
) -> Bool[Tensor, " n"]:
    """Whether the nearest of all k truths is one of those numbered `right`: true or false for each picture.

    The truths are those of the members, of the unedited picture and of whatever else could be mistaken for one. The
    share of these that are true is the accuracy of a family; by guessing it would be about len(right) / k. A tie counts
    as right, as in `accuracy.is_nearest`.

    Raises:
        ValueError: `right` is empty or holds no number of a truth.
    """
    numbers = sorted(set(right))
    if not numbers or not (numbers[0] >= 0 and numbers[-1] < len(truths)):
        raise ValueError(f"right: expected some numbers of truths, 0 to {len(truths) - 1}, got {numbers}")
    distances = squared_distances(output, truths)
    return distances[numbers].amin(0) <= distances.amin(0)


def agreement(choices: Int[Tensor, " n"]) -> float:
    """Share of n choices that are the most frequent one: max_k |{i : choice_i = k}| / n, in [1 / n, 1].

    Higher is better. 1 means that every frame, view or window shows the same member; so does a single one. NaN where
    there is none.
    """
    if len(choices) == 0:
        return float("nan")
    return float(torch.bincount(choices).max()) / len(choices)


def chance_agreement(count: int, members: int) -> float:
    """The expected `agreement` of `count` independent choices of equally likely `members`, in [1 / members, 1].

    E[M] / n for the largest of the counts of n balls in m urns: E[M] = sum_c P(M > c), and P(M <= c) m^n is the number
    of ways to fill m urns with at most c balls each, counted urn by urn.

    Raises:
        ValueError: A number is less than 1.
    """
    if min(count, members) < 1:
        raise ValueError(f"chance_agreement: expected 1 or more choices and members, got {count}, {members}")

    def ways(most: int) -> int:
        filled = [1] + [0] * count
        for _ in range(members):
            filled = [sum(filled[n - k] * comb(n, k) for k in range(min(n, most) + 1)) for n in range(count + 1)]
        return filled[count]

    return sum(1 - ways(most) / members**count for most in range(count)) / count


def variety(choices: Int[Tensor, " r"]) -> float:
    """How many members r runs with different seeds share among them: exp(-sum_k p_k ln p_k), in [1, r], of shares p_k.

    1 if all runs end at one member; m if m members come equally often. An editor may agree within each run and still be
    free between runs: a method that always ends at one member has lost the others. NaN where there is no run.
    """
    if len(choices) == 0:
        return float("nan")
    shares = [float(count) / len(choices) for count in torch.bincount(choices) if count]
    return exp(-sum(p * log(p) for p in shares))


def window_choices(
    output: Float[Tensor, "3 H W"], truths: Float[Tensor, "m 3 H W"], *, size_px: int, stride_px: int
) -> Int[Tensor, " w"]:
    """Which member each window of one picture shows, 0 to m - 1: their `agreement` is that within one frame.

    Windows are squares of `size_px`, `stride_px` apart from the upper left corner, all inside the picture. Those where
    some two truths differ by less than `LEAST_DIFFERENCE` (root mean square) cannot tell and are left out, so there may
    be none.

    Raises:
        ValueError: Sizes below 1, a window larger than the picture, or less than two truths.
    """
    height, width = output.shape[-2:]
    if not 1 <= size_px <= min(height, width) or stride_px < 1:
        raise ValueError(
            f"windows: expected sizes of 1 to {min(height, width)} px, 1 or more apart, got {size_px}, {stride_px}"
        )
    if len(truths) < 2:
        raise ValueError(f"truths: expected those of 2 members or more, got {len(truths)}")

    def windows(rgb: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b w 3 s s"]:
        cut = rgb.unfold(2, size_px, stride_px).unfold(3, size_px, stride_px)
        return cut.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)

    members, shown = windows(truths), windows(output[None])[0]
    i, j = torch.triu_indices(len(truths), len(truths), offset=1)
    apart = (members[i] - members[j]).square().mean(dim=(2, 3, 4)).amin(0).sqrt()
    telling = apart >= LEAST_DIFFERENCE
    if not telling.any():
        return torch.zeros(0, dtype=torch.long)
    return nearest(shown[telling], members[:, telling])
