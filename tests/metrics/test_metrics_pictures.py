"""Fidelity, accuracy, background, flicker: by loops, by hand, under changes that must not matter, at edge sizes."""

import math

import pytest
import torch
from torch import Tensor

from csd3d.metrics import (
    background_change,
    flicker,
    is_nearest,
    mean_squared_error,
    nearest,
    psnr,
    squared_distances,
    untouched,
)
from csd3d.metrics.fidelity import MAX_DB


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop_mse(a: Tensor, b: Tensor) -> float:
    total = 0.0
    for c in range(3):
        for y in range(a.shape[1]):
            for x in range(a.shape[2]):
                total += float(a[c, y, x] - b[c, y, x]) ** 2
    return total / (3 * a.shape[1] * a.shape[2])


def test_psnr_is_that_of_loops() -> None:
    a, b = pictures(2, 3, 4, 5), pictures(2, 3, 4, 5, seed=1)
    for i in range(2):
        error = loop_mse(a[i], b[i])
        assert float(mean_squared_error(a, b)[i]) == pytest.approx(error)
        assert float(psnr(a, b)[i]) == pytest.approx(-10 * math.log10(error))


@pytest.mark.parametrize(("offset", "db"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0)])
def test_psnr_of_a_constant_error(offset: float, db: float) -> None:
    a = torch.zeros(1, 3, 2, 2)
    assert float(psnr(a, a + offset)) == pytest.approx(db, abs=1e-4)


def test_psnr_of_equal_pictures_is_finite() -> None:
    a = pictures(2, 3, 4, 4)
    assert psnr(a, a).tolist() == [MAX_DB, MAX_DB]


def test_psnr_is_symmetric_and_each_picture_is_for_itself() -> None:
    a, b = pictures(5, 3, 8, 8), pictures(5, 3, 8, 8, seed=1)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(psnr(a, b), psnr(b, a))
    torch.testing.assert_close(psnr(a[order], b[order]), psnr(a, b)[order])
    torch.testing.assert_close(psnr(a[:1], b[:1]), psnr(a, b)[:1])
    torch.testing.assert_close(psnr(a.flip(-1), b.flip(-1)), psnr(a, b))


def test_nearest_is_that_of_loops() -> None:
    output, truths = pictures(4, 3, 3, 3), pictures(6, 4, 3, 3, 3, seed=1)
    distances = squared_distances(output, truths)
    for i in range(4):
        oracle = [loop_mse(output[i], truths[k, i]) for k in range(6)]
        assert distances[:, i].tolist() == pytest.approx(oracle)
        assert int(nearest(output, truths)[i]) == oracle.index(min(oracle))
        assert [bool(is_nearest(output, truths, k)[i]) for k in range(6)] == [
            k == oracle.index(min(oracle)) for k in range(6)
        ]


def test_every_truth_is_nearest_to_itself_and_noise_does_not_matter() -> None:
    truths = pictures(5, 1, 3, 6, 6)
    for k in range(5):
        noisy = truths[k] + 0.02 * (pictures(1, 3, 6, 6, seed=k) - 0.5)
        assert nearest(noisy, truths).tolist() == [k]


def test_an_unchanged_source_is_not_the_edit() -> None:
    source, edited = torch.full((1, 3, 4, 4), 0.2), torch.full((1, 3, 4, 4), 0.8)
    truths = torch.stack([source, edited])
    assert not is_nearest(source, truths, 1).any()
    assert is_nearest(source + 0.31, truths, 1).all()


def test_equal_truths_are_a_tie_for_each() -> None:
    truth = pictures(1, 3, 4, 4)
    truths = torch.stack([truth, truth, 1 - truth])
    assert is_nearest(truth, truths, 0).all()
    assert is_nearest(truth, truths, 1).all()
    assert not is_nearest(truth, truths, 2).any()


def test_one_truth_is_always_nearest_and_other_numbers_are_refused() -> None:
    output = pictures(2, 3, 2, 2)
    assert is_nearest(output, torch.zeros(1, 2, 3, 2, 2, dtype=output.dtype), 0).all()
    with pytest.raises(ValueError, match="right: expected the number of a truth, 0 to 0, got 1"):
        is_nearest(output, output[None], 1)


def test_background_is_where_the_truth_is_the_source() -> None:
    source = pictures(2, 3, 5, 4)
    truth = source.clone()
    truth[0, :, :2] += 0.1
    truth[1, 1] += 0.01
    expected = torch.ones(2, 5, 4, dtype=torch.bool)
    expected[0, :2] = False
    expected[1] = False
    assert torch.equal(untouched(source, truth), expected)


def test_background_change_is_that_of_loops() -> None:
    source, output = pictures(1, 3, 4, 4), pictures(1, 3, 4, 4, seed=1)
    truth = source.clone()
    truth[0, 0, 1, 2] += 0.5
    truth[0, 2, 3, 3] -= 0.5
    total, count = 0.0, 0
    for y in range(4):
        for x in range(4):
            if (y, x) not in ((1, 2), (3, 3)):
                total += sum(abs(float(output[0, c, y, x] - source[0, c, y, x])) for c in range(3)) / 3
                count += 1
    assert background_change(output, source, truth).tolist() == pytest.approx([total / count])


def test_background_does_not_see_the_edited_pixels() -> None:
    source = pictures(1, 3, 4, 4)
    truth, output = source.clone(), source + 0.1
    truth[..., :2] = 1 - truth[..., :2]
    other = output.clone()
    other[..., :2] = 7
    changed = untouched(source, truth)[0, :, :2].any()
    assert not changed
    assert background_change(output, source, truth).tolist() == pytest.approx([0.1])
    assert background_change(other, source, truth).tolist() == pytest.approx([0.1])


def test_background_of_an_edit_that_changes_everything_is_nothing_to_measure() -> None:
    source = torch.zeros(2, 3, 2, 2)
    truth = torch.ones(2, 3, 2, 2)
    truth[1, :, 0, 0] = 0
    first, second = background_change(source + 0.25, source, truth).tolist()
    assert math.isnan(first)
    assert second == pytest.approx(0.25)


def test_flicker_is_that_of_loops() -> None:
    clip = pictures(5, 3, 2, 3)
    for i, value in enumerate(flicker(clip).tolist(), start=1):
        high = [
            (2 * float(clip[i, c, y, x]) - float(clip[i - 1, c, y, x]) - float(clip[i + 1, c, y, x])) / 4
            for c in range(3)
            for y in range(2)
            for x in range(3)
        ]
        assert value == pytest.approx(sum(h * h for h in high) / len(high))


def test_flicker_sees_trembling_and_not_steady_change() -> None:
    ramp = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None, None, None].expand(6, 3, 4, 4)
    still = pictures(1, 3, 4, 4).expand(6, 3, 4, 4)
    sign = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64)[:, None, None, None]
    assert flicker(ramp).tolist() == pytest.approx([0] * 4)
    assert flicker(still).tolist() == pytest.approx([0] * 4)
    assert flicker(still + 0.3 * sign).tolist() == pytest.approx([0.09] * 4)
    torch.testing.assert_close(flicker(still + ramp + 0.3 * sign), flicker(0.3 * sign.expand(6, 3, 4, 4)))


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_flicker_of_short_clips(frames: int) -> None:
    assert flicker(pictures(frames, 3, 1, 1)).shape == (max(0, frames - 2),)
