"""The optimiser: against torch's own bit for bit, against loops; rows are independent, arguments untouched."""

import math
from typing import Literal

import pytest
import torch
from engine_toys import generator, latents
from torch import Tensor

from csd3d.engine import Moments, descend, first_moments
from csd3d.engine.optimise import BETA1, BETA2, EPSILON

Kind = Literal["sgd", "adam"]
TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def directions(z: Tensor, steps: int) -> list[Tensor]:
    rng = generator(3)
    return [0.1 * torch.randn(z.shape, generator=rng, dtype=torch.float64).to(z) for _ in range(steps)]


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 4, 64, 70), (3, 4, 5, 7)])
def test_against_torchs_own_and_adam_bit_for_bit(kind: Kind, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    z = torch.randn(shape, generator=generator(), dtype=torch.float64).to(dtype)
    theirs = z.clone().requires_grad_()
    optimizer, moments = TORCH[kind]([theirs], lr=1.0), first_moments(z, kind)
    for k, g in enumerate(directions(z, 20)):
        optimizer.param_groups[0]["lr"] = lr = 0.3 * 0.9**k
        theirs.grad = g
        optimizer.step()
        z, moments = descend(z, g, moments, lr=lr)
        if kind == "adam":
            assert torch.equal(z, theirs)
        torch.testing.assert_close(z, theirs.detach())


@pytest.mark.parametrize("n", [1, 2])
def test_adam_against_loops(n: int) -> None:
    z = latents(n, 1, torch.float64)
    moments, steps = first_moments(z, "adam"), directions(z, 5)
    moved = z
    for g in steps:
        moved, moments = descend(moved, g, moments, lr=0.1)
    for place in [(i, 1, 2, 3) for i in range(n)]:
        x, m, v = float(z[place]), 0.0, 0.0
        for k, g in enumerate((float(g[place]) for g in steps), 1):
            m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g**2
            x -= 0.1 * (m / (1 - BETA1**k)) / (math.sqrt(v / (1 - BETA2**k)) + EPSILON)
        assert float(moved[place]) == pytest.approx(x, rel=1e-12)


def test_sgd_is_plain_and_has_no_moments() -> None:
    z, g = latents(2, 1), latents(2, 2)
    assert first_moments(z, "sgd") is None
    moved, moments = descend(z, g, None, lr=0.3)
    assert moments is None
    assert torch.equal(moved, z - 0.3 * g)


def test_each_row_counts_its_own_steps() -> None:
    """Rows that moved different numbers of times take the steps that they take alone."""
    z, (first, second) = latents(3, 1), directions(latents(3), 2)
    begun, once = descend(z[:1], first[:1], first_moments(z[:1], "adam"), lr=0.1)
    assert once is not None
    fresh = first_moments(z[1:], "adam")
    assert fresh is not None
    both = Moments(*(torch.cat([getattr(m, name) for m in (once, fresh)]) for name in ("mean", "square", "steps")))
    together, moments = descend(torch.cat([begun, z[1:]]), second, both, lr=0.1)
    assert moments is not None
    assert moments.steps.tolist() == [2, 1, 1]
    assert torch.equal(together[:1], descend(begun, second[:1], once, lr=0.1)[0])
    assert torch.equal(together[1:], descend(z[1:], second[1:], fresh, lr=0.1)[0])


def test_arguments_stay_as_they_are() -> None:
    z, g = latents(2, 1), latents(2, 2)
    moments = first_moments(z, "adam")
    assert moments is not None
    before = [x.clone() for x in (z, g, moments.mean, moments.square, moments.steps)]
    descend(z, g, moments, lr=0.1)
    after = (z, g, moments.mean, moments.square, moments.steps)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
