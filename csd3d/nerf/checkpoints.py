"""Checkpoints of nerfstudio's methods and of ours: where they lie, what may be in them, what of them fits.

Nothing but numbers and tensors is ever unpickled.
"""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.engine.trainer import TrainerConfig
from torch import Tensor


def checkpoint_path(config: TrainerConfig) -> Path | None:
    """The checkpoint that a config says to start from; None: none.

    Raises:
        FileNotFoundError: it is not there.
    """
    if config.load_checkpoint is not None:
        if not config.load_checkpoint.is_file():
            raise FileNotFoundError(f"load-checkpoint: expected a file, got {config.load_checkpoint}")
        return config.load_checkpoint
    if config.load_dir is None:
        return None
    if not config.load_dir.is_dir():
        raise FileNotFoundError(f"load-dir: expected a folder of checkpoints, got {config.load_dir}")
    pattern = "step-*.ckpt" if config.load_step is None else f"step-{config.load_step:09d}.ckpt"
    found = sorted(config.load_dir.glob(pattern))
    if not found:
        raise FileNotFoundError(f"load-dir: expected {pattern} in {config.load_dir}, which has none")
    return found[-1]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours or of the plain methods; nothing but numbers and tensors is ever unpickled.

    Raises:
        ValueError: it is none, or holds something else.
    """
    scalar = np.float64(0).__reduce__()[0]  # what numpy's scalars are pickled with; its module moved in numpy 2
    numbers = [scalar, np.dtype, *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64))]
    try:
        with torch.serialization.safe_globals(numbers):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint: {path} cannot be read as a nerfstudio checkpoint ({reason})") from error
    if not isinstance(state, dict) or not {"step", "pipeline"} <= set(state):
        raise ValueError(f"checkpoint: expected a nerfstudio checkpoint, got something else in {path}")
    return state


def fitting_weights(loaded: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a checkpoint under the names that a single process gives `own`, without those of LPIPS.

    Raises:
        ValueError: the checkpoint is of another backend or of other sizes.
    """
    own, state = (
        {k.removeprefix("module.").replace("_model.module.", "_model."): v for k, v in weights.items()}
        for weights in (own, loaded)  # several processes wrap the model
    )
    state = {k: v for k, v in state.items() if not k.startswith("_model.lpips.")}
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"also has {extra[0]}"
        raise ValueError(f"checkpoint: expected one of the backend that this method edits, got one that {what}")
    for name, value in state.items():
        any_number = name.startswith("_model.gauss_params.")  # a splat's rows come and go
        if value.shape[any_number:] != own[name].shape[any_number:]:
            raise ValueError(
                f"checkpoint: expected {name} of shape {tuple(own[name].shape)}, as this method is set up, "
                f"got {tuple(value.shape)}"
            )
    return state


def plain(value: Any) -> Any:
    """The same containers with Python's own numbers, so that loading needs to trust no class."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(v) for v in value)
    return value


def random_state() -> dict[str, Any]:
    """The global sources of random numbers, which samplers of pixels and rays use."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    kind, keys, *rest = np.random.get_state(legacy=True)
    state["numpy"] = [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest]
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Return to a `random_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
