"""Score distillation on pictures with exact truth: methods of a text-to-image prior, and what is measured of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import Objective, run
from csd3d.engine.optimise import descend, first_moments
from csd3d.engine.types import Batch, Index, Latents
from csd3d.metrics import background_change, is_nearest, psnr, structure_distance, untouched
from csd3d.metrics.warp import masked_mean
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
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


@torch.no_grad()
def edit_all(prior: TextToImagePrior, job: Job, config: CsdConfig, *, seed: int) -> Edited:
    """Edit all pictures of a job at once; uncoupled ones do not know of each other."""
    s = prior.codec.encode(job.pictures.to(prior.device))
    before, after = ([c[k] for c in job.captions] for k in (0, 1))
    score = prior.score(Prompts(after, before), Guidance.of(config))
    particles, gradients = Pictures(s, config), []
    peak_mb, began = peak_memory(prior.device), time.perf_counter()
    for info in run(particles, Objective(score, config), rng=torch.Generator().manual_seed(seed)):
        gradients.append(info.gradient_rms)
    seconds = (time.perf_counter() - began) / max(1, config.steps * len(s))
    return Edited(prior.codec.decode(particles.z).cpu(), seconds, peak_mb(), gradients)


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
    """Gradients of SDS and DDS at one timestep, over many draws of noise (Hertz et al. 2023, fig. 8)."""

    t: int
    aligned: float
    """Mean over pictures of the norm of the mean SDS gradient, of pictures with captions that fit."""
    unaligned: float
    """The same with the captions of other pictures."""
    dds: float
    """The same for DDS between an edited picture (the truth) and its source, both with captions that fit."""
    cosine: float
    """Mean cosine between the SDS gradients of an edited picture and of its source, under the same noise."""
    cosine_others: float
    """The same between different scenes."""


@torch.no_grad()
def directions(
    prior: TextToImagePrior, job: Job, *, s_text: float, times: Sequence[int], draws: int, seed: int
) -> list[Directions]:
    """What DDS claims of its gradient, measured: the bias of SDS, how much of it is the same in both branches."""
    z, s = (prior.codec.encode(x.to(prior.device)) for x in (job.truths, job.pictures))
    before, after = ([c[k] for c in job.captions] for k in (0, 1))
    order = [*range(1, len(s)), 0]
    score = prior.score(Prompts(after, before), Guidance(s_text))
    wrong = prior.score(Prompts([before[i] for i in order]), Guidance(s_text))
    index, rng, found = torch.arange(len(s)), torch.Generator().manual_seed(seed), []
    for t in times:
        sums = [torch.zeros_like(s) for _ in range(3)]
        cosines, others = [], []
        for _ in range(draws):
            e = torch.randn(s.shape[1:], generator=rng).to(s).expand_as(s)
            x, unedited = (prior.schedule.noised(Batch(now, s, index), t, e) for now in (z, s))
            edited, source = score.target(x) - e, score.source(x) - e
            sums[0] += source
            sums[1] += wrong.target(unedited) - e
            sums[2] += edited - source
            cosines.append(torch.cosine_similarity(edited.flatten(1), source.flatten(1)).mean())
            others.append(torch.cosine_similarity(edited.flatten(1), source[order].flatten(1)).mean())
        aligned, unaligned, dds = (float((x / draws).flatten(1).norm(dim=1).mean()) for x in sums)
        cosine, other = (float(torch.stack(x).mean()) for x in (cosines, others))
        found.append(Directions(t, aligned, unaligned, dds, cosine, other))
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
