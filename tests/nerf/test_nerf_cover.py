"""Which views come next: spread out, every one once a round."""

import itertools

import torch

from csd3d.nerf.cover import Cover, camera_distances, farthest


def ring(count: int) -> torch.Tensor:
    """Cameras on a circle that look at its middle, in file order."""
    angle = torch.arange(count) * 2 * torch.pi / count
    centre = torch.stack([angle.cos(), angle.sin(), torch.zeros(count)], dim=1)
    back = centre  # a camera looks along its own -z
    up = torch.tensor([0.0, 0.0, 1.0]).expand(count, 3)
    right = torch.linalg.cross(up, back)
    return torch.stack([right, up, back, centre], dim=2)


def test_distances_match_a_loop() -> None:
    c2w = ring(5) + 0.1 * torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    got = camera_distances(c2w)
    centres = c2w[:, :, 3]
    spread = sum(float((c - centres.mean(0)).norm()) for c in centres) / 5
    for i, j in itertools.product(range(5), range(5)):
        a, b = (-c2w[k, :, 2] / c2w[k, :, 2].norm() for k in (i, j))
        expected = float((centres[i] - centres[j]).norm()) / spread + 1 - float(a @ b)
        assert abs(float(got[i, j]) - expected) < 1e-5


def test_a_batch_is_spread_round_a_ring() -> None:
    for seed in range(5):
        chosen = farthest(camera_distances(ring(16)), list(range(16)), 4, torch.Generator().manual_seed(seed))
        gaps = [(b - a) % 16 for a, b in itertools.pairwise([*chosen, chosen[0]])]
        assert min(gaps) >= 3, chosen  # in file order the gaps would be 1


def test_every_view_has_its_turn_each_round_and_batches_are_full() -> None:
    rng, cover = torch.Generator().manual_seed(1), Cover(ring(10))
    batches = [cover.next(4, rng) for _ in range(5)]
    assert all(len(set(b)) == 4 for b in batches)
    first = set(batches[0]) | set(batches[1]) | set(batches[2])
    assert first == set(range(10))


def test_what_is_left_of_a_round_is_its_whole_state() -> None:
    one, other = Cover(ring(9)), Cover(ring(9))
    rng = torch.Generator().manual_seed(3)
    one.next(4, rng)
    other.left = list(one.left)
    twin = torch.Generator()
    twin.set_state(rng.get_state())
    assert [one.next(4, rng) for _ in range(4)] == [other.next(4, twin) for _ in range(4)]
