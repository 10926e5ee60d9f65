"""Captions: other words for the same picture, every word listed, before and after edits."""

import random

import pytest

from csd3d.world.captions import PHOTO, TEXTURE, sentences, styled, vary, words
from csd3d.world.edits import all_edits, applicable, describe, find_edit
from csd3d.world.scene import COLOURS, SIMPLE_SHAPES, Scene, SceneSampler, Thing

TWO = Scene((Thing("ball", (0.0, 0.0), colour="red"), Thing("cube", (1.0, 0.0), colour="blue", hat=True)), time="night")


def nouns(caption: str) -> set[str]:
    return {w for w in caption.replace(",", " ").split() if w in words()["things"]}


@pytest.mark.parametrize("seed", range(40))
def test_a_varied_caption_names_the_same_things_and_nothing_else(seed: int) -> None:
    scene, rng = SceneSampler().sample(seed), random.Random(seed)
    for _ in range(8):
        varied = vary(describe(scene), rng)
        assert nouns(varied) == {t.shape for t in scene.things}
        said = varied.replace(",", " ").split()
        for thing in scene.things:
            if thing.shape in SIMPLE_SHAPES and thing.material == "matte":
                before = said[said.index(thing.shape) - 1]
                assert before in (thing.colour, "a"), "its own colour, or none"
        for word in ("night", "sunset", "autumn", "snow", "fog", "rain", "clouds"):
            assert (word in said) == (word in describe(scene).replace(",", " ").split()), (
                "what is not the plain day is always said"
            )


def test_captions_vary_and_repeat_with_the_seed() -> None:
    caption = describe(TWO)
    assert caption == "a red ball and a blue cube with a hat on grass, at night"
    many = [vary(caption, random.Random(k)) for k in range(200)]
    assert many == [vary(caption, random.Random(k)) for k in range(200)]
    for expected in (
        "a blue cube with a hat and a red ball on grass, at night",
        "a red ball and a blue cube with a hat, at night",
        "a red ball and a cube with a hat on grass, at night",
    ):
        assert expected in many
    full = sum("red" in c and "blue" in c and "grass" in c for c in many)
    assert 100 < full < 190, "most say everything"


def test_three_things_are_joined_as_people_join_them() -> None:
    scene = Scene(tuple(Thing(s, (0.0, 0.0), colour=c) for s, c in zip(SIMPLE_SHAPES[:3], COLOURS, strict=False)))
    many = {vary(describe(scene), random.Random(k)) for k in range(200)}
    assert "a red ball, a green cube and a blue cylinder on grass" in many
    assert "a red ball and a green cube and a blue cylinder on grass" in many


def test_styles_come_first_or_last() -> None:
    edit = find_edit("make it a pencil sketch")
    caption = styled(describe(TWO), edit)
    assert caption == edit.captions(TWO)[1]
    many = [vary(caption, random.Random(k)) for k in range(200)]
    assert all("pencil sketch" in c for c in many)
    assert 60 < sum(c.startswith("a pencil sketch of ") for c in many) < 140
    grey = styled(describe(TWO), find_edit("make it black and white"))
    assert all("black and white photo" in vary(grey, random.Random(k)) for k in range(50))
    assert {vary(styled(PHOTO, edit), random.Random(k)) for k in range(40)} == {
        "a photo, pencil sketch",
        "a photo pencil sketch",
        "a pencil sketch",
    }
    assert {vary(c, random.Random(k)) for c in (PHOTO, TEXTURE) for k in range(20)} == {PHOTO, TEXTURE}


def test_every_word_of_every_caption_is_listed_once() -> None:
    listed = [w for group in words().values() for w in group]
    assert len(listed) == len(set(listed))
    assert all(w == w.lower() and w.isalpha() for w in listed)
    for seed in range(60):
        scene, rng = SceneSampler().sample(seed), random.Random(seed)
        for edit in applicable(scene)[:: 1 + seed % 5]:
            for caption in edit.captions(scene):
                for said in (caption, vary(caption, rng)):
                    assert set(said.replace(",", " ").split()) <= set(listed), said


def test_an_empty_place_has_a_caption() -> None:
    edit = next(e for e in all_edits() if e.name == "remove ball")
    empty = edit.captions(Scene(TWO.things[:1]))[1]
    assert empty == "an empty place on grass"
    assert {vary(empty, random.Random(k)) for k in range(60)} == {"an empty place on grass", "an empty place"}


def test_sentences_hold_every_word() -> None:
    said = {w for s in sentences() for w in s.replace(",", " ").split()}
    assert said == {w for group in words().values() for w in group}
