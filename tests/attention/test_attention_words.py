"""Words, their tokens, and which token of one sentence is which of another."""

import pytest
import torch

from csd3d.attention import Tokens, Word
from csd3d.attention.words import align


def tokens(sentence: str, *, length: int = 12, pieces: dict[str, int] | None = None) -> Tokens:
    """As a tokenizer would cut it; `pieces` says into how many a word is."""
    place, words = 1, []
    for text in sentence.split():
        count = (pieces or {}).get(text, 1)
        words.append(Word(text, tuple(range(place, place + count))))
        place += count
    return Tokens(tuple(words), length)


def test_a_phrase_is_found_wherever_it_stands() -> None:
    cut = tokens("a Red ball , a t - shirt and a red cube", length=20, pieces={"shirt": 2})
    assert cut.find("ball") == (3,)
    assert cut.find("red") == (2, 12)
    assert cut.find("the  RED ball".removeprefix("the ")) == (2, 3)
    assert cut.find("t-shirt") == (6, 7, 8, 9)
    assert cut.end == 14


@pytest.mark.parametrize("phrase", ["snow", "bal", "ball cube", ""])
def test_what_is_not_there_is_refused_in_one_line(phrase: str) -> None:
    with pytest.raises(ValueError, match=r"word: expected one of the prompt \(a ball\), got") as error:
        tokens("a ball").find(phrase)
    assert "\n" not in str(error.value)


def test_a_sentence_and_itself_are_aligned_by_the_identity() -> None:
    same = tokens("a red ball and a red cube", pieces={"cube": 3})
    matrix, added = align(same, same)
    assert torch.equal(matrix, torch.eye(12))
    assert not added.any()


def test_a_swapped_word_takes_the_place_of_the_old_one() -> None:
    matrix, added = align(tokens("a cat on a mat"), tokens("a dog on a mat"))
    assert torch.equal(matrix, torch.eye(12))
    assert not added.any()


def test_an_added_word_has_no_place_in_the_old_sentence() -> None:
    """ "a" stands twice: it is matched in order."""
    old, new = tokens("a ball and a cube", length=9), tokens("a ball and a red cube", length=9)
    matrix, added = align(old, new)
    assert added.nonzero().flatten().tolist() == [5]
    source = matrix.argmax(0)
    assert source[[0, 1, 2, 3, 4, 6, 7, 8]].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert matrix[:, 5].sum() == 0
    assert torch.equal(matrix.sum(0), 1 - added.float())


def test_words_of_other_lengths_share_what_they_replace() -> None:
    old, new = tokens("a cat sat", length=8), tokens("a tortoise sat", length=8, pieces={"tortoise": 2})
    matrix, _ = align(old, new)
    assert matrix[2].tolist() == [0, 0, 0.5, 0.5, 0, 0, 0, 0]
    back, _ = align(new, old)
    assert back[:, 2].tolist() == [0, 0, 1, 1, 0, 0, 0, 0], "a word takes all that its pieces had"
    A = torch.rand(4, 8).softmax(1)
    torch.testing.assert_close((A @ back)[:, :3].sum(1), A[:, :4].sum(1))
