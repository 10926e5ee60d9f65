"""Sentences to embeddings."""

from pathlib import Path

import pytest
import torch

from csd3d.priors.networks.text import PromptEncoder
from csd3d.priors.store.load import load_parts


@pytest.fixture
def encoder(tiny: Path) -> PromptEncoder:
    parts = load_parts(tiny, device=torch.device("cpu"), dtype=torch.float32)
    return PromptEncoder(parts.tokenizer, parts.text_encoder)


def test_one_row_a_sentence_of_the_tokenizers_length(encoder: PromptEncoder) -> None:
    rows = encoder.encode(["", "make it snowy", "make it night"])
    assert encoder.max_length == 16
    assert rows.shape == (3, 16, 64)
    assert not torch.equal(rows[1], rows[2])
    assert encoder.notes == []


def test_a_sentence_is_encoded_once(encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encoder.encode(["make it snowy"])
    monkeypatch.setattr(encoder, "_encoder", None)
    assert torch.equal(encoder.encode(["make it snowy", "make it snowy"]), first.repeat(2, 1, 1))


def test_a_long_sentence_is_cut_and_a_note_says_so(encoder: PromptEncoder) -> None:
    rows = encoder.encode(["make it snowy " * 10])
    assert rows.shape == (1, 16, 64)
    assert len(encoder.notes) == 1
    assert "has 32 tokens and was cut to the 16" in encoder.notes[0]
