"""The tokenizer and the directory that the training script writes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from csd3d.priors.store.resolve import resolve
from csd3d.priors.store.save import append_words, extend_tokenizer, make_tokenizer
from tests.priors.tiny import SENTENCES, write_tiny_prior


def pieces(tokenizer: CLIPTokenizer, sentence: str) -> list[str]:
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(sentence).input_ids)
    assert isinstance(tokens, list)
    assert (tokens[0], tokens[-1]) == ("<|startoftext|>", "<|endoftext|>")
    return tokens[1:-1]


def test_every_known_word_is_one_token() -> None:
    sentences = [*SENTENCES, "an owl now knows how snow glows, slowly", "it's the 80s"]
    tokenizer = make_tokenizer(sentences)
    for sentence in sentences[:-1]:
        words = sentence.replace(",", " ,").split()
        assert pieces(tokenizer, sentence) == [f"{word}</w>" for word in words]
    assert pieces(tokenizer, "it's the 80s") == ["it</w>", "'s</w>", "the</w>", "8</w>", "0</w>", "s</w>"]


def test_any_other_text_is_spelled_and_none_is_lost() -> None:
    tokenizer = make_tokenizer(SENTENCES)
    for text in ("café", "雪", "🎈", "unheardof", "~`|"):
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids[1:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("").input_ids == [tokenizer.bos_token_id, tokenizer.eos_token_id]


def test_order_of_the_sentences_does_not_matter() -> None:
    forth, back = make_tokenizer(SENTENCES), make_tokenizer(reversed(SENTENCES))
    assert forth.get_vocab() == back.get_vocab()
    assert len(set(forth.get_vocab().values())) == len(forth) == max(forth.get_vocab().values()) + 1


def test_sentences_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'make it snowy' needs 5 tokens, max_length is 4"):
        make_tokenizer(["make it snowy"], max_length=4)
    with pytest.raises(ValueError, match="got none"):
        make_tokenizer(["", "  "])


def test_an_extended_tokenizer_keeps_what_it_had_and_knows_the_new_words() -> None:
    old = make_tokenizer(SENTENCES, max_length=16)
    captions = ["a red ball and a blueish cube, at night", "snowballs on the snowy ballroom floor"]
    new = extend_tokenizer(old, captions, max_length=24)
    assert new.get_vocab().items() >= old.get_vocab().items()
    assert (new.bos_token_id, new.eos_token_id) == (old.bos_token_id, old.eos_token_id)
    assert new.model_max_length == 24
    for sentence in SENTENCES:
        assert new(sentence).input_ids == old(sentence).input_ids
    for caption in captions:
        assert pieces(new, caption) == [f"{word}</w>" for word in caption.replace(",", " ,").split()]
    assert extend_tokenizer(new, captions, max_length=24).get_vocab() == new.get_vocab()
    with pytest.raises(ValueError, match="max_length is 6"):
        extend_tokenizer(old, captions, max_length=6)


def test_an_extended_tokenizer_survives_being_saved(tmp_path: Path) -> None:
    new = extend_tokenizer(make_tokenizer(SENTENCES), ["a dragon"], max_length=24)
    new.save_pretrained(str(tmp_path))
    loaded = CLIPTokenizer.from_pretrained(str(tmp_path))
    for text in (*SENTENCES, "a dragon in the café"):
        assert loaded(text).input_ids == new(text).input_ids


def test_appended_words_begin_as_the_mean_word() -> None:
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    more = append_words(rows, 7)
    assert torch.equal(more[:5], rows)
    torch.testing.assert_close(more[5:], rows.mean(0).expand(2, 3))
    assert torch.equal(append_words(rows, 5), rows)
    with pytest.raises(ValueError, match="expected 5 tokens or more, got 4"):
        append_words(rows, 4)


def test_the_saved_tokenizer_is_the_same_from_either_form(tiny: Path, tmp_path: Path) -> None:
    made = make_tokenizer(SENTENCES, max_length=16)
    loaded = CLIPTokenizer.from_pretrained(str(tiny / "tokenizer"))
    assert loaded.model_max_length == 16
    vocab = json.loads((tiny / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    merges = (tiny / "tokenizer" / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    older = CLIPTokenizer(vocab=vocab, merges=[tuple(line.split(" ")) for line in merges])  # pyright: ignore[reportArgumentType]
    for text in (*SENTENCES, "Snowballs, in the café!"):
        assert loaded(text).input_ids == made(text).input_ids == older(text).input_ids


def test_what_is_written_is_half_precision_without_pickles_or_paths(tmp_path: Path) -> None:
    directory = write_tiny_prior(tmp_path / "half", dtype=torch.float16)
    for part in ("vae", "unet", "text_encoder"):
        weights = load_file(next((directory / part).glob("*.safetensors")))
        assert all(w.dtype == torch.float16 for w in weights.values() if w.is_floating_point())
    assert {f.suffix for f in directory.rglob("*") if f.is_file()} == {".json", ".txt", ".safetensors"}
    for config in directory.rglob("*.json"):
        assert str(tmp_path) not in config.read_text(encoding="utf-8")
    assert resolve(directory).kind == "instruct"


def test_writing_again_replaces_the_parts_and_keeps_the_model_card(tmp_path: Path) -> None:
    directory = write_tiny_prior(tmp_path / "prior", seed=0)
    (directory / "README.md").write_text("the card")
    before = (directory / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    write_tiny_prior(directory, seed=1, closed=False)
    assert (directory / "README.md").read_text() == "the card"
    assert (directory / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() != before
    assert not (directory / "vocabulary.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["prior"]


def test_a_text_to_image_prior_names_its_pipeline(tmp_path: Path) -> None:
    assert resolve(write_tiny_prior(tmp_path / "t2i", kind="text-to-image")).kind == "text-to-image"
