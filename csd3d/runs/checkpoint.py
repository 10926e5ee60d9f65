"""Checkpoints: named tensors and a JSON record in one safetensors file.

One file, renamed into place, is what makes a checkpoint atomic: tensors, step number and random state always belong
together. Nothing is ever pickled, so a checkpoint from a stranger can hold wrong numbers but never code.

A generator's state is a plain byte tensor (`torch.Generator.get_state`) and is stored with the others.
"""

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from csd3d.media.atomic import atomic_path
from csd3d.media.json_file import parse_json

_KEY = "csd3d"
_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: tensors by name (on the CPU) and the JSON record."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write `tensors` and `record` to `path` atomically.

    Tensors of any dtype and device; they are stored contiguous and unshared. `record` is whatever strict JSON can hold.

    Raises:
        ValueError: `record` holds NaN or Infinity.
        TypeError: `record` holds something that JSON cannot express.
        OSError: it cannot be written.
    """
    # clone: safetensors refuses tensors that share storage, and a view must not drag its base into the file
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    head = {"format": _FORMAT, "record": dict(record), "sha256": _digest(plain)}
    text = json.dumps(head, allow_nan=False)
    with atomic_path(path) as part:
        part.touch()
        mode = part.stat().st_mode  # as any file of this person's; safetensors makes files that only the owner reads
        try:
            save_file(plain, part, metadata={_KEY: text})
        except SafetensorError as error:  # what the system said of the disk, in safetensors' words
            full = "space" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from error
        part.chmod(mode)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint of this project, is damaged, or is of a newer format. That a bit of a
            tensor was changed is seen by their hash.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: expected a file, got {path}, which does not exist")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = (file.metadata() or {}).get(_KEY)
            # clone: the tensors come memory-mapped, and the file may be replaced while they are in use
            # a safetensors file has keys() and no iterator
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"checkpoint: {path} is damaged or not a safetensors file ({error})") from error
    if header is None:
        raise ValueError(f"checkpoint: expected a checkpoint of csd3d, got other tensors in {path}")
    content = parse_json(header, f"checkpoint: the record in {path}")
    found = content.get("format") if isinstance(content, dict) else None
    if not isinstance(content, dict) or found != _FORMAT:
        raise ValueError(f"checkpoint: expected format {_FORMAT}, got {found} in {path}")
    if not isinstance(content.get("record"), dict):
        raise ValueError(f"checkpoint: expected a record beside the tensors, got none in {path}")
    if content.get("sha256", digest := _digest(tensors)) != digest:  # those of before have none
        raise ValueError(f"checkpoint: {path} is damaged: its tensors are not those that were saved")
    return Checkpoint(tensors, content["record"])


@contextmanager
def as_saved(path: Path) -> Iterator[None]:
    """Within the block the content of a checkpoint is put to use; what does not fit is a ValueError that names it."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0]
        first = first if isinstance(error, ValueError) else f"{type(error).__name__}: {first}"
        raise ValueError(
            f"checkpoint: expected in {path} what such a run saves, got something else ({first})"
        ) from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, kinds, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
