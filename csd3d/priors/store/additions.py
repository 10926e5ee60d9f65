"""LoRA and textual inversion put into a prior when it is loaded, by diffusers' own means; safetensors only.

A LoRA is merged into the weights, W + scale (alpha / r) B A (Hu et al. 2021), so that a step costs what it did before
and everything else, attention control and features included, sees one network. A textual inversion (Gal et al. 2023) is
one or several vectors more in the text encoder's table of words, under a word of its own.
"""

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from csd3d.priors.loading import Loading, Lora
from csd3d.priors.networks.learnt import Learnt, read_apart, token_names
from csd3d.priors.store.files import SECOND, check_whole, first_line, shapes_in, word_of
from csd3d.priors.store.silence import quiet

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_PARTS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
"""Parts of a pipeline that tensors of `SECOND` are for."""
_DOWN = ("lora_A.weight", "lora_down.weight", "lora.down.weight")
"""Ends of the names of A in the published layouts: peft's and diffusers', kohya's, diffusers' of before."""
_WRONG = (ValueError, RuntimeError, KeyError, TypeError, AttributeError, OSError, IndexError)
"""What diffusers and peft say of files that do not fit."""


def add_to(pipe: Any, how: Loading, *, title: str, merge: bool = True) -> list[str]:
    """Put LoRAs and textual inversions into a pipeline's parts, which stay frozen; returns notes.

    Args:
        pipe: A diffusers pipeline.
        how: What to put in.
        title: What people call the model.
        merge: Into the weights. False keeps LoRAs beside them, for weights that nothing can be added to.

    Raises:
        ValueError: A file is damaged, of another kind, or for another model, or the pipeline takes none.
    """
    notes: list[str] = []
    names = [f"lora{number}" for number in range(len(how.loras))]
    with quiet(errors=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters of theirs is checked, and refused or noted
        for name, lora in zip(names, how.loras, strict=True):
            notes += _add_lora(pipe, lora, name, title, merge=merge)
        if names and not merge:
            pipe.set_adapters(names, [lora.scale for lora in how.loras])
        for path in how.embeddings:
            vectors = _of_layers(path)
            if vectors is not None and not hasattr(pipe, "unet"):
                raise ValueError(f"embedding: {path} is not for {title}: it has vectors for each layer of a UNet")
            tensors = load_file(path) if vectors is None else {word_of(path): vectors[0]}
            notes.append(_add_embedding(pipe, path, tensors, title))
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    return notes


def _add_lora(pipe: Any, lora: Lora, name: str, title: str, *, merge: bool) -> list[str]:
    if not hasattr(pipe, "load_lora_weights"):
        raise ValueError(f"lora: expected none, diffusers loads none into {title}, got {lora.path}")
    if importlib.util.find_spec("peft") is None:
        raise ValueError('lora: needs peft: pip install "csd3d[families]"')
    check_whole(lora.path)
    try:
        there = _tensors_of(pipe, lora.path)
        pipe.load_lora_weights(str(lora.path), adapter_name=name, use_safetensors=True, local_files_only=True)
        placed = sum(f".{name}." in key for part in _loadable(pipe).values() for key, _ in part.named_parameters())
        if not placed:
            raise ValueError("none of its tensors has a place there")
        if merge:
            pipe.fuse_lora(components=list(_loadable(pipe)), lora_scale=lora.scale, safe_fusing=True)
            pipe.unload_lora_weights()
    except _WRONG as error:
        raise ValueError(f"lora: {lora.path} is not for {title}: {_why(error)}") from error
    lacking = there - placed
    return [f"{lora.path.name}: {lacking} of its {there} tensors have no place in {title}"] if lacking > 0 else []


def about(how: Loading) -> list[str]:
    """What each file of `how` would add to a prior, a line each, by its names and shapes alone. Raises ValueError for
    a damaged file, and for an embedding that adds no word."""
    lines: list[str] = []
    for lora in how.loras:
        downs = [s for key, s in shapes_in(lora.path).items() if key.endswith(_DOWN)]
        ranks = sorted({shape[0] for shape in downs})
        what = f"{len(downs)} layers, rank {', '.join(map(str, ranks))}" if downs else "no layers of a known layout"
        lines.append(f"lora {lora.path}: {what}, scale {lora.scale:g}")
    for path in how.embeddings:
        shape = next(iter(shapes_in(path).values()))
        lines.append(f"embedding {path}: {word_of(path)!r}, {' x '.join(map(str, shape))}")
    return lines


def _tensors_of(pipe: Any, path: Path) -> int:
    """How many tensors a LoRA file has, in diffusers' own form."""
    read = pipe.lora_state_dict(str(path), use_safetensors=True, local_files_only=True)
    state: Mapping[str, object] = read[0] if isinstance(read, tuple) else read
    return sum(not key.endswith("alpha") for key in state)


def _loadable(pipe: Any) -> dict[str, nn.Module]:
    """Parts of a pipeline that a LoRA may change."""
    parts = {name: getattr(pipe, name, None) for name in type(pipe)._lora_loadable_modules}
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def _of_layers(path: Path) -> Float[Tensor, "s v d"] | None:
    """Vectors of an extended textual inversion, several for each reader of a network; None of others."""
    tensors = load_file(path)
    only = next(iter(tensors.values()), None)
    return only if len(tensors) == 1 and only is not None and only.ndim == 3 else None


def add_apart(how: Loading, tokenizer: "CLIPTokenizer", unet: nn.Module, length: int, *, title: str) -> list[Learnt]:
    """The words among `how` that layers of a UNet read differently, after `add_to`; the layers are made ready.

    Args:
        how: What was put in.
        tokenizer: Which knows the words by now.
        unet: Whose layers read them.
        length: Tokens of a sentence.
        title: What people call the model.

    Raises:
        ValueError: Vectors for another number of layers than the UNet has.
    """
    found = {path: vectors for path in how.embeddings if (vectors := _of_layers(path)) is not None}
    if not found:
        return []
    from csd3d.priors.networks.sites import readers_of  # imports diffusers: where a network is, it is there already

    learnt: list[Learnt] = []
    readers = readers_of(unet)
    for path, vectors in found.items():
        if len(vectors) != len(readers):
            raise ValueError(
                f"embedding: {path} is not for {title}: expected vectors for {len(readers)} layers, got {len(vectors)}"
            )
        numbers = tokenizer.get_vocab()
        names = token_names(word_of(path), vectors.shape[1])
        learnt.append(Learnt(tuple(numbers[name] for name in names), vectors))
    read_apart(readers, length)
    return learnt


def _add_embedding(pipe: Any, path: Path, tensors: Mapping[str, Tensor], title: str) -> str:
    """Returns what the new word is, and whose."""
    if not hasattr(pipe, "load_textual_inversion"):
        raise ValueError(f"embedding: expected none, diffusers loads none into {title}, got {path}")
    word = word_of(path)
    try:
        if tensors.keys() <= set(SECOND):
            for key, vectors in tensors.items():
                tokenizer, encoder = (getattr(pipe, part) for part in _PARTS[SECOND.index(key)])
                pipe.load_textual_inversion(vectors, token=word, tokenizer=tokenizer, text_encoder=encoder)
        else:
            pipe.load_textual_inversion(tensors, token=word)
    except _WRONG as error:
        raise ValueError(f"embedding: {path} is not for {title}: {_why(error)}") from error
    return f"{word!r} is a word of sentences now, by {path.name}"


def _why(error: Exception) -> str:
    """What is wrong, where a library says so over several lines, or by a template that it does not fill in."""
    if "size mismatch" in str(error):
        return "its tensors are of other shapes than the model's"
    text = first_line(error)
    return "its vectors are of another length than the model's words" if "incorrect shape" in text else text
