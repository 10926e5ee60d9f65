"""Resampling a stretch equals resampling the whole, and that equals an independent implementation."""

import pytest
import torch
from torch.nn.functional import interpolate

from panorama.resample import apply_taps, cubic_taps


@pytest.mark.parametrize(("n", "m"), [(40, 13), (13, 40), (21, 21), (7, 300), (300, 7), (1, 5)])
def test_the_whole_axis_equals_torch(n, m):
    x = torch.rand(2, 3, n, 11, generator=torch.Generator().manual_seed(n))
    taps = cubic_taps(torch.arange(m), n / m, low=0, high=n)
    full = torch.zeros(m, n)
    full[:, taps.first : taps.first + taps.weights.shape[1]] = taps.weights
    expected = interpolate(x, (m, 11), mode="bicubic", antialias=True)
    assert torch.allclose(apply_taps(x, full, torch.eye(11)), expected, atol=2e-6)


def test_a_stretch_equals_that_part_of_the_whole():
    whole = cubic_taps(torch.arange(50), 3.3, low=0, high=165)
    for a, b in ((0, 9), (20, 31), (44, 50)):
        part = cubic_taps(torch.arange(a, b), 3.3, low=0, high=165)
        offset = part.first - whole.first
        assert torch.equal(part.weights, whole.weights[a:b, offset : offset + part.weights.shape[1]])


def test_the_same_size_is_the_same_picture():
    taps = cubic_taps(torch.arange(4, 9), 1.0, low=0, high=20)
    x = torch.rand(20)
    mixed = taps.weights @ x[taps.first : taps.first + taps.weights.shape[1]]
    assert torch.equal(mixed, x[4:9])


def test_on_a_circle_turning_first_or_last_is_the_same():
    x = torch.rand(30, generator=torch.Generator().manual_seed(0))

    def around(values, shift):
        taps = cubic_taps(torch.arange(10) + shift, 3.0)
        return taps.weights @ values[(torch.arange(taps.weights.shape[1]) + taps.first) % 30]

    assert torch.allclose(around(x, 4), around(x, 0).roll(-4), atol=1e-6)
    assert torch.allclose(around(x.roll(3), 1), around(x, 0), atol=1e-6)


def test_targets_out_of_reach_are_refused():
    with pytest.raises(ValueError, match="reach none"):
        cubic_taps(torch.tensor([100]), 1.0, low=0, high=20)
