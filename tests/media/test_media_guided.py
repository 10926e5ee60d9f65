"""The guided filter: against a loop over windows; edges come from the guide, flat values stay."""

import torch
from torch.nn.functional import avg_pool2d, interpolate

from csd3d.media.guided import box_mean, guided_filter


def rng():
    return torch.Generator().manual_seed(0)


def around(y, x, radius, shape):
    """Pixels of the window about (y, x); those beyond the border are replaced by the nearest."""
    span = range(-radius, radius + 1)
    return [(min(max(y + a, 0), shape[0] - 1), min(max(x + b, 0), shape[1] - 1)) for a in span for b in span]


def test_the_filter_matches_a_loop_over_windows():
    shape, radius, eps = (5, 6), 1, 1e-2
    values = torch.rand(1, 1, *shape, generator=rng()).double()
    guide = torch.rand(1, 3, *shape, generator=rng()).double()
    fits = torch.zeros(*shape, 4, dtype=torch.float64)
    for y in range(shape[0]):
        for x in range(shape[1]):
            pixels = around(y, x, radius, shape)
            v = torch.stack([values[0, 0, a, b] for a, b in pixels])
            g = torch.stack([guide[0, :, a, b] for a, b in pixels])
            cov = (g - g.mean(0)).T @ (g - g.mean(0)) / len(g) + eps * torch.eye(3)
            a = torch.linalg.solve(cov, ((g - g.mean(0)) * (v - v.mean())[:, None]).mean(0))
            fits[y, x] = torch.cat([a, (v.mean() - a @ g.mean(0))[None]])
    expected = torch.zeros(shape, dtype=torch.float64)
    for y in range(shape[0]):
        for x in range(shape[1]):
            mean = torch.stack([fits[a, b] for a, b in around(y, x, radius, shape)]).mean(0)
            expected[y, x] = mean[:3] @ guide[0, :, y, x] + mean[3]
    assert torch.allclose(guided_filter(values, guide, radius=radius, eps=eps)[0, 0], expected, atol=1e-12)


def test_what_is_blurred_gets_the_edges_of_the_guide():
    guide = torch.full((1, 3, 48, 64), 0.6)
    guide[..., 12:36, 21:43] = torch.tensor([0.2, 0.5, 0.3]).view(3, 1, 1)  # a thing that is not on the grid of blocks
    truth = (guide[:, :1] < 0.5).float()
    blurred = interpolate(avg_pool2d(truth, 8), (48, 64), mode="bilinear")
    sharp = guided_filter(blurred, guide, radius=20, eps=3e-4)

    def wrong(values):
        return float(((values > values.max() / 2) != (truth > 0)).float().mean())

    assert wrong(sharp) < 0.2 * wrong(blurred)


def test_where_the_guide_is_flat_values_are_averaged_twice():
    values = torch.rand(2, 1, 20, 30, generator=rng())
    flat = torch.full((2, 3, 20, 30), 0.3)
    expected = box_mean(box_mean(values, 4), 4)
    assert torch.allclose(guided_filter(values, flat, radius=4, eps=1e-3), expected, atol=1e-5)
    same = guided_filter(torch.ones(2, 1, 20, 30), torch.rand(2, 3, 20, 30), radius=4, eps=1e-3)
    assert torch.allclose(same, torch.ones(()), atol=1e-5)


def test_float32_gives_what_float64_does_and_pictures_do_not_meet():
    values, guide = 9 * torch.rand(3, 1, 40, 50, generator=rng()), torch.rand(3, 3, 40, 50, generator=rng())
    guide[..., 10:30, 10:30] = 0.9  # flat, and far from the middle
    whole = guided_filter(values, guide, radius=5, eps=3e-4)
    assert (whole - guided_filter(values.double(), guide.double(), radius=5, eps=3e-4)).abs().max() < 2e-2
    for k in range(3):
        assert torch.equal(guided_filter(values[k : k + 1], guide[k : k + 1], radius=5, eps=3e-4)[0], whole[k])
