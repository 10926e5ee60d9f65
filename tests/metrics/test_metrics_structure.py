"""Structure distance: blind to colour, sees what moves."""

import math

import pytest
import torch

from csd3d.metrics import structure_distance
from csd3d.metrics.structure import CELL_PX, FAINT, ORIENTATIONS, self_similarity


def stripes(horizontal: bool, size: int = 32) -> torch.Tensor:
    wave = 0.5 + 0.4 * torch.sin(torch.arange(size) * 2 * math.pi / 8)
    picture = wave[:, None].expand(size, size) if horizontal else wave[None].expand(size, size)
    return picture.expand(1, 3, size, size).clone()


def test_equal_structure_in_other_colours_is_no_distance() -> None:
    rgb = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(structure_distance(rgb, rgb), torch.zeros(2))
    torch.testing.assert_close(structure_distance(rgb, 1 - rgb), torch.zeros(2), atol=1e-9, rtol=0)


def test_what_turns_or_vanishes_is_a_distance() -> None:
    a = stripes(True)
    half = a.clone()
    half[..., 16:] = stripes(False)[..., 16:]
    gone = a.clone()
    gone[..., 16:] = 0.5
    assert float(structure_distance(a, half)) > 0.1
    assert float(structure_distance(a, gone)) > 0.1
    faded = 0.5 + 0.7 * (a - 0.5)
    assert float(structure_distance(a, faded)) < 0.01


def test_self_similarity_is_what_loops_say() -> None:
    rgb = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    luma = (0.299 * rgb[0, 0] + 0.587 * rgb[0, 1] + 0.114 * rgb[0, 2]).tolist()
    cells = [[0.0] * ORIENTATIONS + [FAINT] for _ in range(4)]
    for y in range(16):
        for x in range(16):
            dx = (luma[y][min(x + 1, 15)] - luma[y][max(x - 1, 0)]) / 2
            dy = (luma[min(y + 1, 15)][x] - luma[max(y - 1, 0)][x]) / 2
            angle = math.atan2(dy, dx) % math.pi
            for k in range(ORIENTATIONS):
                apart = abs(angle - k * math.pi / ORIENTATIONS)
                apart = min(apart, math.pi - apart)
                share = max(0.0, 1 - apart * ORIENTATIONS / math.pi) * math.hypot(dx, dy) / CELL_PX**2
                cells[y // CELL_PX * 2 + x // CELL_PX][k] += share
    matrix = self_similarity(rgb)[0]
    for i, a in enumerate(cells):
        for j, b in enumerate(cells):
            cosine = sum(p * q for p, q in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
            assert float(matrix[i, j]) == pytest.approx(cosine, abs=1e-5)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        structure_distance(torch.rand(1, 3, 12, 16), torch.rand(1, 3, 12, 16))
