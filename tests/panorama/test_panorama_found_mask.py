"""Masks that the prior finds for a picture: flat, closed or a sphere; the same again when given back or resumed."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from panorama_toys import load, save, toy_edit

from csd3d.engine.config import CsdConfig
from csd3d.evaluate.cases import case_of_run
from csd3d.media.pictures.levels import to_levels
from csd3d.priors.auto import load_prior
from csd3d.runs.job import Request
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from csd3d.world.camera import Camera, look_at
from csd3d.world.render import render
from csd3d.world.scene import Scene, Thing
from panorama import PanoramaConfig, edit_image
from panorama.edit import PanoramaEditor
from panorama.plane import make_plane
from panorama.preview import preview_picture
from panorama.sphere import make_sphere
from panorama.views import sphere_positions
from tests.toys import ToyPrior

CSD = CsdConfig(steps=6, lr=0.2, t_min=400, t_max=600)
CONFIG = PanoramaConfig(csd=CSD, windows_per_step=3, checkpoint_every=2, wrap="none", mask="auto")
FORMS = [("none", (48, 192)), ("cylinder", (48, 192)), ("sphere", (96, 192))]


def halves(path, size=(48, 192), dark=np.s_[:, 70:110]):
    """A bright picture with a dark part."""
    grain = np.random.default_rng(0).integers(190, 215, (*size, 3))
    grain[dark] -= 150
    return save(path, grain.astype(np.uint8))


@pytest.mark.parametrize(("wrap", "size"), FORMS)
def test_what_the_sentence_does_not_edit_stays_bit_for_bit(tmp_path, wrap, size):
    picture = halves(tmp_path / "halves.png", size, np.s_[size[0] // 2 - 20 : size[0] // 2 + 20, 70:110])
    config = replace(CONFIG, wrap=wrap, size=32 if wrap != "sphere" else None)
    result = toy_edit(picture, tmp_path / "run", "make the dark red", config=config)
    before, after, mask = load(picture).astype(int), load(result.path).astype(int), load(tmp_path / "run" / "mask.png")
    changed = (before != after).any(-1)
    assert changed[size[0] // 2 - 6 : size[0] // 2 + 6, 80:100].mean() > 0.9
    assert not changed[:, 150:].any()
    assert not changed[:, :30].any()
    assert mask.ndim == 2
    assert abs(mask.shape[1] / mask.shape[0] - size[1] / size[0]) < 0.02
    share = Manifest.read(tmp_path / "run" / "manifest.json").numbers["part of the picture that the mask lets change"]
    assert float(share) == pytest.approx(mask.mean() / 255, abs=2e-3)
    assert any("of the picture may change" in note for note in result.notes)


@pytest.mark.parametrize(("wrap", "size"), FORMS)
def test_the_mask_given_back_gives_the_same_result(tmp_path, wrap, size):
    picture = halves(tmp_path / "halves.png", size)
    config = replace(CONFIG, wrap=wrap)
    found = toy_edit(picture, tmp_path / "run", "make the dark red", config=config)
    given = replace(config, mask=str(tmp_path / "run" / "mask.png"))
    again = toy_edit(picture, tmp_path / "again", "make the dark red", config=given)
    assert found.path.read_bytes() == again.path.read_bytes()
    assert found.facts == again.facts  # windows that see nothing of the edit are none


def test_a_resumed_run_finds_nothing_anew(tmp_path):
    picture, run_dir = halves(tmp_path / "halves.png"), tmp_path / "run"
    whole = toy_edit(picture, tmp_path / "whole", "make the dark red", config=CONFIG)
    toy_edit(picture, run_dir, "make the dark red", config=replace(CONFIG, csd=replace(CSD, steps=3)))
    differences = (run_dir / "differences.npy").stat().st_mtime_ns
    (run_dir / "mask.png").unlink()
    again = toy_edit(picture, run_dir, "make the dark red", config=CONFIG, resume=True)
    assert (run_dir / "differences.npy").stat().st_mtime_ns == differences
    assert again.path.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize(("prompt", "reason"), [("make it dark", "edits the whole"), ("make it stay", "no place")])
def test_an_edit_of_everything_gets_no_mask(tmp_path, prompt, reason):
    picture = halves(tmp_path / "halves.png")
    result = toy_edit(picture, tmp_path / "run", prompt, config=CONFIG, editor=edit_image)
    plain = replace(CONFIG, mask=None)
    assert (
        result.path.read_bytes()
        == toy_edit(picture, tmp_path / "plain", prompt, config=plain, editor=edit_image).path.read_bytes()
    )
    assert not (tmp_path / "run" / "mask.png").exists()
    (note,) = (note for note in result.notes if note.startswith("mask: none"))
    assert reason in note
    assert "\n" not in note


def test_every_region_has_a_mask_of_its_own(tmp_path):
    picture = halves(tmp_path / "halves.png")
    config = replace(CONFIG, prompt_at=("0,0.25=make it dark",))
    result = toy_edit(picture, tmp_path / "run", "make the dark red", config=config)
    changed = (load(picture) != load(result.path)).any(-1)
    assert changed[:, :36].mean() > 0.9  # all of the region that is darkened
    assert changed[8:40, 80:100].mean() > 0.9
    assert not changed[:, 150:].any()


def test_a_prior_of_captions_needs_one_of_the_source(tmp_path):
    class Captions(ToyPrior):
        kind = "text-to-image"

    config = replace(CONFIG, csd=replace(CSD, residual="noise"))
    picture = halves(tmp_path / "halves.png")
    with pytest.raises(ValueError, match="source-prompt: expected what the source shows"):
        toy_edit(picture, tmp_path / "run", "make the dark red", config=config, prior=Captions())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_words_say_where_a_picture_may_change(tmp_path):
    """With the built-in priors, one of which reads for the other."""
    scene = Scene((Thing("ball", (0.0, 0.0), colour="blue"),), ground="grass")
    rgb = render([scene], [Camera(look_at((0.0, -4.6, 1.6), (0.0, 0.0, 0.8)), 128, 128)])[0]
    picture, prior = save(tmp_path / "ball.png", to_levels(rgb)), load_prior("builtin", device="cpu")
    config = PanoramaConfig(csd=prior.defaults("csd-edit", "quick"), mask_words="the ball")
    config = replace(config, csd=replace(config.engine, steps=2))
    edit = partial(edit_image, picture, "make the ball red", prior=prior, progress=RunProgress(quiet=True))
    result = edit(config=config, run_dir=tmp_path / "run")
    before, after, mask = load(picture), load(result.path), load(tmp_path / "run" / "mask.png")
    assert 0.05 < (mask > 0).mean() < 0.7
    assert np.array_equal(before[mask == 0], after[mask == 0])
    assert (before != after).any()
    given = replace(config, mask=str(tmp_path / "run" / "mask.png"), mask_words=None)
    assert edit(config=given, run_dir=tmp_path / "again").path.read_bytes() == result.path.read_bytes()
    assert case_of_run(tmp_path / "run").mask == tmp_path / "run" / "mask.png"
    assert case_of_run(tmp_path / "again").mask == tmp_path / "run" / "mask.png"
    with pytest.raises(ValueError, match="mask-words: expected what builtin:t2i knows") as error:
        edit(config=replace(config, mask_words="the zebra"), run_dir=tmp_path / "none")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "none").exists()


def test_words_and_a_mask_are_refused_together():
    with pytest.raises(ValueError, match="mask: expected none beside mask-words 'the ball', got 'auto'"):
        replace(CONFIG, mask_words="the ball")
    with pytest.raises(ValueError, match="expected what to look for, such as"):
        PanoramaConfig(mask_words=" ")


def test_values_of_a_cylinder_go_on_over_its_seam():
    plane = make_plane(32, 128, size_px=32, factor=8, window_lat=4, stride_lat=2, wraps=True)
    values = torch.zeros(1, 4, 16)
    values[:, :, 0] = 1
    got = plane.unrolled(values)
    assert got.shape == (32, 128)
    assert torch.equal(got[:, :8], got[:, :8].flip(1))  # the same to both sides of the seam
    assert torch.equal(got[:, 8:16], got[:, -8:].flip(1))
    assert got[0, -1] == pytest.approx(7 / 16)


def test_views_of_a_sphere_give_back_what_they_all_show():
    sphere = make_sphere(64, 128, size_px=64, factor=8, window_px=32)
    latitude = [sphere_positions(replace(view, side_px=4).directions())[1] for view in sphere.views]
    values = torch.stack(latitude).float()
    assert torch.allclose(sphere.fused(values), values, atol=0.05)
    expected = ((torch.arange(64) + 0.5) / 64)[:, None].expand(64, 128)
    assert (sphere.unrolled(values) - expected).abs().mean() < 0.03


@pytest.mark.parametrize("feather", [0.0, 6.0])
def test_a_feather_is_of_the_mask_that_is_found_too(tmp_path, feather):
    picture = halves(tmp_path / "halves.png")
    config = replace(CONFIG, feather=feather)
    found = toy_edit(picture, tmp_path / "run", "make the dark red", config=config)
    given = replace(config, mask=str(tmp_path / "run" / "mask.png"))
    again = toy_edit(picture, tmp_path / "again", "make the dark red", config=given)
    assert found.path.read_bytes() == again.path.read_bytes()


def test_a_preview_edits_within_the_mask_and_writes_no_other_file(tmp_path):
    picture = halves(tmp_path / "halves.png")
    looks = {}
    for mask in ("auto", None):
        request = Request(picture, "make the dark red", None, replace(CONFIG, mask=mask))
        out = preview_picture(
            PanoramaEditor, request, tmp_path / "look.png", prior=ToyPrior(), progress=RunProgress(quiet=True)
        )
        looks[mask] = out.read_bytes()
    assert looks["auto"] != looks[None]
    assert {p.name for p in tmp_path.iterdir()} == {"halves.png", "look.png"}
