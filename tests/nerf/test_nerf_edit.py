"""Rendered views in, edited views out."""

from dataclasses import replace

import pytest
import torch

from csd3d.engine.config import METHODS
from csd3d.nerf.edit import edit_views, view_size
from csd3d.priors.instruct import InstructPrior
from tests.priors.tiny import write_tiny_prior

CSD = replace(METHODS["csd-edit"], steps=3, s_text=2.0, s_image=1.2)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> InstructPrior:
    return InstructPrior.load(write_tiny_prior(tmp_path_factory.mktemp("priors") / "tiny"), device="cpu")


def views(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 40, 52, generator=torch.Generator().manual_seed(seed))


def edited(prior: InstructPrior, renders: torch.Tensor, photographs: torch.Tensor, **how) -> torch.Tensor:
    rng = torch.Generator().manual_seed(5)
    return edit_views(renders, photographs, prior, "make it snowy", CSD, rng=rng, size_px=32, **how).rgb


def test_size_and_range_are_kept_and_a_seed_gives_the_same_bytes(prior: InstructPrior) -> None:
    photographs = views()
    once, twice = edited(prior, photographs, photographs), edited(prior, photographs, photographs)
    assert once.shape == photographs.shape
    assert once.min() >= 0
    assert once.max() <= 1
    assert torch.equal(once, twice)
    assert (once - photographs).abs().max() > 1e-3


def test_renders_may_be_smaller_than_photographs_and_are_where_particles_start(prior: InstructPrior) -> None:
    photographs = views()
    small = torch.nn.functional.interpolate(photographs, (20, 26), mode="area")
    a, b = edited(prior, small, photographs), edited(prior, 1 - small, photographs)
    assert a.shape == photographs.shape
    assert (a - b).abs().mean() > 1e-3


def test_views_are_moved_until_they_have_settled(prior: InstructPrior) -> None:
    photographs, rng = views(), torch.Generator().manual_seed(5)
    csd = replace(CSD, steps=40, tolerance=0.9)
    made = edit_views(photographs, photographs, prior, "make it snowy", csd, rng=rng, size_px=32)
    assert 3 <= len(made.curves) < 40


def test_no_strength_gives_the_photographs(prior: InstructPrior) -> None:
    photographs = views()
    assert torch.equal(edited(prior, views(seed=1), photographs, strength=0.0), photographs)


def test_outside_the_mask_every_bit_stays(prior: InstructPrior) -> None:
    photographs = views()
    inside = torch.zeros(3, 1, 40, 52, dtype=torch.bool)
    inside[:, :, 10:30, 10:40] = True
    got = edited(prior, photographs, photographs, inside=inside)
    outside = ~inside.expand_as(got)
    assert torch.equal(got[outside], photographs[outside])
    assert not torch.equal(got, photographs)


def test_sentences_that_are_not_known_are_refused(prior: InstructPrior) -> None:
    with pytest.raises(ValueError, match="does not know"):
        edit_views(views(), views(), prior, "make it purple", CSD, rng=torch.Generator(), size_px=32)


def test_adam_is_served_too(prior: InstructPrior) -> None:
    csd = replace(CSD, optimizer="adam", lr=0.05)
    photographs = views()
    got = edit_views(photographs, photographs, prior, "make it snowy", csd, rng=torch.Generator(), size_px=32).rgb
    assert got.isfinite().all()


class InPlace:
    """Every view shows the same at the same place."""

    def __init__(self, height: int, width: int) -> None:
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        self._centres = torch.stack([x, y], -1)

    def __call__(self, i: int, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = self._centres.shape[:2]
        return self._centres.expand(len(index), height, width, 2), torch.ones(len(index), height, width)


def test_views_of_the_same_are_edited_alike_where_they_correspond(
    prior: InstructPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = views(1).expand(3, -1, -1, -1).contiguous()
    size = view_size(photographs, prior, 32)
    units: list[int] = []

    def correspondences(unit_px: int) -> InPlace:
        units.append(unit_px)
        return InPlace(*(side // unit_px for side in size.padded))

    def apart(rgb: torch.Tensor) -> float:
        return float((rgb - rgb[:1]).abs().max())

    monkeypatch.setattr("csd3d.nerf.edit.SAME_COLOUR", 100.0)
    together = edited(prior, photographs, photographs, correspondences=correspondences)
    assert units == [prior.codec.factor, 1]
    assert apart(together) < 1e-4
    assert (together - photographs).abs().max() > 1e-3
    monkeypatch.setattr("csd3d.nerf.edit.SAME_COLOUR", 1e-6)  # nobody agrees with anybody
    assert apart(edited(prior, photographs, photographs, correspondences=correspondences)) > 1e-3
