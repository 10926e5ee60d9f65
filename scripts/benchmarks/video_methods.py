"""The ways of editing a clip that are compared: same prior, clip, sentence and seed in, a clip out."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import PAPER, CsdConfig
from csd3d.engine.loop import run
from csd3d.priors.instruct import InstructPrior
from video.particles import FrameParticles, rounds

UNET_CALLS_SAMPLING, UNET_CALLS_CSD = 3, 5
"""Rows through the UNet for one frame in one step."""


@dataclass(frozen=True)
class Job:
    """What every method is given."""

    prior: InstructPrior
    source: Float[Tensor, "n 3 H W"]
    sentence: str
    seed: int

    def rng(self) -> torch.Generator:
        """A fresh source of random numbers, the same for every method."""
        return torch.Generator().manual_seed(self.seed)


Run = Callable[[Job], Float[Tensor, "n 3 H W"]]


@dataclass(frozen=True)
class Method:
    """One row of the benchmark."""

    run: Run
    unet_calls: int
    """UNet rows a frame: what it costs on any machine."""


@dataclass(frozen=True)
class Edited:
    """What a method made of a clip, and at what price."""

    clip: Float[Tensor, "n 3 H W"]
    seconds: float
    """Wall clock, a frame."""
    peak_mb: float
    """Peak memory during the run: of the device with CUDA, else resident; NaN where the system does not tell."""


def sampling(*, steps: int, s_text: float, s_image: float, same_noise: bool) -> Method:
    """InstructPix2Pix on each frame for itself, from noise of its own or from the same noise for all."""

    def edit(job: Job) -> Float[Tensor, "n 3 H W"]:
        rng = job.rng()
        noise = None
        if same_noise:
            height, width = (side // job.prior.codec.factor for side in job.source.shape[-2:])
            noise = torch.randn(1, job.prior.codec.channels, height, width, generator=rng)
        return job.prior.sample(
            job.source, job.sentence, s_text=s_text, s_image=s_image, rng=rng, steps=steps, noise=noise
        )

    return Method(edit, UNET_CALLS_SAMPLING * steps)


def collaboration(csd: CsdConfig, *, frames_per_step: int = 24) -> Method:
    """CSD-Edit of all frames together, exactly as the video editor moves them."""

    @torch.no_grad()
    def edit(job: Job) -> Float[Tensor, "n 3 H W"]:
        prior = job.prior
        s = prior.codec.encode(job.source)
        turns = rounds(len(s), frames_per_step)
        config = replace(csd, steps=csd.steps * turns, lr_decay_every=csd.lr_decay_every * turns)
        particles = FrameParticles(s, config, budget=frames_per_step, device=prior.device)
        score = prior.score(job.sentence, s_text=csd.s_text, s_image=csd.s_image)
        for _ in run(particles, score, config, rng=job.rng()):
            pass
        return prior.codec.decode(particles.z[:].to(prior.device)).cpu()

    return Method(edit, UNET_CALLS_CSD * csd.steps)


def standard(
    csd: CsdConfig, *, sampling_steps: int, s_text: float, s_image: float, ablation: bool
) -> Mapping[str, Method]:
    """The rows of the table.

    `csd` is the video editor's setting; `s_text` and `s_image` are for sampling. The paper's row takes the published
    kernel, normalisation and learning rate, with the steps of `csd` and its guidance scales, which belong to the prior.
    """
    svgd, alone = replace(csd, coupling="svgd"), replace(csd, coupling="independent")
    scales = {"s_text": s_text, "s_image": s_image}
    paper = replace(PAPER["csd-edit-video"], steps=csd.steps, s_text=csd.s_text, s_image=csd.s_image)
    methods = {
        "per-frame sampling": sampling(steps=sampling_steps, **scales, same_noise=False),
        "per-frame sampling, same noise": sampling(steps=sampling_steps, **scales, same_noise=True),
        "csd-edit, independent": collaboration(alone),
        "csd-edit, SVGD": collaboration(svgd),
        "csd-edit, SVGD, paper": collaboration(paper),
    }
    if ablation:
        methods |= {
            "independent, shared noise": collaboration(replace(alone, noise="shared")),
            "SVGD, shared noise": collaboration(replace(svgd, noise="shared")),
            "SVGD, kernel on clean latents": collaboration(replace(svgd, kernel_on="clean")),
            "SVGD, clean, shared noise": collaboration(replace(svgd, kernel_on="clean", noise="shared")),
            "SVGD, no repulsion": collaboration(replace(svgd, repulsion=0.0)),
            "SVGD, uniform kernel": collaboration(replace(svgd, bandwidth=0.0)),
        }
    return methods


def timed(method: Method, job: Job) -> Edited:
    """Run it and measure."""
    cuda = job.prior.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(job.prior.device)
    told = cuda or _forget_peak()
    since = time.perf_counter()
    clip = method.run(job).float().cpu()
    seconds = (time.perf_counter() - since) / len(clip)
    peak = torch.cuda.max_memory_allocated(job.prior.device) if cuda else _resident_peak()
    return Edited(clip, seconds, peak / 1e6 if told else float("nan"))


def _forget_peak() -> bool:
    """Start the peak of resident memory anew; whether the system can (Linux can)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident_peak() -> float:
    """Peak of resident memory in bytes since `_forget_peak`; NaN where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    kilobytes = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), "nan")
    return 1024 * float(kilobytes)
