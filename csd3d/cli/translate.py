"""`csd3d translate train|apply`: parse, build the settings, learn or apply, say where the result is."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from csd3d.media.clip.formats import Encoding
from csd3d.media.clip.output import open_output
from csd3d.media.clip.source import open_clip
from csd3d.media.pictures.read import open_picture
from csd3d.media.pictures.write import require_writable, write_picture
from csd3d.priors.editor import recommended
from csd3d.priors.store.resolve import resolve
from csd3d.runs.folder import free_name
from csd3d.runs.interrupt import RunInterrupted
from csd3d.runs.progress import RunProgress
from csd3d.translate.apply import Trained, load_trained
from csd3d.translate.config import TranslateConfig
from csd3d.translate.job import SUFFIXES, find_pictures, read_captions, train_network, with_residual
from video.render import chunk_frames


@dataclass(frozen=True)
class Train:
    """Learn one network for several edits, from pictures and captions of before and after, without edited pictures."""

    pictures: tyro.conf.Positional[Path]
    """Folder of pictures; the middle square of each is used."""
    task: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME="CAPTION", what results show; {} in it stands for a picture's own caption: night="{}, at night". As often as
    there are tasks."""
    source_prompt: str | None = None
    """What the pictures show, where --captions does not say."""
    captions: Path | None = None
    """JSON file with the caption of each picture: {"FILE.png": "CAPTION", ...}."""
    method: Literal["dds", "sds"] = "dds"
    """How results are judged: `dds`, or `sds`, the paper's ablation."""
    prior: str = TranslateConfig.prior
    """`builtin:t2i`, a folder in diffusers layout, or a hub id of a Stable Diffusion 1.x or 2.x."""
    steps: int = TranslateConfig.steps
    """Training steps."""
    batch: int = TranslateConfig.batch
    """Pictures in a step: bounds memory."""
    lr: float = TranslateConfig.lr
    """Learning rate of AdamW."""
    s_text: float | None = None
    """Guidance at the end of the warm-up."""
    warmup: float = TranslateConfig.warmup
    """Share of the steps over which guidance rises from 1; 0 = none, the paper's ablation."""
    identity: float = TranslateConfig.identity
    """Weight of staying with the source at the first step; it falls as a cosine."""
    seed: int = 0
    """Seed of all randomness."""
    device: str | None = None
    """`cpu`, `cuda`, ... Default: CUDA where there is one."""
    run_dir: Path | None = None
    """Folder of the run: the network, its state, a report. Default: a new one in `runs/`."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the run in --run-dir; everything else as it was given."""


@dataclass(frozen=True)
class Apply:
    """Edit a picture or a clip with a trained network, in one pass each."""

    network: tyro.conf.Positional[Path]
    """network.safetensors of a training run."""
    source: tyro.conf.Positional[Path]
    """Picture, video file, or folder of frames."""
    task: str
    """Name of the task."""
    output: Path
    """File to write."""
    device: str | None = None
    """`cpu`, `cuda`, ... Default: CUDA where there is one."""


@dataclass(frozen=True)
class Command:
    """Learn an edit once from a folder of pictures, then apply it in one pass."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Annotated[Train, tyro.conf.subcommand("train")] | Annotated[Apply, tyro.conf.subcommand("apply")]
    ]
    """What to do."""


def run(command: Command) -> int:
    """Learn or apply; returns the exit code. Mistakes raise."""
    return run_train(command.action) if isinstance(command.action, Train) else run_apply(command.action)


def run_train(command: Train) -> int:
    """`csd3d translate train`."""
    if command.resume and command.run_dir is None:
        raise ValueError("resume: expected --run-dir, the folder of the run to go on with, got none")
    files = find_pictures(command.pictures)
    captions = read_captions(files, command.captions, command.source_prompt)
    config = build_config(command)
    run_dir = command.run_dir or free_name("translate", " ".join(config.tasks))
    try:
        path = train_network(files, captions, config, run_dir, resume=command.resume)
    except RunInterrupted as stop:
        print(f"{stop}; go on with the same command and --resume --run-dir {stop.run_dir}", file=sys.stderr)
        return stop.exit_code
    print(f"network  {path}")
    print(f"report   {path.with_name('report.html')}")
    return 0


def build_config(command: Train) -> TranslateConfig:
    """The settings: those that suit the prior, then the flags. Raises ValueError for tasks that cannot be read."""
    csd = recommended(resolve(command.prior).builtin, "dds")
    csd = csd if command.s_text is None else replace(csd, s_text=command.s_text)
    names = ("prior", "steps", "batch", "lr", "warmup", "identity", "seed", "device")
    config = TranslateConfig(read_tasks(command.task), csd, **{name: getattr(command, name) for name in names})
    return with_residual(config, command.method)


def read_tasks(words: Sequence[str]) -> Mapping[str, str]:
    """NAME="CAPTION" words. Raises ValueError for something else, and for a name that comes twice."""
    tasks: dict[str, str] = {}
    for word in words:
        name, sign, caption = (part.strip() for part in word.partition("="))
        if not (sign and name and caption):
            raise ValueError(f'task: expected NAME="CAPTION", got {word!r}')
        if name in tasks:
            raise ValueError(f"task: expected every name once, got {name!r} again")
        tasks[name] = caption
    if not tasks:
        raise ValueError('task: expected at least one, --task NAME="CAPTION", got none')
    return tasks


def run_apply(command: Apply) -> int:
    """`csd3d translate apply`."""
    if not command.source.exists():
        raise FileNotFoundError(f"source: expected a picture or a clip, got {command.source}, which does not exist")
    if command.output.exists() and command.output.samefile(command.source):
        raise ValueError(f"output: expected another file than the source itself, got {command.output}")
    trained = load_trained(command.network, device=command.device)
    trained.task(command.task)
    picture = command.source.is_file() and command.source.suffix.lower() in SUFFIXES
    notes = (apply_to_picture if picture else apply_to_clip)(trained, command.source, command.task, command.output)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"wrote  {command.output}")
    return 0


def apply_to_picture(trained: Trained, source: Path, task: str, output: Path) -> list[str]:
    """Translate one picture; depth, transparency and tags are kept. Returns what could not be kept."""
    picture = open_picture(source)
    require_writable(output, picture.height_px, picture.width_px)
    rgb = torch.from_numpy(picture.pixels.astype(np.float32)).permute(2, 0, 1)[None] / picture.levels
    levels = (trained(rgb, task)[0] * picture.levels).round().permute(1, 2, 0).numpy().astype(picture.pixels.dtype)
    return write_picture(output, levels, alpha=picture.alpha, tags=picture.tags)


def apply_to_clip(trained: Trained, source: Path, task: str, output: Path) -> list[str]:
    """Translate every frame of a clip; timing and sound are kept. Returns what could not be kept."""
    notes: list[str] = []
    with open_clip(source) as clip, RunProgress() as progress:
        size = chunk_frames(clip, 16)
        chunks = progress.track("translate", clip.chunks(size, exact=True), total=clip.info.frames, unit=size)
        with open_output(output, clip.info, Encoding(), tags=clip.info.tags, notes=notes) as writer:
            for _, rgb in chunks:
                writer.write(trained(rgb, task))
        return [*clip.notes, *notes]
