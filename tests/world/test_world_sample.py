"""Samples: the same seed gives the same pictures, whatever is asked for, and edits that show."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import pad

from csd3d.world.camera import project
from csd3d.world.edits import all_edits, applicable, describe, find_edit
from csd3d.world.filters import pencil_sketch, sepia
from csd3d.world.render import render
from csd3d.world.sample import (
    FIRST_SEED,
    Clip,
    Views,
    changed_share,
    sample_clip,
    sample_panorama,
    sample_photo,
    sample_scene,
    spread,
)
from csd3d.world.scene import SceneSampler


def small_clip(seed: int = 3, **change) -> Clip:
    return sample_clip(seed, **({"frames": 5, "height_px": 24, "width_px": 32, "moving": True} | change))


def test_same_seed_same_clip_other_seed_other_clip() -> None:
    assert torch.equal(small_clip().source(), small_clip().source())
    assert not torch.equal(small_clip().source(), small_clip(4).source())


def test_a_range_is_a_part_of_the_whole() -> None:
    clip = small_clip()
    whole = clip.source()
    assert whole.shape == (5, 3, 24, 32)
    assert 0 <= whole.min() <= whole.max() <= 1
    assert torch.equal(clip.source(1, 3), whole[1:3])
    assert torch.equal(clip.source(4), whole[4:])
    assert torch.equal(torch.cat(list(clip.batches(count=2))), whole)
    for sentence in ("make it night", "make it a pencil sketch"):
        edited = clip.truth(sentence)
        assert torch.equal(clip.truth(sentence, 2, 4), edited[2:4])
        assert torch.equal(torch.cat(list(clip.batches(find_edit(sentence), count=3))), edited)
    with pytest.raises(ValueError, match="expected a range within 0 to 5, got 5 to None"):
        clip.source(5)


def test_truth_is_the_edited_scene_at_every_time() -> None:
    clip = small_clip()
    edit = find_edit("make it night")
    for i, (camera, s) in enumerate(zip(clip.cameras, clip.seconds, strict=True)):
        assert torch.equal(clip.truth(edit, i, i + 1), render([edit.scene(clip.scene.at(s))], [camera]))
    assert torch.equal(clip.truth("make it sepia"), sepia(clip.source()))


def test_sampled_scenes_were_never_trained_on() -> None:
    scenes = {sample_clip(7).scene, sample_photo(7).scene, sample_scene(7).scene}
    assert scenes == {SceneSampler().sample(FIRST_SEED + 7)}
    assert FIRST_SEED > 1_000_000


def test_time_runs_at_the_given_rate_and_is_zero_in_the_middle() -> None:
    clip = small_clip(fps=8.0)
    assert clip.fps == 8
    assert clip.seconds == pytest.approx((-0.25, -0.125, 0, 0.125, 0.25))


@pytest.mark.parametrize("frames", [24, 240])
def test_things_drift_clear_of_each_other_and_not_out_of_the_picture(frames: int) -> None:
    moved = 0
    for seed in range(12):
        clip = sample_clip(seed, frames=frames, height_px=16, width_px=16, moving=True)
        still = sample_clip(seed, frames=frames, height_px=16, width_px=16)
        first, last = (clip.scene.at(s).things for s in (clip.seconds[0], clip.seconds[-1]))
        for a, b, where in zip(first, last, still.scene.things, strict=True):
            way = math.dist(a.position, b.position)
            assert 0.1 < way < 0.91
            moved += 1
            assert math.dist(a.position, where.position) == pytest.approx(way / 2, abs=1e-6)
        for s in clip.seconds[:: max(1, frames // 8)]:
            for a, b in itertools.combinations(clip.scene.at(s).things, 2):
                apart = math.dist(a.position, b.position)
                velocity_is_shared = a.velocity == b.velocity
                assert velocity_is_shared or apart > 0.95 * (a.size + b.size)
    assert moved > 12


@pytest.mark.parametrize("path", ["orbit", "dolly", "pan", "shake"])
def test_every_path_moves_the_picture_a_little(path) -> None:
    clip = small_clip(path=path, moving=False, frames=8)
    steps = clip.source().diff(dim=0).abs().mean((1, 2, 3))
    assert steps.min() > 0.0005
    assert steps.max() < 0.1
    assert clip.flow(0, 1).flow.abs().median() < 8
    assert clip.flow(0, 7).visible.float().mean() > 0.4


def test_flow_between_pictures_uses_their_times() -> None:
    clip = small_clip()
    there, still = clip.flow(0, 4), clip.flow(2, 2)
    assert there.flow.shape == (2, 24, 32)
    assert there.flow.abs().max() > 0.5
    assert still.flow.abs().max() < 1e-5
    ids = clip.surfaces(2, 3).ids
    assert ids.shape == (1, 24, 32)
    assert (ids >= 2).any()


def test_edits_are_those_that_show() -> None:
    clip = sample_clip(5, frames=9, height_px=48, width_px=48)
    edits = clip.edits()
    assert set(edits) < set(applicable(clip.scene))
    assert [e.name for e in edits] == [e.name for e in all_edits() if e in edits]
    for edit in edits[::6]:
        assert (changed_share(clip.source(0, 1), clip.truth(edit, 0, 1)) > 0.01).all(), edit.name
    hidden = [e for e in applicable(clip.scene) if e not in edits]
    assert {e.kind for e in hidden} <= {"add", "sky", "ground", "colour", "material", "remove", "shape"}
    assert clip.edits(kinds=("style",)) == [e for e in edits if e.kind == "style"]


def test_chosen_edits_are_of_many_kinds_and_reproducible() -> None:
    clip = sample_clip(8, frames=2, height_px=32, width_px=32)
    chosen, edits = clip.choose(6), clip.edits()
    assert len({e.kind for e in chosen}) == 6
    assert chosen == spread(edits, 6, seed=0)
    assert chosen != spread(edits, 6, seed=1)
    assert spread(edits, 8, seed=0)[:6] == chosen
    styles = clip.choose(99, kinds=("style",))
    assert len(styles) == len(set(styles)) <= 10
    assert spread([], 3, seed=0) == []


def test_a_sentence_with_several_right_answers_has_no_one_truth() -> None:
    clip = sample_clip(0, frames=1, height_px=32, width_px=32)
    with pytest.raises(
        ValueError, match=r"'change the time of day' has several right answers; .* 'make it (day|sunset)'"
    ):
        clip.truth("change the time of day")


def test_an_edit_that_changes_nothing_is_refused_with_what_is_there() -> None:
    photo = sample_photo(4, height_px=16, width_px=16)
    what = describe(photo.scene)
    assert what == "a yellow ring on grass"
    with pytest.raises(ValueError, match=r"'make the dog red'") as unknown:
        photo.edit("make the dog red")
    assert "expected a sentence the world knows" in str(unknown.value)
    with pytest.raises(ValueError, match="'make the ball red' changes nothing in this scene") as misfit:
        photo.truth("make the ball red")
    assert what in str(misfit.value)
    named = str(misfit.value).split("for example, ")[1].replace("'", "").split(", ")
    assert len(named) == 6
    assert all(find_edit(w).applies(photo.scene) for w in named)
    assert photo.edit("make the ring red") is find_edit("make the ring red")


def test_test_views_lie_between_training_views() -> None:
    posed = sample_scene(2, train_views=12, test_views=4, height_px=16, width_px=24)
    assert (len(posed.train), len(posed.test)) == (12, 4)
    assert posed.train.source().shape == (12, 3, 16, 24)
    angle = [[math.degrees(math.atan2(c.c2w[1, 3], c.c2w[0, 3])) for c in v.cameras] for v in (posed.train, posed.test)]
    assert angle[0] == pytest.approx([-145 + 10 * i for i in range(12)], abs=1e-3)
    assert all(angle[0][0] < a < angle[0][-1] for a in angle[1])
    for views in (posed.train, posed.test):
        for camera in views.cameras:
            middle, _ = project(camera, torch.tensor([[0.0, 0.0, 0.85]]) - camera.c2w[:3, 3])
            assert middle[0].tolist() == pytest.approx([12, 8], abs=1e-3)
        assert (views.surfaces().ids >= 2).any(dim=(1, 2)).all()
    heights = [c.c2w[2, 3].item() for c in posed.train.cameras]
    assert max(heights) - min(heights) > 0.5
    every = sample_scene(2, train_views=8, test_views=2, height_px=16, width_px=16, arc=360.0)
    assert math.dist(*(every.train.cameras[i].c2w[:2, 3].tolist() for i in (0, -1))) < 4  # it closes


def test_a_panorama_has_things_all_around_that_can_be_told_apart() -> None:
    sphere = sample_panorama(2, height_px=48)
    assert (sphere.height_px, sphere.width_px, len(sphere)) == (48, 96, 1)
    assert len({t.shape for t in sphere.scene.things}) == len(sphere.scene.things) == 7
    ids = sphere.surfaces().ids[0]
    columns = [(ids == 2 + k).nonzero()[:, 1].float().mean() for k in range(7)]
    assert all(c.isfinite() for c in columns)
    gaps = sorted(columns)
    assert all(6 < b - a < 24 for a, b in itertools.pairwise(gaps))
    assert {e.kind for e in sphere.edits()} >= {"colour", "shape", "remove", "weather", "style", "ground"}
    strip = sample_panorama(2, kind="strip", height_px=32, turn=120.0)
    assert strip.cameras[0].projection == "cylindrical"
    assert strip.width_px == round(math.radians(120) * strip.cameras[0].focal_px)
    assert not strip.cameras[0].wraps
    assert sample_panorama(2, kind="strip", height_px=32, turn=360.0).cameras[0].wraps


def test_a_style_has_no_seam_where_the_picture_wraps() -> None:
    sphere = sample_panorama(1, height_px=64)
    source, edited = sphere.source(), sphere.truth("make it a pencil sketch")
    assert edited.shape == source.shape
    turned = torch.roll(pencil_sketch(pad(torch.roll(source, 64, dims=-1), (0, 0, 0, 0))), -64, dims=-1)
    torch.testing.assert_close(edited[..., :16], turned[..., :16], rtol=0, atol=1e-6)
    torch.testing.assert_close(edited[..., -16:], turned[..., -16:], rtol=0, atol=1e-6)
    photo = sample_photo(8, height_px=24, width_px=24)
    assert torch.equal(photo.truth("make it a pencil sketch"), pencil_sketch(photo.source()))


def test_nonsense_is_refused() -> None:
    scene = sample_photo(0, height_px=8, width_px=8)
    with pytest.raises(ValueError, match="frames: expected 1 or more, got 0"):
        sample_clip(0, frames=0)
    with pytest.raises(ValueError, match="fps: expected more than 0"):
        sample_clip(0, fps=0.0)
    with pytest.raises(ValueError, match="test_views: expected 1 or more, got 0"):
        sample_scene(0, test_views=0)
    with pytest.raises(ValueError, match="arc: expected degrees"):
        sample_scene(0, arc=400.0)
    with pytest.raises(ValueError, match="turn of a strip"):
        sample_panorama(0, kind="strip", turn=0.0)
    with pytest.raises(ValueError, match="expected a time for each camera"):
        Views(scene.scene, scene.cameras, (0.0, 1.0))
