"""Where a prior lies: "builtin", a directory, or a hub id. Looks at names and files only; loads and fetches nothing."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import csd3d
from csd3d.media.place import at_home
from csd3d.priors.defaults import USUAL_TIMESTEPS
from csd3d.priors.families.table import FAMILIES, Family, Kind
from csd3d.priors.loading import PLAIN, SAFE, Loading
from csd3d.priors.store.index import PIPELINES, check_small_files, is_weightless, named_parts, pipeline_of, read_json

CALLED: dict[Kind, str] = {"instruct": "an instruction editor", "text-to-image": "a text-to-image model"}
"""Kinds in words."""
Loader = Literal["latent-diffusion", "family"]
"""How a prior is loaded: part by part, in the shapes of Stable Diffusion 1.x and 2.x (`csd3d.priors.latent_diffusion`),
or as a whole pipeline that is recorded and replayed (`csd3d.priors.families`)."""

_BUILTIN: dict[str, tuple[str, Kind]] = {
    "builtin": ("instruct", "instruct"),
    "builtin:instruct": ("instruct", "instruct"),
    "builtin:t2i": ("t2i", "text-to-image"),
}
VAE_OF, VAE_SHA256 = "_vae_of", "_vae_sha256"
"""Keys of model_index.json, see `part_folder`. Diffusers leaves keys with an underscore alone."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_STEMS = {"vae": "diffusion_pytorch_model", "unet": "diffusion_pytorch_model", "transformer": "diffusion_pytorch_model"}
_WEIGHTS = {
    "vae": "diffusion_pytorch_model",
    "unet": "diffusion_pytorch_model",
    "text_encoder": "model",
}
VARIANTS = (None, "fp16", "bf16")
"""Weights that can be read: plain ones, or those that are published in half precision."""
PARTS = {
    "vae": "AutoencoderKL",
    "unet": "UNet2DConditionModel",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "scheduler": "",  # any class that defines alphas_cumprod; checked when it is built
}


@dataclass(frozen=True)
class Resolved:
    """A prior that a name stands for."""

    name: str
    """As the person wrote it."""
    path: Path | None
    """Its directory; None for a hub id that is still to be fetched."""
    kind: Kind | None
    """What it is; None for a hub id, whose files are not known yet."""
    builtin: bool
    """It is one of the small priors that come with this package."""
    weights: Path | None = None
    """The one file that its weights are in, where `path` has only what that lacks."""

    @property
    def family(self) -> Family | None:
        """Its row of the table, as a distilled model has it if it says that it is one, if it is loaded as a whole
        pipeline; None for a hub id that is still to be fetched."""
        if self.path is None or self.builtin or not (index := self.path / "model_index.json").is_file():
            return None
        said = read_json(index, "not a prior")
        row = FAMILIES.get(str(said.get("_class_name")))
        return row.distilled if row is not None and said.get("is_distilled") is True else row

    @property
    def num_timesteps(self) -> int:
        """Timesteps that it was trained with, as its scheduler says; the usual number where none does."""
        config = None if self.path is None else self.path / "scheduler" / "scheduler_config.json"
        number = None if config is None or not config.is_file() else read_json(config, "").get("num_train_timesteps")
        return number if type(number) is int and number > 0 else USUAL_TIMESTEPS


def require_kind(found: Resolved, kind: Kind) -> None:
    """Raises ValueError for a prior that is known to be of another kind."""
    if found.kind not in (None, kind):
        raise ValueError(f"prior {found.name!r}: expected {CALLED[kind]}, got {CALLED[found.kind]}")


def resolve(name: str | Path, how: Loading = PLAIN) -> Resolved:
    """What `name` stands for: "builtin" (= "builtin:instruct"), "builtin:t2i", a directory, a file of safetensors with
    `how.prior_config`, or a hub id "owner/name".

    A directory that exists goes before a hub id of the same spelling.

    Raises:
        FileNotFoundError: There is no such directory, or the built-in weights are missing.
        ValueError: `name` is none of the above, or the directory or file holds no prior that can be used.
    """
    text = str(name).strip()
    path = at_home(Path(text))
    if text and path.is_file() and path.suffix == SAFE:
        from csd3d.priors.store.single_file import config_for  # slow to import, and seldom needed

        config, kind = config_for(path, how.prior_config)
        return Resolved(text, config, kind, builtin=False, weights=path)
    if how.prior_config is not None:
        raise ValueError(f"prior-config: expected none but with a prior in one {SAFE} file, got prior {text!r}")
    if text in _BUILTIN:
        return _resolve_builtin(text)
    if text.startswith("builtin"):
        raise ValueError(f"prior {text!r}: the built-in priors are {', '.join(_BUILTIN)}")
    if text and path.is_dir():
        return Resolved(text, path, check_directory(path), builtin=False)
    if text and path.exists():
        raise ValueError(
            f"prior {text!r}: expected a directory in diffusers layout (with model_index.json) or a {SAFE} file, got a "
            "single file of another kind"
        )
    if isinstance(name, str) and _HUB_ID.fullmatch(text):
        return Resolved(text, None, None, builtin=False)
    if "/" in text or isinstance(name, Path):
        raise FileNotFoundError(f"prior {text!r}: there is no such directory")
    raise ValueError(f"prior {text!r}: expected 'builtin', a directory, or a hub id like 'timbrooks/instruct-pix2pix'")


def builtin_directory(name: str = "builtin") -> Path:
    """Where the weights of a built-in prior belong, whether they are there or not. Raises KeyError for another name."""
    return Path(csd3d.__file__).parent / "weights" / _BUILTIN[name][0]


def _resolve_builtin(name: str) -> Resolved:
    path = builtin_directory(name)
    if not (path / "model_index.json").is_file():
        raise FileNotFoundError(
            f"prior {name!r}: its weights are not in this installation (expected in {path}); "
            "reinstall csd3d, train them with scripts/train_builtin.py, or name another prior"
        )
    kind = check_directory(path)
    expected = _BUILTIN[name][1]
    if kind != expected:
        raise ValueError(f"prior {name!r}: expected {path} to hold a prior of kind {expected!r}, got {kind!r}")
    return Resolved(name, path, kind, builtin=True)


def check_directory(path: Path) -> Kind:
    """The kind of the prior in `path`, after checking that all its parts are there and of a class we know.

    Raises:
        ValueError: Not a diffusers directory, a pipeline or part of another class, or weights not in safetensors form.
    """
    index = read_json(path / "model_index.json", "not a prior: expected a diffusers directory with model_index.json")
    named = index.get("_class_name")
    pipeline = named if isinstance(named, str) else ""
    if pipeline in PIPELINES:
        for part, expected in PARTS.items():
            _check_part(path, part, expected, index.get(part))
        return PIPELINES[pipeline]
    if pipeline in FAMILIES:
        for part, class_name in named_parts(index).items():
            _check_family_part(path, part, class_name)
        return FAMILIES[pipeline].kind
    expected = " or ".join(PIPELINES)
    raise ValueError(
        f"prior {path}: expected a pipeline of class {expected}, or of a family in docs/families.md, got {named!r}"
    )


def loader_of(path: Path) -> Loader:
    """How the prior in `path`, a directory that was checked, is loaded."""
    return "latent-diffusion" if pipeline_of(path) in PIPELINES else "family"


def parts_of(path: Path) -> Collection[str]:
    """Folders that the prior in `path` consists of: the five of Stable Diffusion, or those that a family names."""
    if not (path / "model_index.json").is_file() or pipeline_of(path) not in FAMILIES:
        return PARTS
    return named_parts(read_json(path / "model_index.json", "not a prior"))


def _check_family_part(path: Path, part: str, class_name: str) -> None:
    """Raise ValueError unless a part's folder is there, and its weights, if it has any, are safetensors."""
    folder = path / part
    if not folder.is_dir():
        raise ValueError(f"prior {path}: its folder {part}/ is missing")
    check_small_files(path, part, class_name)
    if is_weightless(class_name):
        return
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        _check_index(index)
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"prior {path}: {_why_no_weights(folder, _STEMS.get(part, 'model'))}")


def _check_part(path: Path, part: str, expected: str, entry: object) -> None:
    class_name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if not isinstance(class_name, str):
        raise ValueError(f"prior {path}: expected model_index.json to name its {part}, got {entry!r}")
    if expected and class_name.removesuffix("Fast") != expected:
        raise ValueError(f"prior {path}: expected a {part} of class {expected}, got {class_name}")
    folder = part_folder(path, part)
    if not folder.is_dir():
        raise ValueError(f"prior {path}: its folder {part}/ is missing")
    if part in _WEIGHTS:
        weights_variant(folder)


def part_folder(path: Path, part: str) -> Path:
    """Where a part of the prior in `path` is: its own folder, or for a vae that of the prior it shares one with.

    A prior without vae/ names in its model_index.json the folder beside its own that holds the other prior
    (`VAE_OF`), and the checksum of that vae (`VAE_SHA256`).
    """
    own = path / part
    if part != "vae" or own.is_dir() or not (path / "model_index.json").is_file():
        return own
    other = read_json(path / "model_index.json", "not a prior").get(VAE_OF)
    return path.parent / other / part if isinstance(other, str) and _NAME.fullmatch(other) else own


def weights_variant(folder: Path, order: Sequence[str | None] = VARIANTS) -> str | None:
    """Which safetensors file of a part to read: None for the plain one, "fp16" for model.fp16.safetensors.

    Args:
        order: Variants that will do, the best first.

    Raises:
        ValueError: There is no safetensors file of these names, or an index of shards names other files.
    """
    stem = _WEIGHTS[folder.name]
    for index in sorted(folder.glob("*.index*.json")):
        if ".safetensors." in index.name:
            _check_index(index)
    for variant in order:
        if any((folder / name).is_file() for name in _weight_names(stem, variant)):
            return variant
    raise ValueError(f"prior {folder.parent}: {_why_no_weights(folder, stem)}")


def _weight_names(stem: str, variant: str | None) -> tuple[str, str]:
    """The names of a whole file of weights, and of the index of one in shards."""
    dotted = f".{variant}" if variant else ""
    return f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"


def _check_index(index: Path) -> None:
    """Raise ValueError unless all shards that an index names are safetensors files that lie beside it."""
    weights = read_json(index, "not a usable part").get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise ValueError(f"{index}: expected a weight_map from weights to files, got {type(weights).__name__}")
    for name in dict.fromkeys(weights.values()):
        if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name:
            raise ValueError(f"{index}: expected it to name safetensors files beside it, got {name!r}")
        if not (index.parent / name).is_file():
            raise ValueError(f"{index}: names {name}, which is missing")


def _why_no_weights(folder: Path, stem: str) -> str:
    """What a part has in place of weights that can be read."""
    names = sorted(p.name for p in folder.iterdir())
    others = [name for name in names if name.endswith(".safetensors")]
    if others:
        return f"expected {folder.name}/{stem}.safetensors (or .fp16, .bf16), found only {', '.join(others)}"
    pickled = [name for name in names if Path(name).suffix in {".bin", ".pt", ".pth", ".ckpt"}]
    if pickled:
        return (
            f"{folder.name}/ has its weights only as {pickled[0]}, a pickle, which can run any program when it is "
            "read; expected safetensors (convert it, or take a revision that has them)"
        )
    return f"expected {folder.name}/{stem}.safetensors, found no weights"
