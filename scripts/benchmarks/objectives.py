"""Score distillation on pictures with exact truth: methods of a text-to-image prior, and what is measured of them."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import Objective, run
from csd3d.engine.optimise import descend, first_moments
from csd3d.engine.regularisers import Regulariser
from csd3d.engine.types import Batch, Index, Latents
from csd3d.metrics import background_change, is_nearest, psnr, structure_distance, untouched
from csd3d.metrics.warp import masked_mean
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior, TextToImageScore
from csd3d.world.edits import Edit
from csd3d.world.scene import SceneSampler
from scripts.benchmarks.heldout import Source, Task
from scripts.benchmarks.memory import peak_memory


@dataclass(frozen=True)
class Job:
    """Pictures to edit, each with its caption before and after."""

    tasks: Sequence[Task]
    captions: Sequence[tuple[str, str]]
    pictures: Float[Tensor, "n 3 S S"]
    truths: Float[Tensor, "n 3 S S"]


def captions_of(source: Source, edit: Edit) -> tuple[str, str]:
    """What the source shows before and after the edit. Its name holds the number of its scene."""
    return edit.captions(SceneSampler().sample(int(source.name.split()[-1])))


def make_job(tasks: Sequence[Task]) -> Job:
    """The job that tasks of world sources make."""
    captions = [captions_of(t.source, t.edit) for t in tasks]
    pictures, truths = [t.source.picture for t in tasks], [t.source.truth(t.edit) for t in tasks]
    return Job(tasks, captions, torch.stack(pictures), torch.stack(truths))


def part_of(job: Job, places: Sequence[int]) -> Job:
    """The job of some of its tasks."""
    at = list(places)
    tasks, captions = [job.tasks[i] for i in at], [job.captions[i] for i in at]
    return Job(tasks, captions, job.pictures[at], job.truths[at])


class Pictures:
    """Free latents, all of them in every step; the engine's `Particles`."""

    steps_per_epoch = 1

    def __init__(self, s: Float[Tensor, "n c h w"], config: CsdConfig) -> None:
        self.s, self.z = s, s
        self._moments = first_moments(s, config.optimizer)

    def draw(self, rng: torch.Generator) -> Batch:
        """All of them."""
        return Batch(self.z, self.s, torch.arange(len(self.z)))

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        """All of them."""
        self.z, self._moments = descend(self.z, g, self._moments, lr=lr)


@dataclass(frozen=True)
class Edited:
    """What a method made, and what it took."""

    rgb: Float[Tensor, "n 3 S S"]
    seconds: float
    """Of one step of one picture."""
    peak_mb: float
    """Peak memory; NaN where the system does not tell."""
    gradients: Sequence[float]
    """Root mean square of g, step by step."""
    residuals: Sequence[float]
    """The same of the residuals."""


@torch.no_grad()
def edit_all(
    prior: TextToImagePrior,
    job: Job,
    config: CsdConfig,
    *,
    seed: int,
    term: Callable[[TextToImageScore], Regulariser] | None = None,
) -> Edited:
    """Edit all pictures of a job at once; uncoupled ones do not know of each other. `term` is added to g."""
    s = prior.codec.encode(job.pictures.to(prior.device))
    before, after = ([c[k] for c in job.captions] for k in (0, 1))
    score = prior.score(Prompts(after, before), Guidance.of(config))
    particles, objective = Pictures(s, config), Objective(score, config, regularisers=(term(score),) if term else ())
    gradients, residuals = [], []
    peak_mb, began = peak_memory(prior.device), time.perf_counter()
    for info in run(particles, objective, rng=torch.Generator().manual_seed(seed)):
        gradients.append(info.gradient_rms)
        residuals.append(info.residual_rms)
    seconds = (time.perf_counter() - began) / max(1, config.steps * len(s))
    return Edited(prior.codec.decode(particles.z).cpu(), seconds, peak_mb(), gradients, residuals)


def sharpness(
    output: Float[Tensor, "n 3 S S"], source: Float[Tensor, "n 3 S S"], truth: Float[Tensor, "n 3 S S"]
) -> Float[Tensor, " n"]:
    """Mean size of the pixel differences of the output, divided by that of the truth, where the edit changes nothing.

    1 = as sharp as it should be, below 1 = blurred. NaN for an edit that changes every pixel.
    """
    keep = untouched(source, truth)[:, 1:, 1:]

    def differences(x: Tensor) -> Tensor:
        down, right = x[..., 1:, 1:] - x[..., :-1, 1:], x[..., 1:, 1:] - x[..., 1:, :-1]
        return masked_mean((down.abs() + right.abs()).mean(1), keep)

    return differences(output) / differences(truth)


def measure(job: Job, output: Float[Tensor, "n 3 S S"]) -> list[dict[str, Any]]:
    """One record a task: is it right, dB to the truth, what changed that should not have, how sharp, what structure."""
    values = {
        "psnr": psnr(output, job.truths),
        "background": background_change(output, job.pictures, job.truths),
        "sharpness": sharpness(output, job.pictures, job.truths),
        "structure": structure_distance(output, job.pictures),
    }
    records = []
    for i, task in enumerate(job.tasks):
        truths = task.source.truths.float()[:, None] / 255
        right = bool(is_nearest(output[i][None], truths, 1 + task.source.edits.index(task.edit)))
        about = {"source": task.source.name, "edit": task.edit.name, "kind": task.edit.kind, "accuracy": float(right)}
        records.append(about | {k: float(v[i]) for k, v in values.items()})
    return records


@dataclass(frozen=True)
class Directions:
    """Gradients of SDS and DDS at one timestep, over many draws of noise (Hertz et al. 2023, fig. 8).

    Of each the norm of the mean over noises, which is the bias itself, and as published the mean of the norms, in which
    is the scatter of the noises too. All are means over pictures.
    """

    t: int
    aligned: float
    """Norm of the mean SDS gradient of pictures with captions that fit."""
    unaligned: float
    """The same with captions of other pictures."""
    dds: float
    """The same for DDS between an edited picture (the truth) and its source, both with captions that fit."""
    aligned_norms: float
    """Mean of the norms, as published."""
    unaligned_norms: float
    """The same with captions of other pictures."""
    dds_norms: float
    """The same for DDS."""
    cosine: float
    """Mean cosine between the SDS gradients of an edited picture and of its source, under the same noise."""
    cosine_others: float
    """The same between different scenes."""


def of_others(names: Sequence[str]) -> list[int]:
    """A permutation that gives every place one of another name; some keep theirs where one name has more than half."""
    places = sorted(range(len(names)), key=lambda i: names[i])
    shift = max(Counter(names).values())
    given = {place: places[(k + shift) % len(places)] for k, place in enumerate(places)}
    return [given[i] for i in range(len(names))]


@torch.no_grad()
def directions(
    prior: TextToImagePrior, job: Job, *, s_text: float, times: Sequence[int], draws: int, seed: int
) -> list[Directions]:
    """What DDS claims of its gradient, measured: the bias of SDS, how much of it is the same in both branches."""
    z, s = (prior.codec.encode(x.to(prior.device)) for x in (job.truths, job.pictures))
    before, after = ([c[k] for c in job.captions] for k in (0, 1))
    order = of_others([task.source.name for task in job.tasks])
    score = prior.score(Prompts(after, before), Guidance(s_text))
    wrong = prior.score(Prompts([before[i] for i in order]), Guidance(s_text))
    index, rng, found = torch.arange(len(s)), torch.Generator().manual_seed(seed), []
    for t in times:
        sums = [torch.zeros_like(s) for _ in range(3)]
        norms, cosines = torch.zeros(3), torch.zeros(2)
        for _ in range(draws):
            e = torch.randn(s.shape[1:], generator=rng).to(s).expand_as(s)
            x, unedited = (prior.schedule.noised(Batch(now, s, index), t, e) for now in (z, s))
            edited, source = score.target(x) - e, score.source(x) - e
            for k, g in enumerate((source, wrong.target(unedited) - e, edited - source)):
                sums[k] += g
                norms[k] += float(g.flatten(1).norm(dim=1).mean())
            for k, other in enumerate((source, source[order])):
                cosines[k] += float(torch.cosine_similarity(edited.flatten(1), other.flatten(1)).mean())
        means = [float((x / draws).flatten(1).norm(dim=1).mean()) for x in sums]
        found.append(Directions(t, *means, *(norms / draws).tolist(), *(cosines / draws).tolist()))
    return found


def methods(base: CsdConfig, guidance: Sequence[float]) -> dict[str, CsdConfig]:
    """Rows of the table, all with the learning rate and timesteps of `base`, which is that of `dds`."""
    cds = replace(base, regulariser="patch-nce")
    rows = {
        "sds": replace(base, residual="noise"),
        "dds": base,
        "cds": cds,
        "cds, cross-attention": replace(cds, nce_layers="cross-attention"),
        "cds, score": replace(cds, nce_layers="score"),
        "cds, ten times the weight": replace(cds, nce_weight=10 * cds.nce_weight),
    }
    return rows | {f"dds, s_text {w:g}": replace(base, s_text=w) for w in guidance if w != base.s_text}
