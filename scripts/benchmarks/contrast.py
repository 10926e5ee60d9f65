"""CDS where its term counts: the share of the gradient that PatchNCE has, and rows whose weights are chosen by it.

With c the gradient of PatchNCE at weight one and r that of the residual, both at the same particles and noise, a weight
w gives the term the share w |c| / (w |c| + |r|). What |c| / |r| is depends on the prior, the layers and the patches, so
it is measured for every row, over timesteps and at both ends of an edit: at the source, and at the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.regularisers import Regulariser
from csd3d.engine.residuals import source_baseline
from csd3d.engine.step import named_regularisers, step_weight
from csd3d.engine.types import Batch, Latents, Noised
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior, TextToImageScore
from scripts.benchmarks.objectives import Edited, Job, edit_all
from scripts.benchmarks.peers_cds import Transposed

SHARES = (0.05, 0.1, 0.2, 0.5)
MIDDLE = 0.2
"""Of the rows that vary something else."""
PLACES = (8, 32)


@dataclass(frozen=True)
class Contrast:
    """One row: CDS with a term of that share of the gradient, whatever weight `csd` has."""

    csd: CsdConfig
    share: float = MIDDLE
    swapped: bool = False
    """The places of the source are the anchors, and those of the edited picture what they are told from, as in the
    published code; not the other way round, as in the paper and in CUT."""

    def term(self, score: TextToImageScore, weight: float) -> Regulariser:
        """The regulariser."""
        csd = replace(self.csd, nce_weight=weight)
        if self.swapped:
            return Transposed(score, csd)
        (term,) = named_regularisers(score, csd)
        return term


def contrasts(base: CsdConfig) -> dict[str, Contrast]:
    """The rows: shares of the gradient, layers, how many places and how large, and the side of the anchors."""
    cds = replace(base, regulariser="patch-nce")
    others = {
        "cross-attention": Contrast(replace(cds, nce_layers="cross-attention")),
        "score": Contrast(replace(cds, nce_layers="score")),
        **{f"{n} places": Contrast(replace(cds, nce_patches=n)) for n in PLACES},
        "patches of 1": Contrast(replace(cds, nce_patch_sizes=(1,))),
        "patches of 1, 2, 4": Contrast(replace(cds, nce_patch_sizes=(1, 2, 4))),
        "anchors in the source": Contrast(cds, swapped=True),
    }
    rows = {f"cds, {100 * share:g} %": Contrast(cds, share) for share in SHARES}
    return rows | {f"cds, {100 * MIDDLE:g} %, {name}": row for name, row in others.items()}


@torch.no_grad()
def term_to_residual(
    prior: TextToImagePrior, job: Job, row: Contrast, *, times: Sequence[int], seed: int
) -> dict[str, float]:
    """|c| / |r|, the median over pictures and timesteps, at sources (`source`), truths (`truth`) and both (`both`)."""
    s, truth = (prior.codec.encode(x.to(prior.device)) for x in (job.pictures, job.truths))
    before, after = ([c[k] for c in job.captions] for k in (0, 1))
    score = prior.score(Prompts(after, before), Guidance.of(row.csd))
    term, index, found = row.term(score, 1.0), torch.arange(len(s)), {}
    for name, z in (("source", s), ("truth", truth)):
        rng, ratios = torch.Generator().manual_seed(seed), []
        for t in times:
            x = score.schedule.noised(Batch(z, s, index), t, torch.randn(s.shape, generator=rng).to(s))
            residual = step_weight(score.schedule, t, row.csd) * source_baseline(score, x)
            ratios.append(_norms(term(x)) / _norms(residual))
        found[name] = torch.cat(ratios).cpu()
    medians = {name: float(ratios.median()) for name, ratios in found.items()}
    return medians | {"both": float(torch.cat([*found.values()]).median())}


def weight_of(share: float, ratio: float) -> float:
    """The weight that gives a term with |c| / |r| = `ratio` that share of the gradient."""
    return share / (1 - share) / ratio


def edit_by(prior: TextToImagePrior, job: Job, row: Contrast, *, weight: float, seed: int) -> tuple[Edited, float]:
    """What CDS makes of a job, and the share of the gradient that its term then had, the mean over steps."""
    recorded: list[_Recorded] = []

    def term(score: TextToImageScore) -> Regulariser:
        recorded.append(_Recorded(row.term(score, weight)))
        return recorded[-1]

    edited = edit_all(prior, job, replace(row.csd, regulariser="none"), seed=seed, term=term)
    shares = []
    for (t, own), residual in zip(recorded[0].steps, edited.residuals, strict=True):
        rest = step_weight(prior.schedule, t, row.csd) * residual
        shares.append(own / (own + rest))
    return edited, sum(shares) / len(shares)


class _Recorded:
    """A term, and the timestep and root mean square of its gradient in every step."""

    def __init__(self, term: Regulariser) -> None:
        self._term = term
        self.steps: list[tuple[int, float]] = []

    def __call__(self, x: Noised) -> Latents:
        """That of the term."""
        gradient = self._term(x)
        self.steps.append((x.t, float(gradient.square().mean().sqrt())))
        return gradient


def _norms(g: Latents) -> Float[Tensor, " n"]:
    return g.flatten(1).norm(dim=1)
