"""Families: none of their wordings names a member, every member is exact, and some scene leaves each of them open."""

from itertools import combinations
from typing import get_args

import pytest
import torch
from world_toys import front_camera, one_thing

from csd3d.world.edits import KINDS, all_edits, describe, find_edit, normalise
from csd3d.world.families import (
    FEWEST,
    TOYS,
    all_families,
    every_edit,
    families_in,
    family_vocabulary,
    find_family,
    variants,
)
from csd3d.world.render import render
from csd3d.world.scene import COLOURS, HAT_COLOURS, SIMPLE_SHAPES, Ground, Scene, SceneSampler, Season, Shape, Thing

FAMILIES = {f.name: f for f in all_families()}
PLAIN = [SceneSampler(plain=1.0, things=(2, 2)).sample(s) for s in range(100)]
SCENES = [SceneSampler(plain=0.4, things=(1, 3)).sample(s) for s in range(150)]
NAMED = """
    gold golden metal metallic wood wooden striped stripes pink day sunset night evening snow snowy winter fall fog mist
    rain clouds cloudy sunny sepia negative pencil sketch watercolor blueprint poster vintage thermal black photo
"""
NAMES = {*NAMED.split(), *COLOURS, *HAT_COLOURS, *get_args(Ground), *get_args(Season), *get_args(Shape)}
"""Words that would name a member of some family."""


def test_there_are_enough_families_over_all_kinds() -> None:
    assert (
        len({f.name.rsplit(" ", 1)[0] if f.name.split()[-1] in SIMPLE_SHAPES else f.name for f in all_families()}) >= 12
    )
    assert {f.kind for f in all_families()} == set(KINDS)
    assert len(FAMILIES) == len(all_families())
    assert not FAMILIES.keys() & {e.name for e in every_edit()}
    assert all_families() is all_families()


def test_members_are_three_to_eight_exact_edits() -> None:
    known = set(every_edit())
    for family in all_families():
        assert 3 <= len(family.members) <= 8, family.name
        assert len(set(family.members)) == len(family.members)
        assert known.issuperset(family.members)
        assert all(e.kind == family.kind or family.name == "any season" for e in family.members)


def test_no_wording_names_a_member() -> None:
    for family in all_families():
        assert len(family.wordings) >= 6
        for wording in family.wordings:
            assert wording == normalise(wording)
            of_what = {family.name.split()[-1], "day" if family.kind == "time" else ""}
            assert not NAMES & (set(wording.split()) - of_what), wording


def test_a_family_sentence_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csd3d.world.edits.get_close_matches", lambda *_, **__: [])  # for messages, and slow
    every = [w for asked in (*all_edits(), *all_families()) for w in asked.wordings]
    assert len(every) == len(set(every))
    for family in all_families():
        for wording in family.wordings:
            assert find_family(f"  {wording.capitalize()}! ") is family
            with pytest.raises(ValueError, match="expected a sentence the world knows"):
                find_edit(wording)
    assert find_family("Give the ball another COLOUR.") is FAMILIES["any colour ball"]
    assert find_family("make it snowy") is None


def test_held_out_wordings_are_made_of_trained_words() -> None:
    known = {word for asked in (*all_edits(), *all_families()) for w in asked.trained for word in w.split()}
    assert {word for f in all_families() for word in f.held_out.split()} <= known
    assert all(f.held_out not in f.trained for f in all_families())


def test_no_held_out_wording_goes_on_from_anothers_in_a_way_never_trained() -> None:
    every = (*all_edits(), *all_families())
    owner = {w: asked.name for asked in every for w in asked.trained}
    for asked in every:
        words = asked.held_out.split()
        starts = (" ".join(words[:n]) for n in range(1, len(words)))
        anothers = [s for s in starts if owner.get(s, asked.name) != asked.name]
        assert all(any(w.startswith(f"{s} ") for w in asked.trained) for s in anothers), asked.held_out


def test_every_family_is_open_somewhere_and_its_answers_differ() -> None:
    camera = front_camera(32, 40)
    for family in all_families():
        scene = next(s for s in PLAIN if family.applies(s))
        before = render([scene], [camera], samples=1)
        members = family.open_in(scene)
        assert len(members) >= FEWEST
        assert family in families_in(scene)
        after = [e.on_pixels(before) if e.on_pixels else render([e.scene(scene)], [camera], samples=1) for e in members]
        for a, b in combinations((before, *after), 2):
            assert not torch.equal(a, b), family.name


def test_one_answer_is_no_choice() -> None:
    assert not FAMILIES["any removal"].applies(one_thing("ball"))
    assert FAMILIES["any removal"].applies(Scene((Thing("ball", (-1.0, 0.0)), Thing("cube", (1.0, 0.0)))))
    assert not FAMILIES["any colour cube"].applies(one_thing("ball"))
    red = FAMILIES["any colour ball"].open_in(one_thing("ball", colour="red"))
    assert [e.name for e in red] == [f"colour ball {c}" for c in COLOURS if c != "red"]


def test_variants_have_no_sentence_and_are_done_once() -> None:
    assert every_edit()[: len(all_edits())] == all_edits()
    members = {e.name for f in all_families() for e in f.members}
    for edit in variants():
        assert edit.wordings == edit.trained == ()
        assert edit.name in members
        scene = next(s for s in SCENES if edit.applies(s))
        assert edit.scene(edit.scene(scene)) == edit.scene(scene)


def test_hats_of_another_colour_say_so_and_only_bare_things_get_one() -> None:
    family, bare = FAMILIES["any hat ball"], one_thing("ball", colour="red")
    hats = [e.scene(bare).things[0].hat_colour for e in family.open_in(bare)]
    assert hats == list(HAT_COLOURS)
    assert describe(family.members[1].scene(bare)) == "a red ball with a red hat on grass"
    assert not family.applies(family.members[0].scene(bare))


@pytest.mark.parametrize("shape", SIMPLE_SHAPES)
def test_a_toy_stands_clear_of_everything(shape: str) -> None:
    family = FAMILIES[f"any toy {shape}"]
    for scene in [s for s in SCENES if s.find(shape) is not None]:
        toys = [e.scene(scene).things[-1] for e in family.open_in(scene)]
        assert [(t.shape, t.colour) for t in toys] == list(TOYS.items())
        assert len({t.position for t in toys}) == 1
        toy, thing = toys[0], scene.things[scene.find(shape) or 0]
        away = [torch.dist(torch.tensor(toy.position), torch.tensor(t.position)).item() for t in scene.things]
        assert min(d - toy.size - t.size for d, t in zip(away, scene.things, strict=True)) > -0.5 * toy.size
        assert torch.dist(torch.tensor(toy.position), torch.tensor(thing.position)) < 2 * thing.size
        assert not family.applies(family.members[0].scene(scene))


def test_the_vocabulary_of_families_has_the_form_of_that_of_edits() -> None:
    words = family_vocabulary()
    assert list(words) == list(FAMILIES)
    assert all(words[f.name] == {"kind": f.kind, "wordings": list(f.wordings)} for f in all_families())
