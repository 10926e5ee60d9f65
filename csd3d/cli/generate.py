"""`csd3d generate`: parse, build the settings, make pictures, say where they are."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from csd3d.cli.flags import given, put_flags
from csd3d.priors.editor import generation
from csd3d.priors.store.resolve import resolve
from csd3d.runs.folder import recorded
from csd3d.runs.settings import load_preset, override
from panorama.generate import GenerateConfig, Method, generate


@dataclass(frozen=True)
class Command:
    """Make pictures from a caption: several that agree with each other, or one that is wider than the prior's own."""

    prompt: str | None = None
    """What the pictures show, for instance "a red ball and a blue cube on grass, at night"."""
    output: Path | None = None
    """File to write; several get numbers, NAME-1.png and so on. Default: in the run's folder."""
    n: int | None = None
    """How many pictures (default 4)."""
    method: Method | None = None
    """`csd` (default): made together, so that they agree; `sds`: each for itself; `ddim`: the ordinary sampler."""
    width: int | None = None
    """Width in px. Default: what the prior was trained at; wider ones are made of overlapping windows."""
    height: int | None = None
    """Height in px."""
    wrap: tyro.conf.FlagCreatePairsOff[bool] = False
    """Close the picture: its left border goes on at the right."""
    prior: str | None = None
    """`builtin:t2i` (small, knows a closed set of words; the default), a folder in diffusers layout, or a hub id of a
    Stable Diffusion 1.x or 2.x."""
    preset: Path | None = None
    """Settings to start from: a JSON file of overrides, or a run's manifest.json. Flags given beside it win."""
    steps: int | None = None
    """Steps of the method (default 200 with the small prior, 500 with a big one, 50 of ddim)."""
    lr: float | None = None
    """Learning rate of csd and sds."""
    s_text: float | None = None
    """How strongly the caption is followed; 1 = no guidance."""
    windows_per_step: int | None = None
    """Most pictures or windows in a step (default 8): bounds memory."""
    seed: int | None = None
    """Seed of all randomness (default 0): same seed, same result."""
    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`, ... Default: CUDA where there is one."""
    run_dir: Path | None = None
    """Folder of the run: manifest, state, report. Default: a new one in `runs/`."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the run in --run-dir. Whatever else is given must agree with it."""


def run(command: Command) -> int:
    """Make pictures as `command` says; returns the exit code. Mistakes raise, see `panorama.generate.generate`."""
    if not command.resume and not command.prompt:
        raise ValueError('expected a caption, --prompt "...", got none (--help shows an overview)')
    result = generate(
        command.prompt, command.output, build_config(command), run_dir=command.run_dir, resume=command.resume
    )
    for path in result.paths:
        print(f"picture  {path}")
    print(f"report   {result.report}")
    return 0


def build_config(command: Command) -> GenerateConfig:
    """The settings: those that suit the prior (or those of the run to resume), then the flags.

    Raises:
        ValueError, TypeError, FileNotFoundError: a setting that makes no sense.
    """
    if command.resume:
        _, config = recorded(command.run_dir, GenerateConfig(), "generate")
    else:
        prior, method = command.prior or GenerateConfig.prior, command.method or GenerateConfig.method
        config = GenerateConfig(csd=generation(resolve(prior).builtin, "sds" if method == "sds" else "csd"))
    if command.preset is not None:
        config = override(config, load_preset(command.preset), where="preset")
    values = given(command)
    if "n" in values:
        values["count"] = values["n"]
    if "steps" in values and (command.method or config.method) == "ddim":
        values["sampling_steps"] = values.pop("steps")
    return put_flags(config, values)
