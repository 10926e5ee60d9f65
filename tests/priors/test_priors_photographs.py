"""What a small prior does on photographs is known of every kind of edit, and said before the work."""

import json

import pytest

from csd3d.cli.main import main
from csd3d.priors.prompts.photographs import prior_note, read_marks
from csd3d.priors.prompts.vocabulary import Vocabulary
from csd3d.priors.prompts.words import read_known
from csd3d.priors.store.resolve import builtin_directory
from tests.toys import ToyPrior

INSTRUCT = builtin_directory("builtin:instruct")


class BuiltIn(ToyPrior):
    """Knows of which kinds sentences are."""

    def __init__(self, *kinds, path=INSTRUCT, builtin=True):
        super().__init__()
        for name, value in {"path": path, "builtin": builtin, "kinds_of": lambda sentences: kinds}.items():
            object.__setattr__(self, name, value)


def note_of(prior, sentences):
    note = prior_note(prior, sentences)
    assert note is not None
    return note


class Captions(BuiltIn):
    kind = "text-to-image"


def test_the_built_in_editor_has_a_mark_for_every_kind_it_knows():
    vocabulary = read_known(INSTRUCT)
    assert isinstance(vocabulary, Vocabulary)
    assert set(read_marks(INSTRUCT)) == {entry.kind for entry in vocabulary.edits.values()}


def test_one_note_says_what_works_and_which_sentence_does_not():
    note = note_of(BuiltIn("time", "colour"), ["make it night", "make the ball red"])
    assert "on photographs time and sky work" in note
    assert "'make the ball red' would damage a photograph" in note
    assert "'make it night'" not in note
    assert "damage" not in note_of(BuiltIn("time"), ["make it night"])
    assert prior_note(BuiltIn(builtin=False), ["make it night"]) is None
    assert "words" in note_of(Captions(), ["a ball"])


def test_a_prior_of_which_nothing_is_known_says_nothing_of_photographs(tmp_path):
    assert read_marks(tmp_path) == {}
    assert "photographs" not in note_of(BuiltIn("time", path=tmp_path), ["make it night"])
    (tmp_path / "photographs.json").write_text(json.dumps({"time": "perhaps"}))
    with pytest.raises(ValueError, match="expected yes, in part, no, got 'perhaps'"):
        read_marks(tmp_path)


def test_the_vocabulary_is_marked(capsys):
    assert main(["priors", "show", "builtin"]) == 0
    shown = capsys.readouterr().out
    assert "colour  on photographs: no" in shown
    assert "time  on photographs: yes" in shown
