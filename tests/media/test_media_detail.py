"""Detail returns as the edit would have it: the source itself, its colour edit in full sharpness, or nothing."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from csd3d.media.detail import colour_maps, cored, restore_mapped
from csd3d.metrics import psnr


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


def window(y, x, radius, shape=(5, 6)):
    """Pixels around (y, x), those beyond the border replaced by the nearest."""
    span = range(-radius, radius + 1)
    return [(min(max(y + a, 0), shape[0] - 1), min(max(x + b, 0), shape[1] - 1)) for a in span for b in span]


def test_maps_match_a_loop_over_windows():
    rng = torch.Generator().manual_seed(1)
    edited, source = torch.rand(1, 3, 5, 6, generator=rng).double(), torch.rand(1, 3, 5, 6, generator=rng).double()
    windows = ((2, 3e-2), (1, 1e-2))
    eye = torch.eye(3, dtype=torch.float64)
    raw = torch.zeros(5, 6, 3, 3, dtype=torch.float64)
    dz, ds = torch.zeros(2, 5, 6, 3, dtype=torch.float64)
    for y in range(5):
        for x in range(6):
            fitted = eye
            for radius, eps in windows:
                around = window(y, x, radius)
                z = torch.stack([edited[0, :, a, b] for a, b in around])
                s = torch.stack([source[0, :, a, b] for a, b in around])
                dz[y, x], ds[y, x] = edited[0, :, y, x] - z.mean(0), source[0, :, y, x] - s.mean(0)
                z, s = z - z.mean(0), s - s.mean(0)
                fitted = (z.T @ s / len(around) + eps * fitted) @ (s.T @ s / len(around) + eps * eye).inverse()
            raw[y, x] = fitted
    expected = torch.zeros_like(raw)
    for y in range(5):
        for x in range(6):
            expected[y, x] = torch.stack([raw[a, b] for a, b in window(y, x, 1)]).mean(0).clamp(-2, 2)
    mapped = (expected @ ds[..., None])[..., 0]
    for y in range(5):
        for x in range(6):
            near = window(y, x, 1)
            said, left = (sum(v[a, b] @ v[a, b] for a, b in near) / len(near) for v in (mapped, dz - mapped))
            expected[y, x] *= ((said + 1e-2) / (said + left + 1e-2)) ** 0.5
    got = colour_maps(edited, source, windows=windows)[0]
    assert torch.allclose(got, expected.flatten(2).permute(2, 0, 1), atol=1e-9)


def test_no_outline_stays_of_a_thing_that_took_another_shape():
    """A red square on grey becomes a red disc: nothing of its corners comes back."""
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    red, grey = torch.tensor([0.8, 0.1, 0.1])[:, None, None], torch.full((3, 1, 1), 0.5)

    def painted(inside):
        return torch.where(inside, red, grey)[None]

    square, disc = painted((y.abs() < 16) & (x.abs() < 16)), painted(y**2 + x**2 < 16**2)
    soft_disc, soft_square = (avg_pool2d(p, 3, stride=1, padding=1, count_include_pad=False) for p in (disc, square))
    left = (restore_mapped(square, soft_disc, soft_square) - soft_disc).abs()
    assert left[..., 14:20, 14:20].max() < 0.06  # a corner of the square, outside the disc; the detail there is 0.39
    assert (restore_mapped(square, soft_square, soft_square) - square).abs().max() < 1e-3


def test_flat_places_take_the_colours_of_their_surroundings():
    """A grey edit leaves no tint where the decoded source is flat: fine colour noise comes back grey."""
    rng = torch.Generator().manual_seed(3)
    small = picture(48, 64)
    small[..., 16:32, 24:40] = small[..., 16:32, 24:40].mean((-2, -1), keepdim=True)
    grey = torch.tensor([[0.299, 0.587, 0.114]]).expand(3, 3)
    noise = 0.1 * torch.randn(1, 3, 48, 64, generator=rng)
    out = restore_mapped((small + noise).clamp(0, 1), torch.einsum("cd,ndhw->nchw", grey, small), small)
    flat = out[0, :, 22:26, 30:34]
    assert (flat - flat.mean(0)).abs().max() < 0.02


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


@pytest.mark.parametrize("edit", ["night", "negative", "same", "unrelated"])
def test_maps_in_float32_are_those_in_float64(edit):
    source = interpolate(picture(24, 32), (96, 128), mode="bilinear")
    edited = {"night": 0.3 * source, "negative": 1 - source, "same": source, "unrelated": picture(seed=7)}[edit]
    maps = colour_maps(edited, source)
    assert maps.dtype == torch.float32
    assert (maps - colour_maps(edited.double(), source.double())).abs().max() < 1e-3  # of detail below 0.2: 1/20 level


def test_maps_are_the_same_wherever_a_picture_stands():
    sources, edited = torch.cat([picture(seed=k) for k in range(3)]), torch.cat([picture(seed=9 + k) for k in range(3)])
    together = colour_maps(edited, sources)
    for k in range(3):
        assert torch.equal(colour_maps(edited[k : k + 1], sources[k : k + 1])[0], together[k])


def test_changes_that_can_hardly_be_meant_are_left_out() -> None:
    source = torch.full((1, 3, 24, 24), 0.5)
    change = torch.zeros(1, 3, 24, 24)
    change[..., 16:] = 0.3  # the edit
    change[..., :8] = 0.01  # what it moves besides
    out = restore_mapped(source, source + change, source)
    assert torch.equal(out[..., :14], source[..., :14])
    assert torch.allclose(out[..., 21:], torch.tensor(0.8), atol=1e-5)
    assert out[..., 18:].min() > 0.77
    green = torch.zeros(1, 3, 24, 24)
    green[:, 1] = 0.05  # of one channel, half-way between what is left out and what is kept
    assert torch.allclose(cored(source + green, source) - source, 0.5 * green, atol=1e-6)
    assert torch.equal(restore_mapped(source, source + green, source, amount=0.0), source + green)


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.3, 1.0])
def test_strength_takes_its_share_of_every_change_alike(strength: float) -> None:
    source = picture(seed=1)
    change = 0.15 * (picture(seed=2) - 0.5)  # from nothing to what is kept whole
    whole = cored(source + change, source) - source
    part = cored(source + strength * change, source, strength=strength) - source
    assert torch.allclose(part, strength * whole, atol=1e-5)


def test_what_the_codec_blurs_over_the_border_of_a_thing_is_left_out() -> None:
    source = torch.full((1, 3, 40, 40), 0.5)
    source[..., 12:28, 12:28] = torch.tensor([0.1, 0.2, 0.6]).view(3, 1, 1)
    thing = (source[:, :1] < 0.4).float()
    change = torch.tensor([0.5, 0.0, -0.4]).view(3, 1, 1) * interpolate(avg_pool2d(thing, 4), (40, 40), mode="bilinear")
    out = cored(source + change, source)
    halo = (change.abs() * (1 - thing)).sum()
    assert ((out - source).abs() * (1 - thing)).sum() < 0.65 * halo
    assert torch.allclose(((out - source) * thing)[..., 16:24, 16:24], change[..., 16:24, 16:24], atol=1e-3)
    assert torch.equal(out[..., :4, :], source[..., :4, :])
