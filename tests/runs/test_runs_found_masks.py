"""Masks that are found, brought from latents to pixels: they end where things do."""

import torch
from torch.nn.functional import avg_pool2d

from csd3d.runs.found_masks import OWN, along_edges, at_pixels

THING = torch.tensor([0.2, 0.5, 0.3]).view(3, 1, 1)


def picture(left=42, right=75):
    """Grain, 64 x 128 px, and a thing of another colour that does not end where latents of 8 px do; where it is."""
    rgb = 0.6 + 0.03 * torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    where = torch.zeros(1, 1, 64, 128)
    where[..., 13:46, left:right] = 1
    return torch.where(where > 0, THING, rgb.clamp(0, 1)), where


def iou(mask, where):
    inside, where = mask > 0.5, where > 0
    return float((inside & where).sum() / (inside | where).sum())


def test_a_mask_ends_where_the_thing_does():
    source, where = picture()
    values = 4 * avg_pool2d(where, 8)
    mask = at_pixels(values, source)
    assert iou(mask, where) > 0.95
    assert (mask[where > 0]).min() == 1
    assert iou(at_pixels(values, torch.full_like(source, 0.5)), where) < 0.8  # nothing says where it ends


def test_what_is_everywhere_or_nowhere_stays_so():
    source, _ = picture()
    assert at_pixels(torch.full((1, 1, 8, 16), 4.0), source).min() == 1
    assert at_pixels(torch.zeros(1, 1, 8, 16), source).max() == 0


def test_what_is_new_on_flat_ground_is_not_averaged_away():
    flat, values = torch.full((1, 3, 64, 128), 0.5), torch.zeros(1, 1, 8, 16)
    values[..., 4, 8] = 1.1 * 1.5 / OWN
    mask = at_pixels(values, flat)
    assert mask[..., 35:37, 67:69].min() == 1
    assert mask[..., 48:, :].max() == 0


def test_a_closed_picture_goes_on_over_its_seam():
    source, where = picture()
    values = 4 * where.roll(3, -1)  # beside the thing
    whole = along_edges(values, source, lat_px=8, closed=True)
    turned = along_edges(values.roll(70, -1), source.roll(70, -1), lat_px=8, closed=True)
    torch.testing.assert_close(turned, whole.roll(70, -1), atol=1e-3, rtol=0)
    assert not torch.allclose(along_edges(values.roll(70, -1), source.roll(70, -1), lat_px=8), turned, atol=0.05)
    small = along_edges(values[..., :24], source[..., :24], lat_px=8, closed=True)
    assert small.shape == (1, 1, 64, 24)
