"""Edits `--by sampling`: what all editors do alike. The loop is `csd3d.engine.sampling`."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from csd3d.attention.presets import Attention
from csd3d.engine.residuals import Score
from csd3d.engine.sampling import Sampling, Start
from csd3d.engine.step import require_coupling
from csd3d.engine.transport import Correspondences
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.runs.config import EditConfig
from csd3d.runs.ranks import ranks
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
    """Whether all particles go by the same few: look at them, or take their colours or hidden states."""


def sampled_edit(
    prior: Prior, prompts: Prompts, config: EditConfig, correspondences: Correspondences | None = None
) -> SampledEdit:
    """The prior under the sentences of an edit, and without guidance where sources are inverted. `correspondences` as
    for `score_of_edit`.

    Raises:
        ValueError: settings or sentences that the prior cannot serve.
    """
    start = config.start or DEFAULT_START[prior.kind]
    asked = replace(config.engine, residual="noise")  # a caption of the source is asked for below, if it is needed
    attending = _attending(prior, config, correspondences)
    score, sees = prior.score_under(asked, prompts, attending), attending.sees_sources
    if prior.kind == "text-to-image" and prompts.source is None and (sees or start == "inverted"):
        why = "under which it is inverted" if start == "inverted" else "which the prior reads while it looks at it"
        raise ValueError(f"source-prompt: expected what the source shows, {why}, got none (--start noised without)")
    inverter = prior.score(prompts, Guidance(1.0)) if start == "inverted" else None
    sampling = Sampling(score, inverter, config.engine, config.rounds)
    return SampledEdit(sampling, start, sees, attending.goes_by_anchors)


def score_of_edit(
    prior: Prior, prompts: Prompts, config: EditConfig, correspondences: Correspondences | None = None, *,
    sizes: Iterable[int] = (),
) -> tuple[Score, SampledEdit | None]:  # fmt: skip
    """The prior under the sentences of an edit, and how it is sampled if it is. `correspondences`: where points of its
    particles are in each other, if that is known by the time it predicts; `sizes`: how many of them a step of moves may
    have. Raises ValueError as `sampled_edit`, `Prior.score_under` and `require_coupling` do."""
    if config.by == "moves":
        require_coupling(config.engine, sizes)
        return prior.score_under(config.engine, prompts, _attending(prior, config, correspondences)), None
    edit = sampled_edit(prior, prompts, config, correspondences)
    return edit.sampling.score, edit


def _attending(prior: Prior, config: EditConfig, correspondences: Correspondences | None) -> Attention:
    """Raises ValueError where several processes would have to know the correspondences."""
    attending = attending_of(config, prior)
    if not attending.follows:
        return attending
    if ranks()[1] > 1:
        raise ValueError(f"eye: expected one process, which alone knows how points move, got {ranks()[1]}")
    return replace(attending, correspondences=correspondences)
