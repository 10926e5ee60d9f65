"""Whether a file of weights is whole, what it adds to a prior, and what a library says is wrong with one."""

import re
from collections.abc import Collection
from pathlib import Path
from textwrap import shorten
from typing import Any

from safetensors import SafetensorError, safe_open

_ADVICE = re.compile(r"\s*(?:To enable repo look-ups[^)\n]*|Please check out the root cause[^.\n]*\.?)")


LONGEST = 400
"""Letters of what a library says; some tell whole configurations."""
UNASKED = "lm_head."
"""What the names of weights begin with that language models say words by: of text encoders they are not wanted."""


def check_whole(file: Path) -> None:
    """Raise ValueError when a safetensors file is cut short or is something else."""
    _ = shapes_in(file)


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file, of which only the header is read. Raises ValueError when
    it is cut short or is something else."""
    try:
        with safe_open(str(file), framework="pt") as opened:
            # a safetensors file has keys() and no iterator
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        start = file.read_bytes()[:40] if file.stat().st_size < 1024 else b""
        hint = " (it is a git-lfs pointer; git lfs pull fetches the real file)" if start.startswith(b"version") else ""
        raise ValueError(f"{file}: not a complete safetensors file{hint}: {first_line(error)}") from None


def read_part(cls: Any, place: Path | str, **options: object) -> Any:
    """A model of a class of diffusers or transformers, from the safetensors in a folder (or of a hub id, where
    `local_files_only` is no longer so), with `options` of its `from_pretrained`. Raises ValueError for weights that
    lack or are of another shape, which transformers would draw at random, and whatever the libraries raise."""
    asked = {"use_safetensors": True, "local_files_only": True, **options}
    if cls.__module__.startswith("transformers."):  # which names them only where it is told to go on
        asked["ignore_mismatched_sizes"] = True
    model, report = cls.from_pretrained(str(place), output_loading_info=True, **asked)
    for name, got, expected in sorted(report["mismatched_keys"]):
        raise ValueError(f"expected {name!r} to be {tuple(expected)}, got {tuple(got)}")
    require_weights([name for name in report["missing_keys"] if not name.startswith(UNASKED)])
    return model


def require_weights(missing: Collection[str]) -> None:
    """Raise ValueError where weights of a model are missing, by their names."""
    if missing:
        raise ValueError(f"it lacks {len(missing)} of its weights, {min(missing)!r} for one")


SECOND = ("clip_l", "clip_g")
"""Tensors of a textual inversion of SDXL, one for each of its text encoders."""


def word_of(file: Path) -> str:
    """The word that a textual inversion adds: as its tensor is called, or as the file where that has no name of its
    own. Raises ValueError for other files."""
    names = tuple(shapes_in(file))
    if set(names) <= set(SECOND) or names == ("emb_params",):
        return file.stem
    if len(names) != 1:
        raise ValueError(f"embedding: expected one tensor, or clip_l and clip_g, got {len(names)} in {file}")
    return names[0]


def first_line(error: Exception | None) -> str:
    """What a library says is wrong, without what it advises its programmers to do."""
    lines = _ADVICE.sub("", str(error).strip()).splitlines()
    return shorten(lines[0].rstrip("."), LONGEST, placeholder=" ...") if lines else type(error).__name__
