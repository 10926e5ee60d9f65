"""Detail returns as the edit would have it: the source itself, its colour edit in full sharpness, or nothing."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from csd3d.metrics import psnr
from csd3d.priors.detail import RADIUS, colour_maps, restore_mapped


def picture(height=96, width=128, seed=0):
    """Smooth colours under fine texture, which block means lose."""
    rng = torch.Generator().manual_seed(seed)
    smooth = interpolate(torch.rand(1, 3, 6, 8, generator=rng), (height, width), mode="bicubic").clamp(0, 1)
    texture = 0.15 * (torch.rand(1, 3, height, width, generator=rng) - 0.5)
    return (0.2 + 0.6 * smooth + texture).clamp(0, 1)


def restore(edited_small, source_small, source, *, gain=True):
    """Output from small pictures, with fitted maps or with detail added as it is."""
    size = source.shape[-2:]

    def up(x):
        return interpolate(x, size, mode="bicubic")

    if gain:
        return restore_mapped(source, edited_small, source_small, up)
    return up(edited_small) + source - up(source_small)


def test_maps_match_a_loop_over_windows():
    rng = torch.Generator().manual_seed(1)
    edited, source = torch.rand(1, 3, 5, 6, generator=rng).double(), torch.rand(1, 3, 5, 6, generator=rng).double()
    radius, eps = 1, 1e-2
    raw = torch.zeros(9, 5, 6, dtype=torch.float64)
    for y in range(5):
        for x in range(6):
            window = [
                (min(max(y + dy, 0), 4), min(max(x + dx, 0), 5)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
            ]  # fmt: skip
            z = torch.stack([edited[0, :, a, b] for a, b in window])
            s = torch.stack([source[0, :, a, b] for a, b in window])
            z, s = z - z.mean(0), s - s.mean(0)
            eye = eps * torch.eye(3, dtype=torch.float64)
            raw[:, y, x] = ((z.T @ s / 9 + eye) @ (s.T @ s / 9 + eye).inverse()).flatten()
    expected = torch.zeros_like(raw)
    for y in range(5):
        for x in range(6):
            window = [(min(max(y + a, 0), 4), min(max(x + b, 0), 5)) for a in (-1, 0, 1) for b in (-1, 0, 1)]
            expected[:, y, x] = torch.stack([raw[:, a, b] for a, b in window]).mean(0)
    got = colour_maps(edited, source, radius=radius, eps=eps)[0]
    assert torch.allclose(got, expected.clamp(-2, 2), atol=1e-9)


def test_no_edit_gives_the_source_back():
    source = picture()
    small = avg_pool2d(source, 8)
    maps = colour_maps(small, small)
    assert torch.allclose(maps.unflatten(1, (3, 3))[0, :, :, 5, 5], torch.eye(3), atol=1e-4)
    assert (restore(small, small, source) - source).abs().max() < 1e-4


@pytest.mark.parametrize(
    "matrix",
    [
        0.3 * torch.eye(3),
        -torch.eye(3),
        torch.tensor([[0.299, 0.587, 0.114]]).expand(3, 3),
        torch.tensor([[0.39, 0.77, 0.19], [0.35, 0.69, 0.17], [0.27, 0.53, 0.13]]),
    ],
    ids=["night", "negative", "grey", "sepia"],
)
def test_colour_edits_reach_full_sharpness(matrix):
    source = picture()
    small = avg_pool2d(source, 4)

    def edit(rgb):
        return torch.einsum("cd,ndhw->nchw", matrix, rgb - 0.5) + 0.5

    truth = edit(source)
    fitted, plain = restore(edit(small), small, source), restore(edit(small), small, source, gain=False)
    assert psnr(fitted, truth) > psnr(plain, truth) + 6
    assert psnr(fitted, truth) > 35


def test_unrelated_content_takes_no_detail():
    source, other = picture(seed=0), picture(seed=7)
    small, edited = avg_pool2d(source, 4), avg_pool2d(other, 4)
    size = source.shape[-2:]
    alone = interpolate(edited, size, mode="bicubic")
    left = restore(edited, small, source) - alone
    added = restore(edited, small, source, gain=False) - alone
    assert left.square().mean() < 0.5 * added.square().mean()


def test_flat_places_stay_finite_and_within_limits():
    flat, wild = torch.full((1, 3, 20, 20), 0.5), torch.rand(1, 3, 20, 20)
    maps = colour_maps(wild, flat)
    assert bool(maps.isfinite().all())
    assert maps.abs().max() <= 2
    assert colour_maps(flat[..., :2, :3], flat[..., :2, :3]).shape[-2:] == (2, 3)  # smaller than the window
    assert RADIUS > 1
