"""Edits `--by sampling`: what all editors do alike. The loop is `csd3d.engine.sampling`."""

from dataclasses import dataclass, replace

from csd3d.engine.residuals import Score
from csd3d.engine.sampling import Sampling, Start
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.runs.config import EditConfig
from csd3d.runs.reference import attending_of

DEFAULT_START: dict[str, Start] = {"instruct": "noised", "text-to-image": "inverted"}
"""Of each kind of prior."""


@dataclass(frozen=True, eq=False)
class SampledEdit:
    """How the particles of an edit are sampled."""

    sampling: Sampling
    start: Start
    sees_sources: bool
    """Whether particles look at their own sources at the same level."""
    shares: bool = False
    """Whether all particles look at the same few."""


def sampled_edit(prior: Prior, prompts: Prompts, config: EditConfig) -> SampledEdit:
    """The prior under the sentences of an edit, and without guidance where sources are inverted.

    Raises:
        ValueError: settings or sentences that the prior cannot serve.
    """
    start = config.start or DEFAULT_START[prior.kind]
    asked = replace(config.engine, residual="noise")  # a caption of the source is asked for below, if it is needed
    attending = attending_of(config, prior)
    score, sees = prior.score_under(asked, prompts, attending), attending.sees_sources
    if prior.kind == "text-to-image" and prompts.source is None and (sees or start == "inverted"):
        why = "under which it is inverted" if start == "inverted" else "which the prior reads while it looks at it"
        raise ValueError(f"source-prompt: expected what the source shows, {why}, got none (--start noised without)")
    inverter = prior.score(prompts, Guidance(1.0)) if start == "inverted" else None
    sampling = Sampling(score, inverter, config.engine, config.rounds)
    return SampledEdit(sampling, start, sees, config.share == "anchors")


def score_of_edit(prior: Prior, prompts: Prompts, config: EditConfig) -> tuple[Score, SampledEdit | None]:
    """The prior under the sentences of an edit, and how it is sampled if it is. Raises ValueError as `sampled_edit` and
    `Prior.score_under` do."""
    if config.by == "moves":
        return prior.score_under(config.engine, prompts, attending_of(config, prior)), None
    edit = sampled_edit(prior, prompts, config)
    return edit.sampling.score, edit
