"""Masks that are found for the views of a scene, from maps that are known exactly."""

from fractions import Fraction

import pytest
import torch

from csd3d.attention.masks import found_in
from csd3d.media.geometry import pixel_centres, working_size
from csd3d.nerf import found_masks
from csd3d.nerf.found_masks import near_views, view_masks
from csd3d.nerf.masks import Region, read_masks
from tests.toys import ToyPrior

SIZE = working_size(Fraction(64, 32), 32, 8)
N = 3


class Seen:
    """Finds what is dark in a view's latents; a `Seeker`. Counts views and their noise."""

    def __init__(self, factor=1.0):
        self.noise, self.factor = {}, factor

    def maps(self, s, index, *, rng):
        self.noise[int(index)] = float(torch.rand((), generator=rng))
        return self.factor * (s[:, 3] < 0).float()

    def found(self, maps, shown=None):
        return found_in(maps, shown)

    def why_none(self, sentence, found):
        return f"{found.extent}: {sentence}"


def views():
    """Bright, with a dark square that is 16 px further to the right in every view; the last view has none."""
    rgb = torch.full((N, 3, 32, 64), 0.8)
    for i in range(N - 1):
        rgb[i, :, 8:24, 16 * i : 16 * i + 16] = 0.1
    return rgb


def seek(seeker, said, **options):
    return view_masks(views(), ToyPrior(), seeker, "make the dark red", SIZE, seed=3, say=said.append, **options)


def find(seeker, said=None, **options):
    masks = seek(seeker, [] if said is None else said, **options)
    assert masks is not None
    return masks


def test_a_mask_is_where_the_views_are_edited_at_the_size_of_the_views():
    said = []
    masks = find(Seen(), said)
    assert masks.shape == (N, 1, 32, 64)
    assert masks.dtype == torch.bool
    for i in range(N - 1):
        assert masks[i, 0, 8:24, 16 * i : 16 * i + 16].all()
        assert not masks[i, 0, :, 16 * i + 32 :].any()
    assert not masks[2].any()
    assert said == [f"mask: {masks.float().mean():.0%} of the views may change"]


def test_views_are_averaged_where_they_show_the_same():
    """Nothing is found in the last view, which another one makes up for where it looks at the same points."""

    def shifted(i, index):
        shift = torch.stack([2.0 * (index - int(index[i])), torch.zeros(len(index))], -1)
        position = pixel_centres(4, 8) + shift[:, None, None]
        return position, ((position[..., 0] > 0) & (position[..., 0] < 8)).float()

    alone, masks = find(Seen()), find(Seen(), correspondences=shifted, near=[[0, 1], [1, 0], [2, 1]])
    assert torch.equal(masks[:2], alone[:2])  # both say so
    assert not alone[2].any()
    assert masks[2, 0, 12:20, 36:44].all()  # the second view says so
    assert torch.equal(find(Seen(), correspondences=shifted, near=[[0, 1], [1, 0], [2]]), alone)


@pytest.mark.parametrize(("seeker", "extent"), [(Seen(0.0), "nowhere"), (Seen(-1.0), "whole")])
def test_an_edit_of_everything_or_nothing_gets_none_and_says_so(seeker, extent, monkeypatch):
    if extent == "whole":
        seeker.maps = lambda s, index, *, rng: torch.ones_like(s[:, 0])
    said = []
    assert seek(seeker, said) is None
    assert said == [f"mask: none, as {extent}: make the dark red"]


def test_noise_of_a_view_is_its_own_whichever_process_draws_it(monkeypatch):
    whole, shared = Seen(), Seen()
    find(whole)

    def second_of_two(count, do):
        return torch.cat([do([k]) for k in range(count)])

    monkeypatch.setattr(found_masks, "map_sharded", second_of_two)
    find(shared)
    assert whole.noise == shared.noise
    assert len(set(whole.noise.values())) == N


def test_the_nearest_cameras_are_those_that_stand_next_and_itself_is_among_them():
    c2w = torch.eye(3, 4).repeat(5, 1, 1)
    c2w[:, 0, 3] = torch.tensor([0.0, 1, 3, 7, 7])  # two at the same place
    near = near_views(c2w, 3)
    assert [sorted(row) for row in near] == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [2, 3, 4], [2, 3, 4]]
    assert all(view in row for view, row in enumerate(near))
    assert len(near_views(c2w[:2])[0]) == 2


def test_what_was_found_is_within_what_was_given(tmp_path):
    found, given = torch.zeros(2, 1, 4, 4, dtype=torch.bool), torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    found[:, :, :3], given[:, :, 2:] = True, True
    box = (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    both = Region(given, box).within(found)
    assert both.box == box
    assert both.masks is not None
    assert torch.equal(both.masks, found & given)
    assert Region(None, None).within(found).masks is found
    with pytest.raises(FileNotFoundError, match="mask-dir"):
        read_masks(tmp_path / "none", ["a"], 4, 4)
