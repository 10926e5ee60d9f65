"""Writing a prior in the layout that diffusers reads, and making the small tokenizer that goes with it.

A prior's directory holds model_index.json, vae/, unet/, text_encoder/, tokenizer/, scheduler/ (fp16 safetensors, JSON
and text, nothing pickled) and, for a prior that knows a closed set of sentences, vocabulary.json.
"""

import copy
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import __version__
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from csd3d.media.atomic import atomic_folder
from csd3d.priors.families.table import Kind
from csd3d.priors.prompts.vocabulary import FILE_NAME, Vocabulary
from csd3d.priors.prompts.words import Words
from csd3d.priors.store.load import vae_checksum
from csd3d.priors.store.resolve import PARTS, PIPELINES, VAE_OF, VAE_SHA256
from csd3d.priors.store.silence import quiet

BOS, EOS, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def make_tokenizer(sentences: Iterable[str], *, max_length: int = 24) -> CLIPTokenizer:
    """A CLIPTokenizer that has one token for every word of `sentences` and spells any other word in smaller pieces.

    Byte-pair encoding (Sennrich et al. 2016) trained on the words until each is a single token; every byte has a token
    of its own, so no text is lost. Same sentences, same tokenizer, whatever their order. Lower-case is CLIP's habit.

    Args:
        sentences: Everything that must be one token a word.
        max_length: Tokens of an encoded sentence, begin and end included; shorter ones are padded with the end token.

    Raises:
        ValueError: There are no words, or a sentence does not fit in `max_length`.
    """
    sentences = list(sentences)
    words = sorted({word for sentence in sentences for word in _words(sentence)})
    if not words:
        raise ValueError("make_tokenizer: expected sentences with words in them, got none")
    merges = _merges_until_whole(words, [])
    alphabet = sorted(_byte_symbols())
    tokens = [*alphabet, *(a + WORD_END for a in alphabet), *(a + b for a, b in merges), BOS, EOS]
    return _tokenizer(tokens, merges, sentences, max_length)


def extend_tokenizer(tokenizer: CLIPTokenizer, sentences: Iterable[str], *, max_length: int) -> CLIPTokenizer:
    """A tokenizer that also has one token for every word of `sentences`.

    What the old one has keeps its number, and what it encoded in one token a word is encoded the same: a text encoder
    goes on with it once rows for the new tokens are appended to its embedding (`append_words`).

    Raises:
        ValueError: A sentence does not fit in `max_length`.
    """
    sentences = list(sentences)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [(a, b) for a, b in (m.split(" ") if isinstance(m, str) else m for m in model["merges"])]
    words = sorted({word for sentence in sentences for word in _words(sentence)})
    merges = _merges_until_whole(words, merges)
    tokens = [*sorted(model["vocab"], key=model["vocab"].__getitem__), *(a + b for a, b in merges)]
    return _tokenizer(tokens, merges, sentences, max_length)


def append_words(embedding: Float[Tensor, "v d"], count: int) -> Float[Tensor, "{count} d"]:
    """A token embedding with rows for `count` tokens: those that were appended begin as the mean word.

    Raises:
        ValueError: `count` is smaller than the number of tokens there are.
    """
    if count < len(embedding):
        raise ValueError(f"count: expected {len(embedding)} tokens or more, got {count}")
    return torch.cat([embedding, embedding.mean(dim=0).expand(count - len(embedding), -1)])


def _tokenizer(
    tokens: list[str], merges: list[tuple[str, str]], sentences: list[str], max_length: int
) -> CLIPTokenizer:
    """A tokenizer with these tokens, numbered in order; repeated ones count once."""
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(dict.fromkeys(tokens))},
        merges=merges,  # pyright: ignore[reportArgumentType]  # pairs are what the backend takes
        model_max_length=max_length,
    )
    for sentence in sentences:
        length = len(tokenizer(sentence).input_ids)
        if length > max_length:
            raise ValueError(f"tokenizer: {sentence!r} needs {length} tokens, max_length is {max_length}")
    return tokenizer


def _words(sentence: str) -> list[str]:
    """The pieces that CLIP's own rules cut a sentence into, bytes written as CLIP's printable symbols."""
    backend = CLIPTokenizer(vocab={BOS: 0, EOS: 1}, merges=[]).backend_tokenizer
    # set by the lines that made the tokenizer
    normal = backend.normalizer.normalize_str(sentence)  # pyright: ignore[reportOptionalMemberAccess]
    # set by the lines that made the tokenizer
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]  # pyright: ignore[reportOptionalMemberAccess]


def _byte_symbols() -> list[str]:
    """The 256 printable symbols of byte-level encoding: a printable byte is itself, others follow from U+0100 on."""
    own = {*range(33, 127), *range(161, 173), *range(174, 256)}
    return [chr(b) for b in sorted(own)] + [chr(256 + i) for i in range(256 - len(own))]


def _merges_until_whole(words: list[str], known: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """`known` merges, and behind them those after which each word is one symbol. Ties go to the first pair in order."""
    spelled = [[*word[:-1], word[-1] + WORD_END] for word in words]
    merges = list(known)
    for pair in merges:
        spelled = [_join(symbols, pair) for symbols in spelled]
    while True:
        pairs = Counter(pair for symbols in spelled for pair in pairwise(symbols))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [_join(symbols, best) for symbols in spelled]


def _join(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    i = 0
    while i < len(symbols):
        step = 2 if tuple(symbols[i : i + 2]) == pair else 1
        joined.append("".join(symbols[i : i + step]))
        i += step
    return joined


def save_prior(
    directory: str | Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    scheduler: SchedulerMixin,
    vocabulary: Vocabulary | Words | Mapping[str, object] | None = None,
    *,
    kind: Kind = "instruct",
    dtype: torch.dtype = torch.float16,
    vae_of: str | None = None,
) -> Path:
    """Write the parts as a directory that diffusers' own pipeline class loads; an older one there is replaced.

    The parts themselves are left as they are (a copy is cast to `dtype`). Files of the older directory that a prior
    does not consist of (a model card) are kept. The new directory is complete before it takes the old one's place.

    `vae_of` names a folder beside `directory` with a prior whose vae is the same: it is then not written again.

    Returns:
        The directory.

    Raises:
        ValueError: `vocabulary` is not in the form that `Vocabulary` describes, or the vae of `vae_of` is another.
    """
    directory = Path(directory)
    if vocabulary is not None and not isinstance(vocabulary, Vocabulary | Words):
        vocabulary = Vocabulary.from_dict(vocabulary)
    shared = {} if vae_of is None else _share_vae(directory.parent / vae_of / "vae", vae, dtype)
    parts = {"vae": vae, "unet": unet, "text_encoder": text_encoder, "tokenizer": tokenizer, "scheduler": scheduler}
    with atomic_folder(directory, replaces=True) as new:
        with quiet():
            for name, part in parts.items():
                if shared and name == "vae":
                    continue
                part = _copy(part, dtype) if isinstance(part, nn.Module) else part
                # models, tokenizers and schedulers share no typed base
                part.save_pretrained(new / name)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        _write_bpe_files(tokenizer, new / "tokenizer")
        for config in new.rglob("*.json"):
            _drop_origin(config)
        for weights in new.rglob("*.safetensors"):
            weights.chmod(0o644)  # written for the owner alone
        (new / "model_index.json").write_text(_model_index(kind, parts, shared), encoding="utf-8")
        if vocabulary is not None:
            (new / FILE_NAME).write_text(vocabulary.to_json(), encoding="utf-8")
        _bring_along(directory, new)
    return directory


def _copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(module).to(device="cpu", dtype=dtype)


def _share_vae(folder: Path, vae: AutoencoderKL, dtype: torch.dtype) -> dict[str, object]:
    """Entries of model_index.json for a prior that takes its vae from `folder`, which must be `vae` in `dtype`."""
    theirs = AutoencoderKL.from_pretrained(str(folder), local_files_only=True)
    assert isinstance(theirs, AutoencoderKL)
    ours, written = vae.state_dict(), theirs.state_dict()
    same = ours.keys() == written.keys() and all(
        torch.equal(written[k], v.cpu().to(dtype).float()) for k, v in ours.items()
    )
    if not same or theirs.config["scaling_factor"] != vae.config["scaling_factor"]:
        raise ValueError(f"vae_of: expected the same vae in {folder}, got another one; export that prior first")
    return {VAE_OF: folder.parent.name, VAE_SHA256: vae_checksum(folder)}


def _model_index(kind: Kind, parts: Mapping[str, object], shared: Mapping[str, object]) -> str:
    """What tells diffusers which class each folder belongs to; no safety checker, no feature extractor."""
    pipeline = next(name for name, its_kind in PIPELINES.items() if its_kind == kind)
    library = {"text_encoder": "transformers", "tokenizer": "transformers"}
    index: dict[str, object] = {"_class_name": pipeline, "_diffusers_version": __version__}
    index |= {part: [library.get(part, "diffusers"), type(value).__name__] for part, value in parts.items()}
    index |= {"feature_extractor": [None, None], "image_encoder": [None, None], "safety_checker": [None, None]}
    index |= {"requires_safety_checker": False, **shared}
    return json.dumps(index, indent=2) + "\n"


def _bring_along(directory: Path, new: Path) -> None:
    """Copy what is no part of a prior from the folder that `new` is to replace, if there is one."""
    for extra in directory.iterdir() if directory.is_dir() else ():
        if extra.name not in (FILE_NAME, *PARTS) and not (new / extra.name).exists():
            shutil.copytree(extra, new / extra.name) if extra.is_dir() else shutil.copy2(extra, new / extra.name)


def _write_bpe_files(tokenizer: CLIPTokenizer, directory: Path) -> None:
    """The two files that older releases of transformers read in place of tokenizer.json."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _drop_origin(config: Path) -> None:
    """Remove the path that a part was once loaded from: it says nothing elsewhere."""
    content = json.loads(config.read_text(encoding="utf-8"))
    if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
