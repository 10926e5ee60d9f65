"""The words of a small text-to-image prior: what is a caption it understands, and files that are not vocabularies."""

from dataclasses import replace
from pathlib import Path

import pytest

from csd3d.priors.prompts.vocabulary import UnknownPrompt
from csd3d.priors.prompts.words import UnknownWords, Words, read_known, require_known
from csd3d.priors.store.resolve import Resolved

WORDS = Words({"things": ("ball", "cube"), "colours": ("red", "blue"), "other": ("a", "and", "at", "night")})


@pytest.mark.parametrize(
    ("written", "learnt"),
    [
        ("a red ball and a blue cube, at night", "a red ball and a blue cube, at night"),
        ("  A Red   ball and a blue cube; at night. ", "a red ball and a blue cube, at night"),
        ("night", "night"),
        ("a ball,, a cube,", "a ball, a cube"),
    ],
)
def test_captions_become_as_they_were_learnt(written: str, learnt: str) -> None:
    assert WORDS.match(written) == learnt


def test_unknown_words_are_named_in_one_line_with_the_nearest_and_what_lists_all() -> None:
    with pytest.raises(UnknownWords) as caught:
        replace(WORDS, title="builtin:t2i").match("a red bell and a dragon")
    assert caught.value.unknown == ["bell", "dragon"]
    assert str(caught.value) == (
        "this prior does not know 'bell', 'dragon' in 'a red bell and a dragon' (did you mean 'ball'?); "
        "`csd3d priors show builtin:t2i` lists what it knows"
    )
    assert isinstance(caught.value, UnknownPrompt)


@pytest.mark.parametrize("closed", [True, False])
def test_sentences_that_are_no_utf8_are_refused(closed: bool, tmp_path: Path) -> None:
    if closed:
        (tmp_path / "vocabulary.json").write_text(WORDS.to_json(), encoding="utf-8")
    found = Resolved("some", tmp_path, "instruct", builtin=False)
    with pytest.raises(ValueError, match=r"prompt: expected text in UTF-8, got 'make it sn"):
        require_known(found, ["", "make it sn\udce9"])


def test_they_survive_being_written_and_read(tmp_path: Path) -> None:
    assert read_known(tmp_path) is None
    (tmp_path / "vocabulary.json").write_text(WORDS.to_json(), encoding="utf-8")
    assert read_known(tmp_path) == WORDS


@pytest.mark.parametrize(
    "content",
    ['{"words": {}}', '{"words": []}', '{"words": {"a": []}}', '{"words": {"a": ["Red"]}}', '{"words": {"a": "red"}}'],
)
def test_a_file_that_is_no_vocabulary_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(ValueError, match=r'vocabulary\.json: expected \{"words"'):
        read_known(tmp_path)
