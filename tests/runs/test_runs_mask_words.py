"""Words as masks: who reads them in which sentence, where things of the world are, and what is refused in one line."""

import pytest
import torch

from csd3d.attention.masks import levels
from csd3d.attention.word_masks import word_in
from csd3d.priors.auto import load_prior
from csd3d.priors.prior import Prompts
from csd3d.runs.found_masks import ByWords, MaskSearch, each_map
from csd3d.runs.mask_words import among_others, named_in, read_words, reader_of
from csd3d.world.camera import Camera, look_at
from csd3d.world.render import render, truth
from csd3d.world.scene import Scene, Thing
from tests.toys import ToyPrior

THINGS = ("ball", "cube", "cone")


@pytest.fixture(scope="module")
def editor():
    return load_prior("builtin", device="cpu")


@pytest.fixture(scope="module")
def drawer():
    return load_prior("builtin:t2i", device="cpu")


def seeker(prior, words, *targets: str, source=None, assign=None) -> ByWords:
    sought = MaskSearch(prior, words).under(Prompts(targets[0] if len(targets) == 1 else list(targets), source, assign))
    assert isinstance(sought, ByWords)
    return sought


def test_a_text_to_image_model_reads_for_the_built_in_editor(editor, drawer):
    assert reader_of(editor).name == "builtin:t2i"
    assert torch.equal(
        reader_of(editor).encode(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))),
        editor.encode(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))),
    )  # the same latents
    assert reader_of(drawer) is drawer
    assert reader_of(ToyPrior()).name == "toy"


def test_things_of_the_world_are_found(editor):
    scene = Scene((Thing("ball", (-0.9, 0.0), colour="red"), Thing("cube", (0.9, 0.0), colour="blue")), ground="grass")
    camera = Camera(look_at((0.0, -4.6, 1.6), (0.0, 0.0, 0.8)), 128, 128)
    rgb, ids = render([scene], [camera]), truth([scene], [camera]).ids[0]
    s = editor.encode(rgb)
    for words, thing in (("the ball", 2), ("cube: a red ball and a blue cube on grass", 3), ("instruction", 2)):
        sought = seeker(editor, words, "make the ball green")
        (maps,) = each_map(sought, [torch.arange(1)], lambda index: s[index], seed=0)
        mask = (levels(sought.found(maps).mask) > 0.5)[0].float()
        share = torch.nn.functional.avg_pool2d((ids == thing).float()[None], 8)[0]
        other = torch.nn.functional.avg_pool2d((ids == 5 - thing).float()[None], 8)[0]
        assert mask[share > 0.5].mean() > 0.8
        assert mask[(share == 0) & (other == 0)].mean() < 0.3
        assert maps[0][share > 0.5].mean() > 2 * maps[0][(share == 0) & (other == 0)].mean()


def test_the_sentence_of_each_particle_says_what_is_looked_for_in_it(editor):
    targets = ("make the ball red", "make the cube red")
    sought = seeker(editor, "instruction", *targets, assign=torch.tensor([1, 0, 1]))
    assert sought.reading.words == ("cube", "ball")[::-1]
    tokens = sought.reading.tokens
    assert sought.reading.places(torch.arange(3)) == [
        tokens[k].places(w) for k, w in ((1, "cube"), (0, "ball"), (1, "cube"))
    ]
    assert sought.reading.named == "'ball' or 'cube'"
    one = seeker(editor, "a Snowman", *targets, assign=torch.tensor([1, 0, 1]))
    assert set(one.reading.words) == {"Snowman"}
    assert all(one.reading.places(torch.arange(3)))


def test_captions_of_the_source_are_read_by_their_own_model(drawer):
    source = "a red ball and a blue cube on grass"
    sought = seeker(drawer, "the red ball", "a green ball and a blue cube on grass", source=source)
    assert [word.text for word in sought.reading.tokens[0].words] == source.split()
    assert sought.reading.words == ("red ball",)
    other = seeker(drawer, "instruction", "a green ball and a blue cube on grass", source=source)
    assert other.reading.words == ("red",)


def test_rivals_are_named_beside_a_thing():
    assert among_others("red cube", THINGS) == "a ball and a red cube and a cone"
    assert among_others("sky", THINGS) == "the sky"
    assert among_others("dog", ()) == "the dog"


def test_what_a_sentence_edits_is_named_in_it():
    assert named_in("turn the cube into a ball", None, THINGS) == "cube"
    assert named_in("a red cat on a mat", "a dog on a mat", ()) == "dog"
    assert named_in("a mat", "a dog, on a mat", ()) == "a dog, on"
    for sentence, caption in (("make it night", None), ("a dog and a cat", "a dog")):
        with pytest.raises(ValueError, match="mask-words: expected the words to look for, such as 'the ball'") as error:
            named_in(sentence, caption, THINGS)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("the zebra", r"expected what builtin:t2i knows \(ball, cube, .*mushroom, ...\), got 'zebra'"),
        ("the", "expected what to look for, such as 'the ball', got 'the'"),
        ("cube: a ball on grass", r"expected words of the caption \(a ball on grass\), got 'cube'"),
        ("instruction", "'make it night' names nothing that can be looked for"),
    ],
)
def test_words_that_cannot_be_found_are_refused_in_one_line(editor, words, reason):
    with pytest.raises(ValueError, match=reason) as error:
        seeker(editor, words, "make it night")
    assert str(error.value).startswith("mask-words: ")
    assert "\n" not in str(error.value)


def test_a_prior_whose_attention_cannot_be_read_is_refused():
    toy = ToyPrior()
    with pytest.raises(ValueError, match="mask-words: expected a prior of Stable Diffusion's kind") as error:
        read_words("make it red", Prompts("make it red"), toy, editor=toy)
    assert "\n" not in str(error.value)


def test_a_map_without_a_difference_is_nowhere():
    assert word_in(torch.zeros(1, 4, 4)).extent == "nowhere"
