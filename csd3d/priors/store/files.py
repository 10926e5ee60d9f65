"""Whether a file of weights is whole, what it adds to a prior, and what a library says is wrong with one."""

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

_ADVICE = re.compile(r"\s*(?:To enable repo look-ups[^)\n]*|Please check out the root cause[^.\n]*\.?)")


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
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
