"""What the exact edits of the sample world do is usual; nothing, and far too much, is said."""

import pytest
import torch

from csd3d.metrics.change import USUAL, Change, change_note, change_of, distance_note, growth_note, move_note
from csd3d.world.sample import sample_photo
from csd3d.world.wordings import KINDS


def test_the_change_of_pictures_is_that_of_the_strongest_and_of_what_is_shown():
    source = torch.rand(2, 3, 128, 192)
    assert change_of(source, source) == Change(0.0, 0.0)
    edited = source.clone()
    edited[1, 0, :64, :96] += 0.25
    change = change_of(source, edited)
    assert change.share == pytest.approx(0.25)
    assert change.peak == pytest.approx(0.25, abs=1e-5)
    hidden = torch.zeros(2, 1, 128, 192)
    hidden[..., 100:, :] = 1
    assert change_of(source, edited, hidden).peak == 0
    grain = source + 0.5 * (torch.rand(2, 3, 128, 192).round() - 0.5)
    assert change_of(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)).share == 0
    assert change_of(source, grain).peak < 0.3  # grain is no edit


def test_every_kind_of_the_world_is_known():
    assert set(USUAL) == set(KINDS)


def test_of_exact_edits_none_is_called_nothing_and_hardly_one_too_much():
    told = list[str | None]()
    for seed in (3, 8):
        photo = sample_photo(seed, height_px=96, width_px=96)
        edits = photo.choose(14, seed=seed)
        told += [change_note(change_of(photo.source(), photo.truth(e)), [e.name], [e.kind]) for e in edits]
    assert len(told) == 28
    assert not any(note and "next to nothing" in note for note in told)
    assert sum(note is not None for note in told) <= 4


@pytest.mark.parametrize("kind", sorted(USUAL))
def test_nothing_is_said_of_every_kind_and_of_priors_of_which_nothing_is_known(kind):
    for kinds in ([kind], []):
        note = change_note(Change(0.0, 1 / 255), ["make it so"], kinds)
        assert note is not None
        assert "'make it so' edited next to nothing" in note
        assert "changed by 1.0 levels of 255" in note


@pytest.mark.parametrize(
    "kinds", [["colour"], ["colour", "remove"], ["colour", "time"], ["time"], ["sky"], []], ids=str
)
def test_far_too_much_is_said_of_edits_of_things_alone(kinds):
    note = change_note(Change(0.74, 0.5), ["make the ball red"] * max(len(kinds), 1), kinds)
    assert (note is not None) == (kinds in (["colour"], ["colour", "remove"]))
    if note:
        assert "changed 74% of the picture" in note


def test_what_makes_noise_is_said_and_no_more():
    assert move_note(0.5, 1.5) is move_note(4.0, 8.0) is move_note(float("nan"), 1.0) is None
    assert "--lr 1e+06" in str(move_note(2e5, 1e6))
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert growth_note(2 * z, z) is growth_note(2 * z, None) is growth_note(z, 0.01 * z) is None
    assert "grew to 10 times" in str(growth_note(10 * z, z)).replace("10.0", "10")
    assert "grew" in str(growth_note(4 * z, None))
    assert distance_note(1.0) is None
    assert "--lr" in str(distance_note(4.0))
