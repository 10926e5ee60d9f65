"""Where rays meet the primitives: against marching in small steps; normals against finite differences."""

import pytest
import torch
from world_toys import march, outside

from csd3d.world.geometry import HIT, NORMAL, PRIMITIVES

KINDS = list(enumerate(PRIMITIVES))


def rays_at(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays from a sphere of radius 3 towards points in the unit cube; directions of length 0.5."""
    rng = torch.Generator().manual_seed(seed)
    o = 3 * torch.nn.functional.normalize(torch.randn(count, 3, generator=rng, dtype=torch.float64), dim=-1)
    aim = torch.rand(count, 3, generator=rng, dtype=torch.float64) * 2.4 - 1.2
    return o.to(dtype), (0.5 * torch.nn.functional.normalize(aim - o, dim=-1)).to(dtype)


@pytest.mark.parametrize(("index", "kind"), KINDS, ids=PRIMITIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_first_hit_is_where_marching_enters(index: int, kind: str, dtype: torch.dtype) -> None:
    o, d = rays_at(300, dtype=dtype)
    steps = torch.linspace(0, 10, 4001, dtype=torch.float64)
    inside_at, least = march(outside(kind, o.double()[:, None] + steps[:, None] * d.double()[:, None]), steps)
    t = HIT[index](o, d).double()
    clear = (least - 0).abs() > 5e-3  # a ray that only grazes may be told either way
    assert clear.float().mean() > 0.9
    assert torch.equal((t < torch.inf)[clear], (inside_at < torch.inf)[clear])
    both = clear & (t < torch.inf)
    assert both.sum() > 30
    assert (t - inside_at)[both].abs().max() < (0.03 if dtype == torch.float32 else 0.003)  # a step; grazing the ring
    on_surface = outside(kind, o.double() + t.clamp_max(10)[:, None] * d.double())[both].abs()
    assert on_surface.max() < (2.5e-3 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize(("index", "kind"), KINDS, ids=PRIMITIVES)
def test_normals_point_along_the_finite_difference(index: int, kind: str) -> None:
    o, d = rays_at(200, seed=1)
    t = HIT[index](o, d)
    p = (o + t[:, None] * d)[t < torch.inf]
    h = 1e-6
    steps = h * torch.eye(3, dtype=torch.float64)
    gradient = torch.stack([(outside(kind, p + s) - outside(kind, p - s)) / (2 * h) for s in steps], dim=-1)
    normal = torch.nn.functional.normalize(NORMAL[index](p), dim=-1)
    cosine = (normal * torch.nn.functional.normalize(gradient, dim=-1)).sum(-1)
    assert len(p) > 20
    assert (cosine > 0.999).double().mean() > 0.99  # a difference across an edge has no direction
    assert (normal * d[t < torch.inf]).sum(-1).max() < 1e-6  # it faces the ray


@pytest.mark.parametrize(("index", "kind"), KINDS, ids=PRIMITIVES)
def test_rays_that_lead_away_or_pass_by_miss(index: int, kind: str) -> None:
    o, d = rays_at(50, seed=2)
    assert (HIT[index](o, -d) == torch.inf).all()
    beside = torch.tensor([[3.0, 0.0, 5.0]]), torch.tensor([[-1.0, 0.0, 0.0]])
    assert HIT[index](*beside).item() == torch.inf


def test_rays_along_the_axes_meet_the_box_where_it_is() -> None:
    o = torch.tensor([[0.2, 0.3, 4.0], [0.0, 0.0, 0.0], [0.0, 1.5, 4.0]])
    d = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    assert HIT[1](o, d).tolist() == pytest.approx([3.0, 1.0, torch.inf])


def test_a_ray_through_the_hole_of_the_ring_misses_it() -> None:
    o = torch.tensor([[0.0, -4.0, 0.0], [0.7, -4.0, 0.0]])
    d = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert HIT[4](o, d).tolist() == pytest.approx([torch.inf, 3.7], abs=3e-3)


def test_no_rays_no_hits() -> None:
    for hit in HIT:
        assert hit(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)
