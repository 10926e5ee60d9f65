"""`csd3d translate train|apply`: learn an edit once from a folder of pictures, then apply it in one pass."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from csd3d.cli.editors import Form, asked_loading, read_request, run_and_say
from csd3d.cli.parse import Flag, choose, read_dataclass
from csd3d.media.place import require_place
from csd3d.priors.defaults import default_config, for_timesteps
from csd3d.priors.store.resolve import Resolved, resolve
from csd3d.translate.apply import load_trained
from csd3d.translate.config import TranslateConfig
from csd3d.translate.files import translate_file
from csd3d.translate.job import TranslateEditor, with_residual


def _base(form: Form[TranslateConfig], values: Mapping[str, Any], only_help: bool) -> tuple[TranslateConfig, Resolved]:
    """What suits the prior."""
    found = resolve(values["prior"] or TranslateConfig.prior, asked_loading(values))
    csd = for_timesteps(default_config("dds", builtin=found.builtin), found.num_timesteps)
    return TranslateConfig(prior=found.name, csd=csd), found


TRAIN = Form(
    TranslateEditor,
    about="Learn one network for several edits from pictures and captions of before and after; none is edited.",
    source=Flag(
        "pictures", Path | None, None, "Folder of pictures; the middle square of each is used.", positional=True
    ),
    first=("source_prompt", "captions", "steps", "batch", "warmup", "identity", "s_text", "size", "seed", "device"),
    base=_base,
    extra=(
        Flag(
            "task",
            tuple[str, ...],
            (),
            'NAME="CAPTION", what results show; {} in it stands for a picture\'s own caption: night="{}, at night". As '
            "often as there are tasks.",
        ),
        Flag(
            "method",
            Literal["dds", "sds"] | None,
            None,
            "How results are judged: `dds`, or `sds`, the paper's ablation. None: dds.",
        ),
    ),
    without=("tasks", "prompt"),
    has_method=False,
)


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
    prior: str | None = None
    """The prior that it was trained with, if it is to be fetched or lies elsewhere by now. Default: by the name that
    the network has for it, where that is on this machine."""
    device: str | None = None
    """`cpu`, `cuda`, ... Default: CUDA where there is one."""


def main(argv: Sequence[str]) -> int:
    """Learn or apply; returns the exit code. Mistakes raise."""
    about = "Learn an edit once from a folder of pictures, then apply it in one pass."
    name, rest = choose({"train": TRAIN.about, "apply": str(Apply.__doc__)}, argv, prog="csd3d translate", about=about)
    return (train if name == "train" else apply)(rest)


def train(argv: Sequence[str]) -> int:
    """`csd3d translate train`."""
    request, extras = read_request(TRAIN, argv, prog="csd3d translate train")
    config = request.config
    if extras["task"]:
        config = replace(config, tasks=read_tasks(extras["task"]))
    if extras["method"] is not None:
        config = with_residual(config, extras["method"])
    if not config.tasks:
        raise ValueError('task: expected at least one, --task NAME="CAPTION", got none')
    return run_and_say(TRAIN, replace(request, source=extras["pictures"] or request.source, config=config), "network")


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
    return tasks


def apply(argv: Sequence[str]) -> int:
    """`csd3d translate apply`."""
    command = read_dataclass(Apply, argv, prog="csd3d translate apply")
    if not command.source.exists():
        raise FileNotFoundError(f"source: expected a picture or a clip, got {command.source}, which does not exist")
    require_place(command.output, inputs=(command.source, command.network))
    trained = load_trained(command.network, prior=command.prior, device=command.device)
    trained.task(command.task)
    for note in translate_file(trained, command.source, command.task, command.output):
        print(f"note: {note}", file=sys.stderr)
    print(f"wrote  {command.output}")
    return 0
