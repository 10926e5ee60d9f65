"""SSIM against its definition, and WarpSSIM on motion that is known."""

import pytest
import torch

from csd3d.metrics import ssim, warp_ssim
from tests.clips import moving_picture


def noise(n: int, seed: int, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_equal_pictures_have_one_and_reversed_ones_less_than_none() -> None:
    rgb = noise(2, 0)
    torch.testing.assert_close(ssim(rgb, rgb), torch.ones(2))
    assert (ssim(rgb, 1 - rgb) < -0.5).all()


def test_ssim_is_what_loops_say() -> None:
    a, b = noise(1, 1, 9).double(), noise(1, 2, 9).double()
    values = []
    for c in range(3):
        for y in range(3):
            for x in range(3):
                p, q = (picture[0, c, y : y + 7, x : x + 7].flatten() for picture in (a, b))
                cov = torch.cov(torch.stack([p, q]))
                light = (2 * p.mean() * q.mean() + 1e-4) / (p.mean() ** 2 + q.mean() ** 2 + 1e-4)
                values.append(light * (2 * cov[0, 1] + 9e-4) / (cov[0, 0] + cov[1, 1] + 9e-4))
    assert float(ssim(a, b)) == pytest.approx(float(torch.stack(values).mean()), abs=1e-9)


def test_ssim_is_scikit_images() -> None:
    measure = pytest.importorskip("skimage.metrics", reason="scikit-image comes with csd3d[train]")
    a, b = noise(1, 3), noise(1, 4)
    expected = measure.structural_similarity(a[0].numpy(), b[0].numpy(), channel_axis=0, data_range=1)
    assert float(ssim(a, b)) == pytest.approx(float(expected), abs=1e-5)


def test_a_known_shift_is_undone_by_its_flow() -> None:
    clip = moving_picture(2, 32, 48)  # by 2 px to the left
    flow = torch.zeros(1, 2, 32, 48)
    flow[:, 0] = -2
    along = float(warp_ssim(clip[:1], clip[1:], flow))
    assert along > 0.97  # all but the two columns that come into sight
    assert along > float(warp_ssim(clip[:1], clip[1:], torch.zeros_like(flow))) + 0.02


def test_pictures_smaller_than_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match="7 px"):
        ssim(noise(1, 0, 6), noise(1, 0, 6))
