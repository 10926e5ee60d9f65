"""What the page offers for each prior."""

from csd3d.cli.ui import what_knows
from csd3d.priors.prompts.vocabulary import Entry, Vocabulary
from csd3d.priors.prompts.words import Words
from csd3d.ui.known import Known, known_of

SNOW = Entry("weather", ("make it snowy", "let it snow"))
RED = Entry("colour", ("make the ball red", "paint the ball red"))
FOG = Entry("weather", ("make it foggy",))


def test_first_wordings_come_first_by_kind_and_others_complete_too() -> None:
    known = known_of(Vocabulary({"snow": SNOW, "red": RED, "fog": FOG}), {"weather": "in part", "colour": "no"})
    assert known.sentences == [
        "make it snowy", "make it foggy", "make the ball red", "let it snow", "paint the ball red",
    ]  # fmt: skip
    assert known.text == (
        "**weather** (on photographs in part): make it snowy, make it foggy\n\n"
        "**colour** (in drawn pictures only): make the ball red"
    )


def test_words_are_listed_and_complete_no_sentence() -> None:
    assert known_of(Words({"shapes": ("ball", "cube")}), {}) == Known((), [("shapes", "", ("ball", "cube"))])


def test_the_built_in_editor_says_what_it_does_on_photographs() -> None:
    known = what_knows("builtin:instruct")
    assert "make it snowy" in known.sentences
    assert "in drawn pictures only" in known.text


def test_a_prior_that_is_not_here_takes_any_text() -> None:
    assert what_knows("somebody/model-that-is-not-here") == Known()
