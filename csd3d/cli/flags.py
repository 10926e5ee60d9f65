"""The flags that mean the same in every editor's command."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import tyro

from csd3d.engine.config import PAPER, CsdConfig, Method, method_changes
from csd3d.runs.settings import load_preset, override

C = TypeVar("C")


@dataclass(frozen=True)
class CommonFlags:
    """Flags of every editor. What is left out takes the value that suits the prior."""

    prompt: str | None = None
    """The sentence that says what to change, for instance "make it snowy"."""
    source_prompt: str | None = None
    """What the source shows, for text-to-image priors. Instruction editors take none."""
    output: Path | None = None
    """File to write. Default: in the run's folder."""
    prior: str | None = None
    """`builtin` (small, knows a closed set of sentences; the default), `builtin:t2i` (for captions), a folder in
    diffusers layout, or a hub id such as timbrooks/instruct-pix2pix."""
    method: Method | None = None
    """How particles are moved: `csd-edit` for instruction editors (default), the others for text-to-image priors, which
    take captions: of the result, and in --source-prompt of the source (not needed by sds and csd)."""
    preset: str | None = None
    """Settings to start from: `paper` (as published), a JSON file of overrides, or a run's manifest.json. Flags given
    beside it win."""
    steps: int | None = None
    """How many times each particle is moved: every frame of a clip, or all of a picture."""
    seed: int | None = None
    """Seed of all randomness (default 0): same seed, same result."""
    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`, ... Default: CUDA where there is one."""
    run_dir: Path | None = None
    """Folder of the run: manifest, state, report. Default: a new one in `runs/`."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the run in --run-dir. Whatever else is given must agree with it."""


def given(command: Any) -> dict[str, Any]:
    """The flags of a command that a person gave, by name; paths as text."""
    values = {k: v for k, v in vars(command).items() if v is not None and v is not False and v != ()}
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}


def put_flags(config: C, values: Mapping[str, Any]) -> C:
    """`config` with each value where a setting of its name is, in it or in the engine's; a `method` stands for several.

    Raises:
        ValueError, TypeError: a value that makes no sense.
    """
    own = {f.name for f in fields(config)}  # pyright: ignore[reportArgumentType]
    if "method" in values and "method" not in own:
        values = {**method_changes(values["method"]), **values}
    engine = {f.name for f in fields(CsdConfig)} - own
    changes = {k: v for k, v in values.items() if k in own}
    return override(config, {**changes, "csd": {k: v for k, v in values.items() if k in engine}}, where="flags")


def preset_changes(name: str, *, editor: str, method: str | None = None) -> dict[str, object]:
    """What a `--preset` changes: `paper` the published settings of a method in `editor`, else what a JSON file says.

    Raises:
        FileNotFoundError: no such preset or file.
        ValueError: the file is no preset.
    """
    if name == "paper":
        return {"csd": dict(vars(PAPER.get(str(method), PAPER[f"csd-edit-{editor}"])))}
    if not name.endswith(".json"):
        raise ValueError(f"preset: expected `paper` or a .json file, got {name!r}")
    return dict(load_preset(Path(name)))
