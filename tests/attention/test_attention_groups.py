"""Things of a caption: the world's captions, whose grammar is known, and others that people write."""

import random
import re

import pytest

from csd3d.attention import Tokens, Word
from csd3d.attention.groups import groups_in, groups_of
from csd3d.world.captions import vary
from csd3d.world.edits import describe
from csd3d.world.scene import SceneSampler


def tokens(sentence: str, *, pieces: dict[str, int] | None = None) -> Tokens:
    """As a tokenizer would cut it; `pieces` says into how many a word is."""
    place, words = 1, []
    for text in re.findall(r"[\w-]+|[^\w\s]", sentence):
        count = (pieces or {}).get(text, 1)
        words.append(Word(text, tuple(range(place, place + count))))
        place += count
    return Tokens(tuple(words), 77)


def said(sentence: str) -> list[str]:
    """The words of every group, in order."""
    cut = tokens(sentence)
    of_token = {t: word.text for word in cut.words for t in word.tokens}
    return [" ".join(of_token[t] for t in group.tokens) for group in groups_in(cut)]


@pytest.mark.parametrize(
    ("sentence", "things"),
    [
        ("a bear and an elephant", ["bear", "elephant"]),
        ("a purple crown and a yellow suitcase", ["purple crown", "yellow suitcase"]),
        ("one pineapple and two apples", ["one pineapple", "two apples"]),
        ("A photo of a cat and a dog", ["cat", "dog"]),
        ("a dog with green glasses and a clock", ["dog", "green glasses", "clock"]),
        ("red ball and blue cube", ["red ball", "blue cube"]),
        ("a red ball, a blue cube and a tree on grass, at night", ["red ball", "blue cube", "tree"]),
        ("a red ball, blue cube and green cone", ["red ball", "blue cube", "green cone"]),
        ("a fish swimming in a bowl, with a bird flying above it", ["fish", "bowl", "bird"]),
        ("a cat sitting on a red bench in the snow", ["cat", "red bench"]),
        ("a black and white cat next to a big tree, watercolor painting", ["black white cat", "big tree"]),
        ("a bowl of red fruit and a spoon", ["bowl red fruit", "spoon"]),
        ("a pencil sketch of a ring under a pink sky", ["ring"]),
        ("an empty place on grass, in rain", []),
        ("a photo", []),
        ("", []),
    ],
)
def test_things_are_found_with_what_is_said_of_them(sentence: str, things: list[str]) -> None:
    assert said(sentence) == things


def test_a_group_knows_its_noun_its_attributes_and_its_phrase() -> None:
    cut = tokens("a striped red ball and two cubes", pieces={"ball": 2, "striped": 2})
    ball, cubes = groups_in(cut)
    assert (ball.noun, ball.attributes, ball.phrase) == ((5, 6), (2, 3, 4), (1, 2, 3, 4, 5, 6))
    assert (ball.text, ball.said) == ("striped red ball", "a striped red ball")
    assert (cubes.noun, cubes.attributes, cubes.phrase) == ((9,), (8,), (8, 9))
    assert ball.tokens == (2, 3, 4, 5, 6)


def test_the_captions_of_the_world_name_its_things() -> None:
    for seed in range(300):
        scene = SceneSampler().sample(seed)
        names = {"gold": "golden", "chrome": "metallic", "wood": "wooden"}
        simple = ("ball", "cube", "cylinder", "cone", "ring")
        expected = []
        for thing in scene.things:
            look = names.get(thing.material) or (
                f"striped {thing.colour}" if thing.material == "striped" else thing.colour
            )
            expected.append(f"{look} {thing.shape}" if thing.shape in simple else thing.shape)
        assert [s for s in said(describe(scene)) if not s.endswith("hat")] == expected
        varied = said(vary(describe(scene), random.Random(seed)))
        shapes = sorted(s.split()[-1] for s in varied if not s.endswith("hat"))
        assert shapes == sorted(thing.shape for thing in scene.things)


def test_groups_can_be_said() -> None:
    cut = tokens("a red ball beside a cube that is blue and a red tree")
    ball, cube = groups_of(cut, "red ball | blue cube")
    assert (ball.noun, ball.attributes, ball.phrase, ball.said) == ((3,), (2,), (2, 3), "red ball")
    assert (cube.noun, cube.attributes) == ((6,), (9,))
    assert (cube.phrase, cube.said) == ((6,), "cube"), "what stands apart is no phrase"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("red ball | snow", r"word: expected one of the prompt \(a red ball and a cube\), got 'snow'"),
        ("red ball |", "group: expected words between bars"),
        ("red ball | red cube", "group: expected every word in one group"),
    ],
)
def test_groups_that_make_no_sense_are_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        groups_of(tokens("a red ball and a cube"), text)
    assert "\n" not in str(error.value)
