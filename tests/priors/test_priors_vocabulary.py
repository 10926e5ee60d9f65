"""The closed set of sentences: matching, suggestions, and files that are not vocabularies."""

import json
from pathlib import Path

import pytest

from csd3d.priors.prompts.vocabulary import UnknownPrompt, Vocabulary, normalise
from csd3d.priors.prompts.words import read_known
from tests.priors.tiny import VOCABULARY


@pytest.fixture
def words() -> Vocabulary:
    return Vocabulary.from_dict(VOCABULARY)


@pytest.mark.parametrize(
    "written",
    [
        "make it snowy",
        "  Make it   SNOWY!",
        "make it snowy.",
        "Máke it snowy",
        "Ma\u0301ke it snowy\u2026",
        "\uff4dake it snowy",
        "make\u00a0it snowy\u200d",
        '"make it snowy"',
    ],
)
def test_case_punctuation_accents_and_spaces_do_not_matter(words: Vocabulary, written: str) -> None:
    assert words.match(written) == "make it snowy"
    assert words.lookup(written) == ("snow", "make it snowy")


def test_apostrophes_join_words() -> None:
    assert normalise("It's the 80's, don't") == "its the 80s dont"


def test_every_wording_is_known_as_it_was_learnt(words: Vocabulary) -> None:
    for name, entry in words.edits.items():
        for wording in entry.wordings:
            assert words.lookup(wording) == (name, wording)


@pytest.mark.parametrize(
    "unknown",
    [
        "make it snow",
        "make the ball blue",
        "a poem about cheese",
        "",
        "\u4e0d\u8981 make it snowy",  # do not, in Chinese
        "\u043d\u0435 make it snowy",  # not, in Russian
        "\u0644\u0627 make it snowy",  # do not, in Arabic
        "\U0001f6ab make it snowy",  # a sign that forbids
        "\u00ac make it snowy",
    ],
)
def test_an_unknown_sentence_is_refused_in_one_line(words: Vocabulary, unknown: str) -> None:
    with pytest.raises(UnknownPrompt) as caught:
        words.match(unknown)
    message = str(caught.value)
    assert repr(unknown) in message
    assert message.endswith("`csd3d priors show PRIOR` lists what it knows")
    assert "\n" not in message


def test_the_nearest_is_suggested_first_and_each_edit_once(words: Vocabulary) -> None:
    with pytest.raises(UnknownPrompt, match="did you mean 'paint the ball red'") as caught:
        words.match("paint the ball rad")
    assert caught.value.nearest[0] == "paint the ball red"
    assert "make the ball red" not in caught.value.nearest
    assert words.nearest("zzzz qqqq") == []


def test_it_survives_being_written_and_read(words: Vocabulary, tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text(words.to_json(), encoding="utf-8")
    assert read_known(tmp_path) == words


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        "{}",
        '{"edits": {}}',
        '{"edits": {"snow": ["make it snowy"]}}',
        '{"edits": {"snow": {"kind": "weather", "wordings": []}}}',
        '{"edits": {"snow": {"kind": "weather", "wordings": "make it snowy"}}}',
        '{"edits": {"snow": {"kind": 1, "wordings": ["make it snowy"]}}}',
        '{"edits": {"snow": {"kind": "weather", "wordings": ["!?"]}}}',
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"vocabulary\.json"):
        read_known(tmp_path)


def test_one_wording_cannot_mean_two_edits() -> None:
    edits = {name: {"kind": "weather", "wordings": [wording]} for name, wording in (("a", "snow!"), ("b", "Snow"))}
    with pytest.raises(ValueError, match="both 'a' and 'b'"):
        Vocabulary.from_dict(json.loads(json.dumps({"edits": edits})))
