"""`csd3d personalise`: let a prior learn a subject from a few pictures of it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from csd3d.cli.editors import Form, asked_loading, read_request, run_and_say
from csd3d.cli.parse import Flag
from csd3d.engine.config import CsdConfig
from csd3d.personal.config import PersonalConfig
from csd3d.personal.job import PersonalEditor
from csd3d.priors.defaults import for_timesteps, generation_config
from csd3d.priors.store.resolve import Resolved, resolve

ENGINE = ("t_min", "t_max", "s_text")
"""Settings of the engine that count."""


def _base(form: Form[PersonalConfig], values: Mapping[str, Any], only_help: bool) -> tuple[PersonalConfig, Resolved]:
    """What suits the prior."""
    found = resolve(values["prior"] or PersonalConfig.prior, asked_loading(values))
    csd = replace(generation_config("ddim", builtin=found.builtin), t_min=0, t_max=1000)
    method = values["method"] or PersonalConfig.method
    return PersonalConfig(prior=found.name, method=method, csd=for_timesteps(csd, found.num_timesteps)), found


FORM = Form(
    PersonalEditor,
    about="Let a prior learn a subject from a few pictures of it: a file for --embedding or --lora of every command.",
    source=Flag(
        "subject", Path | None, None,
        "Its pictures: a folder, a scene, a clip or one picture; of each the middle square. None: with --resume.",
        positional=True,
    ),
    first=("method", "token", "source_prompt", "init", "mask", "steps", "lr", "vectors", "rank", "seed", "device"),
    base=_base,
    without=tuple(f.name for f in fields(CsdConfig) if f.name not in (*ENGINE, "steps", "lr")),
    has_method=False,
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Learn; returns the exit code. Mistakes raise, see `csd3d.personal.job.personalise`."""
    request, extras = read_request(FORM, argv)
    return run_and_say(FORM, replace(request, source=extras["subject"] or request.source), "learnt")
