"""Warping and its error: against loops, known motions, edge sizes, and a real stereo pair with true disparity."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd3d.metrics import backward_warp, warp_error

STEREO = Path(__file__).resolve().parents[3] / "shared" / "data" / "reference" / "stereo_motorcycle"


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def constant_flow(n: int, height: int, width: int, dx: float, dy: float) -> Tensor:
    return torch.tensor([dx, dy], dtype=torch.float64)[None, :, None, None].expand(n, 2, height, width)


def loop_sample(picture: Tensor, x: float, y: float) -> list[float]:
    """Bilinear at (x, y), pixel centres at + 0.5, edges repeated."""
    height, width = picture.shape[-2:]
    u, v = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
    x0, y0 = min(int(u), width - 1), min(int(v), height - 1)
    x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
    a, b = u - x0, v - y0
    weights = {(y0, x0): 0.0, (y0, x1): 0.0, (y1, x0): 0.0, (y1, x1): 0.0}
    for yy, wy in ((y0, 1 - b), (y1, b)):
        for xx, wx in ((x0, 1 - a), (x1, a)):
            weights[yy, xx] += wy * wx
    return [sum(w * float(picture[c, yy, xx]) for (yy, xx), w in weights.items()) for c in range(picture.shape[0])]


def test_warp_is_that_of_loops() -> None:
    second, flow = pictures(2, 3, 4, 6), 5 * (pictures(2, 2, 4, 6, seed=1) - 0.5)
    warped, inside = backward_warp(second, flow)
    for n in range(2):
        for y in range(4):
            for x in range(6):
                qx, qy = x + 0.5 + float(flow[n, 0, y, x]), y + 0.5 + float(flow[n, 1, y, x])
                assert warped[n, :, y, x].tolist() == pytest.approx(loop_sample(second[n], qx, qy))
                assert bool(inside[n, y, x]) == (0 <= qx <= 6 and 0 <= qy <= 4)


def test_error_is_that_of_loops() -> None:
    first, second = pictures(2, 3, 4, 5), pictures(2, 3, 4, 5, seed=1)
    flow, visible = 3 * (pictures(2, 2, 4, 5, seed=2) - 0.5), pictures(2, 4, 5, seed=3) > 0.4
    for n, value in enumerate(warp_error(first, second, flow, visible).tolist()):
        found = []
        for y in range(4):
            for x in range(5):
                qx, qy = x + 0.5 + float(flow[n, 0, y, x]), y + 0.5 + float(flow[n, 1, y, x])
                if visible[n, y, x] and 0 <= qx <= 5 and 0 <= qy <= 4:
                    there = loop_sample(second[n], qx, qy)
                    found.append(sum(abs(float(first[n, c, y, x]) - there[c]) for c in range(3)) / 3)
        assert value == pytest.approx(sum(found) / len(found))


def test_no_motion_gives_the_picture_itself() -> None:
    second = pictures(2, 3, 5, 7)
    warped, inside = backward_warp(second, constant_flow(2, 5, 7, 0, 0))
    torch.testing.assert_close(warped, second)
    assert inside.all()


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (-1, 3), (0, -2)])
def test_whole_pixel_motion_is_undone_exactly(dx: int, dy: int) -> None:
    wide = pictures(1, 3, 20, 24)
    first, second = wide[..., 5:15, 5:17], wide[..., 5 - dy : 15 - dy, 5 - dx : 17 - dx]  # what was at p is at p + d
    flow, visible = constant_flow(1, 10, 12, dx, dy), torch.ones(1, 10, 12, dtype=torch.bool)
    warped, inside = backward_warp(second, flow)
    torch.testing.assert_close(warped[0][:, inside[0]], first[0][:, inside[0]])
    assert int(inside.sum()) == (12 - abs(dx)) * (10 - abs(dy))
    assert warp_error(first, second, flow, visible).item() == pytest.approx(0, abs=1e-12)
    assert warp_error(first, second, -flow, visible).item() > 0.1


def test_half_a_pixel_on_a_ramp() -> None:
    ramp = torch.arange(8, dtype=torch.float64).expand(1, 3, 4, 8) / 10
    warped, inside = backward_warp(ramp, constant_flow(1, 4, 8, 0.5, 0))
    torch.testing.assert_close(warped[..., :-1], ramp[..., :-1] + 0.05)
    assert inside.all()


def test_error_is_an_average_over_visible_pixels_only() -> None:
    first = torch.zeros(3, 3, 4, 4)
    second = torch.zeros(3, 3, 4, 4)
    second[:, :, 0, 0] = 0.6
    visible = torch.zeros(3, 4, 4, dtype=torch.bool)
    visible[0] = True
    visible[1, 0, 0] = True
    flow = torch.zeros(3, 2, 4, 4)
    everywhere, one_pixel, nothing = warp_error(first, second, flow, visible).tolist()
    assert everywhere == pytest.approx(0.6 / 16)
    assert one_pixel == pytest.approx(0.6)
    assert math.isnan(nothing)


def test_flow_that_is_no_number_is_not_seen() -> None:
    first, second = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)
    flow = torch.zeros(1, 2, 2, 2)
    flow[0, 0, 0, 0], flow[0, 1, 0, 1] = math.inf, math.nan
    second[0, :, 0] = 1.0
    warped, inside = backward_warp(second, flow)
    assert warped.isfinite().all()
    assert inside.tolist() == [[[False, False], [True, True]]]
    assert warp_error(first, second, flow, torch.ones(1, 2, 2, dtype=torch.bool)).item() == pytest.approx(0.5)


def test_turning_everything_changes_nothing() -> None:
    first, second = pictures(1, 3, 6, 6), pictures(1, 3, 6, 6, seed=1)
    flow, visible = 4 * (pictures(1, 2, 6, 6, seed=2) - 0.5), pictures(1, 6, 6, seed=3) > 0.3
    mirrored = torch.stack([-flow[:, 0], flow[:, 1]], dim=1).flip(-1)
    torch.testing.assert_close(
        warp_error(first.flip(-1), second.flip(-1), mirrored, visible.flip(-1)),
        warp_error(first, second, flow, visible),
    )


def test_edge_sizes() -> None:
    one = torch.full((1, 3, 1, 1), 0.25)
    seen = torch.ones(1, 1, 1, dtype=torch.bool)
    assert warp_error(one, one + 0.5, torch.zeros(1, 2, 1, 1), seen).item() == pytest.approx(0.5)
    none = warp_error(one[:0], one[:0], torch.zeros(0, 2, 1, 1), seen[:0])  # a clip of one frame has no pairs
    assert none.shape == (0,)


def test_a_real_stereo_pair_agrees_under_its_true_disparity() -> None:
    if not STEREO.is_dir():
        pytest.skip("the stereo pair ../shared/data/reference/stereo_motorcycle is not here")

    def picture(name: str) -> Tensor:
        levels = np.array(Image.open(STEREO / name).convert("RGB"))
        return torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 255

    left, right = picture("motorcycle_left.png"), picture("motorcycle_right.png")
    with np.load(STEREO / "motorcycle_disp.npz") as file:
        disparity = torch.from_numpy(next(iter(file.values())).astype("float32"))
    known = (disparity.isfinite() & (disparity > 0))[None]
    flow = torch.stack([-disparity, torch.zeros_like(disparity)])[None]
    error = 255 * warp_error(left, right, flow, known).item()
    unwarped = 255 * warp_error(left, right, torch.zeros_like(flow), known).item()
    wrong_way = 255 * warp_error(left, right, -flow, known).item()
    assert error < 10  # 8.2 by a program of others
    assert unwarped > 4 * error
    assert wrong_way > 4 * error
