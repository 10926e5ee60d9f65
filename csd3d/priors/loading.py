"""How a prior is read, beyond its name: the settings that every command has. Light: it reads no weights."""

from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Literal, get_args

from csd3d.media.place import at_home

SAFE = ".safetensors"
Quantise = Literal["none", "int8", "nf4", "fp8"]
DeviceMap = Literal["none", "balanced"]
CONTROLS = ("depth", "edge", "pose")
"""What a guard may hold a result to."""


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
    device_map: DeviceMap = "none"
    """`balanced`: layers of a prior that does not fit one GPU are spread over all GPUs of this machine, by
    accelerate; they compute one after another. `none`: all of it is on --device."""
    quantise: Quantise = "none"
    """Weights of the prior in fewer bits: `fp8` (of the network, any prior), `int8` (families, needs torchao) or `nf4`
    (4 bits; families, needs bitsandbytes)."""
    scaled_condition: bool = False
    """Show an InstructPix2Pix editor its source times the scaling factor of the autoencoder (0.18215), as the published
    code of CSD does, and not as the editor was trained: a picture 5.5 times too faint."""
    control: tuple[str, str] | None = None
    """A guard, KIND MODEL: `depth`, `edge` or `pose`, and the folder or hub id of a ControlNet made for it and for the
    prior, which is Stable Diffusion, SDXL, or an InstructPix2Pix of either. Edges are those of the sources. None: no
    guard."""
    control_scale: float = 1.0
    """How strongly the guard acts: 0 = not at all, 1 = as it was trained."""
    control_picture: Path | None = None
    """Control pictures to read in place of the sources: a picture for all particles, or a folder or clip with one for
    each; of `edge` pictures whose edges are taken. None: the sources."""
    control_depth: str | None = None
    """With `depth`: folder or hub id of a depth model of transformers, such as Depth Anything, that says how far what
    the sources show is. None: depth is in --control-picture."""
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

    @property
    def control_models(self) -> tuple[str, ...]:
        """Folders or hub ids of what `control` reads: a ControlNet, and maybe a depth model."""
        return () if self.control is None else tuple(filter(None, (self.control[1], self.control_depth)))

    def check(self, *, depth_known: bool = False) -> None:
        """Raises ValueError or FileNotFoundError for files that are not there or of another kind, and for settings that
        contradict each other. `depth_known`: somebody will tell the depth of sources, as of a scene."""
        _ = self.loras, self.embeddings
        self._check_control(depth_known)
        if self.quantise not in get_args(Quantise):
            raise ValueError(f"quantise: expected one of {', '.join(get_args(Quantise))}, got {self.quantise!r}")
        self._check_device_map()

    def _check_device_map(self) -> None:
        if self.device_map not in get_args(DeviceMap):
            raise ValueError(f"device-map: expected one of {', '.join(get_args(DeviceMap))}, got {self.device_map!r}")
        if self.device_map == "none":
            return
        where = "with --device-map balanced"
        if self.offload:
            raise ValueError(f"offload: expected none {where}, which keeps all layers on their GPUs, got both")
        if self.quantise not in ("none", "fp8"):
            raise ValueError(f"quantise: expected none or fp8 {where}, got {self.quantise}")
        if self.control is not None:
            raise ValueError(f"control: expected none {where}, whose layers no ControlNet joins, got {self.control[0]}")

    def _check_control(self, depth_known: bool) -> None:
        more = {"control-picture": self.control_picture, "control-depth": self.control_depth}
        given = [name for name, value in more.items() if value is not None]
        if self.control is None:
            if given:
                raise ValueError(f"{given[0]}: expected none without --control, got {more[given[0]]}")
            return
        kind = self.control[0]
        if kind not in CONTROLS:
            raise ValueError(f"control: expected one of {', '.join(CONTROLS)} and a ControlNet, got {kind!r}")
        if self.control_depth is not None and (kind != "depth" or self.control_picture is not None):
            raise ValueError(f"control-depth: expected none but with depth, of the sources, got {self.control_depth}")
        if (kind == "pose" and not given) or (kind == "depth" and not (given or depth_known)):
            also = " or --control-depth" if kind == "depth" else ""
            raise ValueError(f"control: {kind} expected --control-picture{also}, which no source shows, got none")
        if not (isfinite(self.control_scale) and self.control_scale >= 0):
            raise ValueError(f"control-scale: expected 0 or more, got {self.control_scale}")
        if self.control_picture is not None and not at_home(self.control_picture).exists():
            raise FileNotFoundError(f"control-picture: there is no {self.control_picture}")

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
