"""`csd3d generate`: make pictures from a caption."""

from collections.abc import Mapping, Sequence
from typing import Any

from csd3d.cli.editors import Form, asked_loading, read_request, run_and_say
from csd3d.priors.defaults import for_timesteps, generation_config
from csd3d.priors.store.resolve import Resolved, resolve
from panorama.generate import GenerateEditor
from panorama.generate_config import GenerateConfig


def _base(form: Form[GenerateConfig], values: Mapping[str, Any], only_help: bool) -> tuple[GenerateConfig, Resolved]:
    """What suits the prior and the method."""
    samples = values["steer"] is not None or values["box"] or (values["pick"] or 1) > 1  # which only the sampler can
    method = values["method"] or ("ddim" if samples else GenerateConfig.method)
    found = resolve(values["prior"] or GenerateConfig.prior, asked_loading(values))
    csd = for_timesteps(generation_config(method, builtin=found.builtin, family=found.family), found.num_timesteps)
    return GenerateConfig(prior=found.name, method=method, csd=csd), found


FORM = Form(
    GenerateEditor,
    about="Make pictures from a caption: several that agree with each other, or one wider than the prior's own.",
    source=None,
    first=(
        "n",
        "method",
        "width",
        "height",
        "wrap",
        "like",
        "region",
        "box",
        "steer",
        "pick",
        "steps",
        "s_text",
        "seed",
        "device",
    ),
    base=_base,
    without=("source_prompt",),
    has_method=False,
)


def main(argv: Sequence[str]) -> int:
    """Make pictures; returns the exit code. Mistakes raise, see `panorama.generate.generate`."""
    request, _ = read_request(FORM, argv)
    if request.resumed is None and not request.prompt:
        raise ValueError('expected a caption, --prompt "...", got none (--help shows an overview)')
    return run_and_say(FORM, request, "picture")
