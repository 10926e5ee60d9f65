"""How a prior is read, beyond its name: the settings that every command has. Light: it reads no weights."""

from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Literal, get_args

from csd3d.media.place import at_home

SAFE = ".safetensors"
Quantise = Literal["none", "int8", "nf4", "fp8"]


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
    prior_config: Path | None = None
    """With a prior that is one file of weights: a folder in diffusers layout with the configurations and tokenizers of
    its model, and the parts that the file lacks. None: those of the model that diffusers recognises, from the hub's
    cache."""
    offload: bool = False
    """Keep the layers of the prior on the CPU but for the one that computes: less memory on CUDA, and slower."""
    quantise: Quantise = "none"
    """Weights of the prior in fewer bits: `fp8` (of the network, any prior), `int8` (families, needs torchao) or `nf4`
    (4 bits; families, needs bitsandbytes)."""
    scaled_condition: bool = False
    """Show an InstructPix2Pix editor its source times the scaling factor of the autoencoder (0.18215), as the published
    code of CSD does, and not as the editor was trained: a picture 5.5 times too faint."""
    offline: bool = False
    """Ask the hub's cache on this machine only, never the network."""

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
        if self.quantise not in get_args(Quantise):
            raise ValueError(f"quantise: expected one of {', '.join(get_args(Quantise))}, got {self.quantise!r}")

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
