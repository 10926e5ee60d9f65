"""How a prior is read, beyond its name: the settings that every command has. Light: it reads no weights."""

from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path

from csd3d.media.place import at_home

SAFE = ".safetensors"


@dataclass(frozen=True)
class Lora:
    """A low-rank change of a prior's weights (Hu et al. 2021)."""

    path: Path
    scale: float
    """How much of it: 1 = as it was trained, 0 = none, negative = away from it."""


@dataclass(frozen=True)
class Loading:
    """How a prior is read."""

    lora: tuple[str, ...] = ()
    """LoRA, FILE.safetensors or FILE.safetensors:SCALE, whose change is added to the weights of the prior, SCALE times
    (1 unless given). As often as there are such files."""
    embedding: tuple[str, ...] = ()
    """Textual inversion, FILE.safetensors: a word more for sentences, called as in the file, or else as the file is. As
    often as there are such files."""

    @property
    def loras(self) -> tuple[Lora, ...]:
        """`lora`, read. Raises ValueError or FileNotFoundError for what cannot be one."""
        return tuple(_lora(text) for text in self.lora)

    @property
    def embeddings(self) -> tuple[Path, ...]:
        """Files of `embedding`. Raises ValueError or FileNotFoundError for what cannot be one."""
        return tuple(_safe_file("embedding", text) for text in self.embedding)

    def check(self) -> None:
        """Raises ValueError or FileNotFoundError for files that are not there or of another kind."""
        _ = self.loras, self.embeddings

    @classmethod
    def of(cls, settings: object) -> "Loading":
        """What is among settings that have fields of these names."""
        return cls(**{f.name: getattr(settings, f.name) for f in fields(cls)})


PLAIN = Loading()
"""As its files are."""


def _lora(text: str) -> Lora:
    file, colon, number = text.rpartition(":")
    if not colon or at_home(Path(text)).is_file():
        return Lora(_safe_file("lora", text), 1.0)
    try:
        scale = float(number)
    except ValueError:
        scale = float("nan")
    if not isfinite(scale):
        raise ValueError(f"lora: expected FILE.safetensors:SCALE with a number, got {text!r}")
    return Lora(_safe_file("lora", file), scale)


def _safe_file(name: str, text: str) -> Path:
    path = at_home(Path(text))
    if path.suffix != SAFE:
        raise ValueError(f"{name}: expected a {SAFE} file, got {text!r} (other formats can run programs)")
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no file {text}")
    return path
