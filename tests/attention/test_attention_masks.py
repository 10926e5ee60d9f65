"""Masks from predictions that are known exactly: how large a difference is, what is fused, what is an edit's extent."""

import pytest
import torch

from csd3d.attention.masks import EDGE, LEVEL, QUIET, SLOPE, SPREAD, WHOLE, difference, found_in, fuse, levels
from csd3d.engine.schedule import Schedule
from csd3d.media.geometry import pixel_centres
from tests.toys import GOALS, ToyScore

SCHEDULE = Schedule(torch.linspace(0.999, 0.01, 1000))


def latents(n=3, seed=0):
    return 0.5 * torch.randn(n, 4, 6, 8, generator=torch.Generator().manual_seed(seed))


def rng():
    return torch.Generator().manual_seed(7)


def test_a_difference_is_that_of_the_predictions_in_units_of_the_noise():
    s, sentences = latents(), ["make it dark", "make the dark red"]
    score = ToyScore([GOALS[k] for k in sentences], SCHEDULE, assign=torch.tensor([1, 0, 0, 1]))
    index, noises = torch.tensor([3, 1, 0]), 5
    draws, expected = rng(), torch.zeros(3, 6, 8)
    ab = SCHEDULE.alphas_cumprod[500]
    for i, particle in enumerate(index.tolist()):
        goal = GOALS[sentences[[1, 0, 0, 1][particle]]](s[i : i + 1])[0]
        for e in torch.randn(noises, 4, 6, 8, generator=draws):
            expected[i] += (ab / (1 - ab)).sqrt() * (s[i] - goal).abs().mean(0) / e.square().mean().sqrt() / noises
    assert torch.allclose(difference(score, s, index, rng=rng(), noises=noises), expected, atol=1e-5)
    unchanged = (s[0, 3] >= 0) & (s[0, 3] < 1)
    assert difference(score, s, index, rng=rng())[0][unchanged].max() < 1e-5 < expected[0][~unchanged].min()


def test_chunks_change_no_difference():
    s, score = latents(5), ToyScore([GOALS["make it dark"]], SCHEDULE)
    whole, again = difference(score, s, torch.arange(5), rng=rng()), rng()
    parts = [difference(score, s[k], k, rng=again) for k in torch.arange(5).split(2)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)


def test_maps_are_averaged_where_particles_show_the_same_points():
    maps = torch.rand(3, 4, 6, generator=rng())

    def pan(i, index):
        """Particle j shows everything j - i places further to the left; what leaves the picture is not seen."""
        shift = torch.stack([(int(index[i]) - index).float(), torch.zeros(len(index))], -1)
        position = pixel_centres(4, 6) + shift[:, None, None]
        return position, ((position[..., 0] > 0) & (position[..., 0] < 6)).float()

    got = fuse(maps, pan)
    assert torch.allclose(got[1, :, 1:5], (maps[0, :, 2:6] + maps[1, :, 1:5] + maps[2, :, 0:4]) / 3)
    assert torch.allclose(got[1, :, 0], (maps[0, :, 1] + maps[1, :, 0]) / 2)
    near = fuse(maps, pan, [[0], [2, 1], [1, 2]])
    assert torch.equal(near[0], maps[0])
    assert torch.allclose(near[2, :, :5], (maps[2, :, :5] + maps[1, :, 1:]) / 2)


def part(lowest=0.5 * QUIET, peak=1.0):
    """One place in each of two particles is edited."""
    maps = torch.full((2, 8, 10), lowest)
    maps[0, 3, 4] = maps[1, 0, 9] = peak
    return maps


def test_an_edit_of_a_part_is_masked_where_the_difference_is_a_share_of_its_peak():
    """The peak is that of the mean over 3 x 3 places, so that a single one does not shrink the mask."""
    maps = part()
    maps[1, 0, 9] = 0.4
    maps[0, 2:5, 3:6] = 0.5
    maps[0, 3, 4] = 1
    peak = float(maps[0, 2:5, 3:6].mean())
    maps[0, 6, 2], maps[0, 6, 7] = 1.01 * EDGE * peak, 0.99 * EDGE * peak
    found = found_in(maps)
    assert found.extent == "part"
    assert found.lowest == pytest.approx(0.5 * QUIET)
    assert found.spread == pytest.approx(float(maps.mean()))
    assert torch.allclose(found.mask, maps / (EDGE * peak))
    inside = levels(found.mask) > 0.5
    assert int(inside.sum()) == 11
    assert inside[0, 2:5, 3:6].all()
    assert inside[0, 6, 2]
    assert inside[1, 0, 9]


def test_levels_fade_around_the_border():
    values = torch.tensor([[0.0, 1 - 0.5 / SLOPE, 1, 1 + 0.25 / SLOPE, 1 + 0.5 / SLOPE, 9]])
    assert levels(values).flatten().tolist() == pytest.approx([0, 0, 0.5, 0.75, 1, 1])


def test_an_edit_of_everything_is_no_part_however_high_its_peak():
    found = found_in(part(1.01 * WHOLE))
    assert found.extent == "whole"
    assert levels(found.mask).min() == 1
    assert found_in(part(0.99 * WHOLE)).extent == "part"


@pytest.mark.parametrize(("lowest", "extent"), [(1.01 * QUIET, "whole"), (0.99 * QUIET, "part")])
def test_a_difference_that_is_spread_is_of_everything_unless_something_is_quiet(lowest, extent):
    maps = part(lowest, 0.4)
    maps[0, :, :] = 0.4 * 2.2 * SPREAD  # half of it
    assert found_in(maps).spread > SPREAD
    assert found_in(maps).extent == extent


def test_without_a_difference_nothing_is_edited():
    assert found_in(part(peak=1.01 * LEVEL)).extent == "part"
    found = found_in(part(peak=0.99 * LEVEL))
    assert found.extent == "nowhere"
    assert levels(found.mask).min() == 1


def test_only_what_a_sentence_holds_for_counts():
    maps = part()
    maps[1] = 0  # not of this sentence
    shown = torch.zeros(2, 8, 10, dtype=torch.bool)
    shown[0, 3, 4] = True
    assert found_in(maps, shown).extent == "whole"
    assert found_in(maps).extent == "part"
    shown[0, :, :3] = True
    found = found_in(maps, shown)
    assert found.extent == "part"
    assert found.mask[~shown].max() == 0
