"""Edits: every one is found by all its words, changes what it says and nothing else, and keeps its promises."""

from dataclasses import fields
from functools import cache

import pytest
import torch
from world_toys import front_camera, one_thing

from csd3d.world.cast import geometry_of, sun_direction
from csd3d.world.edits import (
    KINDS,
    Edit,
    about_absent,
    all_edits,
    applicable,
    describe,
    find_edit,
    normalise,
    vocabulary,
)
from csd3d.world.render import render, render_looks
from csd3d.world.scene import Scene, SceneSampler, Thing

EDITS = {e.name: e for e in all_edits()}
SCENES = [SceneSampler(plain=0.4, things=(1, 2)).sample(s) for s in range(200)]


@cache
def where_it_applies(name: str) -> list[Scene]:
    """Up to three scenes that the edit changes."""
    return [s for s in SCENES if EDITS[name].applies(s)][:3]


def same_surfaces(a: Scene, b: Scene) -> bool:
    ga, gb = geometry_of([a]), geometry_of([b])
    return all(torch.equal(getattr(ga, f.name), getattr(gb, f.name)) for f in fields(ga))


def test_there_are_enough_edits_of_every_kind_with_names_of_their_own() -> None:
    assert len(all_edits()) >= 24
    assert {e.kind for e in all_edits()} == set(KINDS)
    assert len(EDITS) == len(all_edits())
    assert all((e.on_scene is None) != (e.on_pixels is None) for e in all_edits())
    assert all_edits() is all_edits()


def test_wordings_are_six_or_more_unique_plain_and_all_but_the_last_are_trained() -> None:
    every = [w for e in all_edits() for w in e.wordings]
    assert len(every) == len(set(every))
    for edit in all_edits():
        assert len(edit.wordings) >= 6
        assert edit.trained == edit.wordings[:-1]
        assert edit.held_out == edit.wordings[-1]
        assert edit.held_out not in edit.trained
        assert all(w == normalise(w) for w in edit.wordings)


def test_held_out_wordings_are_made_of_trained_words() -> None:
    known = {word for e in all_edits() for w in e.trained for word in w.split()}
    assert {word for e in all_edits() for word in e.held_out.split()} <= known


def test_every_wording_finds_its_edit_however_it_is_written() -> None:
    for edit in all_edits():
        for wording in edit.wordings:
            assert find_edit(wording) is edit
            assert find_edit(f"  {wording.capitalize()}! ") is edit
    assert find_edit("Remove the colour.") is EDITS["black and white"]


def test_an_unknown_sentence_is_refused_with_its_neighbours() -> None:
    with pytest.raises(ValueError, match=r"got 'make it snowier'; did you mean 'make it snow' or 'make it snowy'"):
        find_edit("make it snowier")
    with pytest.raises(ValueError, match=r"expected a sentence the world knows, got 'zzz'$"):
        find_edit("zzz")


def test_the_vocabulary_holds_every_wording() -> None:
    words = vocabulary()
    assert list(words) == list(EDITS)
    assert all(words[name] == {"kind": e.kind, "wordings": list(e.wordings)} for name, e in EDITS.items())


@pytest.mark.parametrize("kind", KINDS)
def test_edits_change_the_picture_where_they_apply(kind: str) -> None:
    camera = front_camera(32, 40)
    for edit in (e for e in all_edits() if e.kind == kind):
        scenes = where_it_applies(edit.name)
        assert scenes, edit.name
        before = render(scenes, [camera] * len(scenes), samples=1)
        after = (
            edit.on_pixels(before)
            if edit.on_pixels
            else render([edit.scene(s) for s in scenes], [camera] * len(scenes), samples=1)
        )
        changed = ((after - before).abs().amax(1) > 0.06).float().mean((1, 2))
        assert changed.max() > 0.005, (
            edit.name
        )  # a hat may stand out of the picture, an edit of the sky be under clouds


@pytest.mark.parametrize("kind", KINDS)
def test_captions_tell_before_from_after(kind: str) -> None:
    for edit in (e for e in all_edits() if e.kind == kind):
        for scene in where_it_applies(edit.name):
            before, after = edit.captions(scene)
            assert before == describe(scene)
            assert before != after, edit.name
            if edit.on_pixels is None:
                assert after == describe(edit.scene(scene))


def test_an_edit_done_twice_is_done_once_and_no_longer_applies() -> None:
    for edit in all_edits():
        for scene in where_it_applies(edit.name):
            if edit.on_scene is not None:
                after = edit.scene(scene)
                assert edit.scene(after) == after
                assert not edit.applies(after)
                assert edit not in applicable(after)
            else:
                assert edit.scene(scene) is scene


def test_same_geometry_means_it() -> None:
    for edit in all_edits():
        for scene in where_it_applies(edit.name):
            after = edit.scene(scene)
            assert same_surfaces(scene, after) == edit.same_geometry, edit.name
            assert sun_direction(scene) == sun_direction(after)


def test_looks_of_one_cast_are_the_edited_scenes() -> None:
    scene, camera = SceneSampler(things=(3, 3)).sample(11), front_camera()
    cheap = [e for e in applicable(scene) if e.on_scene and e.same_geometry]
    assert len({e.kind for e in cheap}) >= 5
    _, *looks = render_looks([[scene, *(e.scene(scene) for e in cheap)]], [camera])
    for edit, picture in list(zip(cheap, looks, strict=True))[::4]:
        assert torch.equal(picture, render([edit.scene(scene)], [camera])), edit.name


def test_an_edit_of_one_thing_leaves_the_others_alone() -> None:
    for edit in all_edits():
        if edit.kind in ("colour", "material", "shape", "add", "remove"):
            for scene in where_it_applies(edit.name):
                after = edit.scene(scene)
                assert sum(t not in after.things for t in scene.things) == 1
                assert len(after.things) == len(scene.things) - (edit.kind == "remove")


def test_the_last_thing_can_be_removed() -> None:
    scene = one_thing("mushroom")
    after = EDITS["remove mushroom"].scene(scene)
    assert after.things == ()
    assert describe(after) == "an empty place on grass"
    assert render([after], [front_camera()]).isfinite().all()
    assert not any(e.kind in ("colour", "material", "shape", "add", "remove") for e in applicable(after))


def test_a_shape_is_not_made_twice() -> None:
    scene = Scene(things=(Thing("ball", (-1.0, 0.0)), Thing("cube", (1.0, 0.0))))
    assert not EDITS["shape ball cube"].applies(scene)
    assert EDITS["shape ball cone"].applies(scene)


def test_captions_say_what_is_there() -> None:
    scene = Scene(
        things=(Thing("ball", (0.0, 0.0), colour="blue", hat=True), Thing("cube", (1.0, 0.0), material="gold")),
        time="night",
        weather="snow",
        season="autumn",
        ground="checkerboard",
        sky="pink",
    )
    assert describe(scene) == (
        "a blue ball with a hat and a golden cube on a checkerboard, at night, in snow, in autumn, under a pink sky"
    )


def test_edits_are_values() -> None:
    edit = all_edits()[0]
    assert isinstance(edit, Edit)
    with pytest.raises(AttributeError):
        edit.name = "other"  # type: ignore[misc]


def test_what_is_asked_of_a_thing_that_is_not_there_changes_nothing() -> None:
    scene = one_thing("ball", colour="red")
    absent = {e.name for e in about_absent(scene)}
    assert {"colour cube blue", "material cone gold", "shape ring ball", "remove tree"} <= absent
    assert not {"colour ball red", "colour ball blue", "remove ball", "snow", "hat cube"} & absent
    for seen in SCENES[:20]:
        assert all(e.scene(seen) == seen and e.wordings for e in about_absent(seen))
