"""Spans leave no gap, share every place fully, and treat a seam like any other place."""

import math

import pytest
import torch

from panorama.spans import Spans, cover


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize(
    ("length", "size", "stride"), [(1, 1, 1), (5, 9, 4), (16, 16, 8), (17, 16, 8), (104, 16, 7), (33, 4, 4), (50, 8, 3)]
)
def test_every_cell_is_covered_and_no_gap_is_wider_than_the_stride(length, size, stride, wraps):
    spans = cover(length, size, stride, wraps=wraps)
    cells = spans.cells()
    assert sorted(set(cells.flatten().tolist())) == list(range(length))
    assert cells.shape == (len(spans.starts), min(size, length))
    gaps = [b - a for a, b in zip(spans.starts, spans.starts[1:], strict=False)]
    assert all(0 < gap <= stride for gap in gaps)
    if wraps and length > 1:
        assert len(spans.starts) >= 2
        assert length - spans.starts[-1] <= max(stride, -(-length // 2))
    if not wraps:
        assert spans.starts[0] == 0
        assert spans.starts[-1] + spans.size == length


def share_by_loops(spans, place, ramp):
    """The formula of the module, place by place."""
    raw = []
    for start in spans.starts:
        left = (place - start) % spans.length if spans.wraps else place - start
        right = spans.size - left
        if left < 0 or right <= 0:
            raw.append(0.0)
            continue
        d = []
        if spans.wraps or start != 0:
            d.append(left)
        if spans.wraps or start + spans.size != spans.length:
            d.append(right)
        rise = min(min(d, default=math.inf) / ramp, 1.0) if ramp else 1.0
        raw.append(max(math.sin(math.pi / 2 * rise) ** 2, 1e-12))
    return [x / sum(raw) for x in raw]


@pytest.mark.parametrize("ramp", [0.0, 2.5, 4.0])
@pytest.mark.parametrize("wraps", [False, True])
def test_shares_equal_the_formula_and_sum_to_one(ramp, wraps):
    spans = cover(27, 8, 5, wraps=wraps)
    places = torch.cat([torch.arange(27) + 0.5, torch.tensor([0.01, 13.37, 26.99])])
    shares = spans.shares(places, ramp=ramp)
    assert torch.allclose(shares.sum(0), torch.ones(len(places), dtype=torch.float64))
    expected = torch.tensor([share_by_loops(spans, float(p), ramp) for p in places], dtype=torch.float64).T
    assert torch.allclose(shares, expected, atol=1e-6)


def test_flat_shares_are_one_over_how_many_are_there():
    spans = Spans((0, 2, 4), 4, 8, False)
    shares = spans.shares(torch.arange(8) + 0.5, ramp=0.0)
    assert shares[:, 0].tolist() == [1, 0, 0]
    assert shares[:, 2].tolist() == [0.5, 0.5, 0]
    assert shares[:, 7].tolist() == [0, 0, 1]


def test_a_circle_knows_no_seam():
    """Turning the circle by the distance of its spans changes nothing but their numbers."""
    spans = cover(24, 8, 6, wraps=True)
    assert spans.starts == (0, 6, 12, 18)
    places = torch.arange(24) + 0.5
    shares = spans.shares(places, ramp=4.0)
    assert torch.allclose(shares.roll(1, 0).roll(6, 1), shares)


@pytest.mark.parametrize(("length", "size", "stride"), [(10, 4, 5), (0, 4, 1), (10, 4, 0)])
def test_gaps_and_nonsense_are_refused(length, size, stride):
    with pytest.raises(ValueError, match="expected"):
        cover(length, size, stride)
