"""The ways of editing a clip that are compared: same prior, clip, sentence and seed in, a clip out."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.attention.presets import Attention, Sharing
from csd3d.engine.config import PAPER, CsdConfig
from csd3d.engine.loop import Objective, run
from csd3d.engine.residuals import Score
from csd3d.engine.sampling import run_sampling
from csd3d.engine.stein import Kernel, RbfKernel
from csd3d.engine.transport import Correspondences, TransportKernel
from csd3d.priors.defaults import default_config
from csd3d.priors.families.prior import FamilyEditor
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from csd3d.runs.sampling import sampled_edit
from csd3d.world.sample import Views
from scripts.benchmarks.as_flow import as_flow
from scripts.benchmarks.memory import peak_memory
from scripts.benchmarks.rows import csd_rows, sampling_rows
from video.config import ANCHORS, Draw, VideoConfig
from video.motion import ClipMotion, grey_levels, to_latents
from video.particles import Batching, FrameParticles
from video.propagate import CarriedFrames, key_frames
from video.sampled import frames_in_memory


@dataclass(frozen=True)
class Job:
    """What every method is given."""

    prior: InstructPrior | FamilyEditor
    source: Float[Tensor, "n 3 H W"]
    sentence: str
    seed: int
    clip: Views
    """What the source is of, for true motion."""

    def rng(self) -> torch.Generator:
        """A fresh source of random numbers, the same for every method."""
        return torch.Generator().manual_seed(self.seed)


Run = Callable[[Job], Float[Tensor, "n 3 H W"]]


@dataclass(frozen=True)
class Method:
    """One row of the benchmark."""

    run: Run
    unet_calls: Callable[[int], float]
    """UNet rows a frame for a clip of so many: what it costs on any machine."""


@dataclass(frozen=True)
class Edited:
    """What a method made of a clip, and at what price."""

    clip: Float[Tensor, "n 3 H W"]
    seconds: float
    """A frame: of all processors together, or wall clock with CUDA."""
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
        prompts, guidance = Prompts(job.sentence), Guidance(s_text, s_image)
        return built(job).sample(job.source, prompts, guidance, rng=rng, steps=steps, noise=noise)

    return Method(edit, lambda frames: sampling_rows(s_text, s_image) * steps)


def sampled(config: VideoConfig) -> Method:
    """All frames sampled together, as the video editor does it with `--by sampling`."""
    csd, rows = config.engine, sampling_rows(config.engine.s_text, config.engine.s_image)

    @torch.no_grad()
    def edit(job: Job) -> Float[Tensor, "n 3 H W"]:
        s = job.prior.codec.encode(job.source).cpu()
        found = sampled_edit(job.prior, Prompts(job.sentence), replace(config, seed=job.seed))
        frames = frames_in_memory(
            s, found, replace(config, seed=job.seed), [range(len(s))], device=job.prior.device
        )  # fmt: skip
        for _ in run_sampling(frames, found.sampling):
            pass
        return decode(job.prior, frames.z[:])

    def unet_rows(frames: int) -> float:
        sources = csd_rows(csd.s_text, csd.s_image) - rows if config.attention else 0
        seen = min(config.anchors, frames) / frames if config.share == "anchors" else 0.0
        inverting = 1 + config.rounds if config.start == "inverted" else 0
        return csd.steps * (inverting + (rows + sources) * (1 + seen))

    return Method(edit, unet_rows)


def dressed(method: Method) -> Method:
    """The same with the prior as a flow model."""
    return replace(method, run=lambda job: method.run(replace(job, prior=as_flow(built(job)))))


def built(job: Job) -> InstructPrior:
    """The prior of a job that nobody dressed. Raises AssertionError for another."""
    assert isinstance(job.prior, InstructPrior)
    return job.prior


Coupled = Callable[[Job], Correspondences]
"""Where the points of a frame are in others, for a job."""


def estimated_motion(job: Job) -> ClipMotion:
    """Optical flow of the source, as the video editor finds it."""
    return ClipMotion(grey_levels(job.source), job.prior.codec.factor)


def true_motion(job: Job) -> Correspondences:
    """The world's own motion and occlusion."""
    return TrueMotion(job.clip, job.prior.codec.factor)


class TrueMotion:
    """The exact motion of a clip of the world, or where views of it meet, as the engine's `Correspondences`."""

    def __init__(self, clip: Views, per_latent_px: int) -> None:
        self._clip, self._unit = clip, per_latent_px
        self._found: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, i: int, index: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n h w 2"], Float[Tensor, "n h w"]]:
        """See the protocol."""
        frames = index.tolist()
        rows = [self._pair(frames[i], j) for j in frames]
        height, width = rows[0][1].shape
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        return torch.stack([move for move, _ in rows]) + torch.stack([x, y], -1), torch.stack([v for _, v in rows])

    def _pair(self, i: int, j: int) -> tuple[Float[Tensor, "h w 2"], Float[Tensor, "h w"]]:
        if (i, j) not in self._found:
            found = self._clip.flow(i, j)
            self._found[i, j] = to_latents(found.flow.nan_to_num(0, 0, 0), found.visible, self._unit)
        return self._found[i, j]


def collaboration(
    csd: CsdConfig,
    *,
    along: Coupled | None = None,
    share: Sharing = "none",
    frames_per_step: int = 24,
    kernel: Kernel | None = None,
    over: Callable[[Score], Score] | None = None,
) -> Method:
    """CSD-Edit of all frames together, exactly as the video editor moves them; coupled `along` their motion, if any,
    or by a `kernel` of one's own. `over` makes another score of the prior's."""

    @torch.no_grad()
    def edit(job: Job) -> Float[Tensor, "n 3 H W"]:
        s = job.prior.codec.encode(job.source)
        coupled = TransportKernel(along(job), RbfKernel(csd.bandwidth)) if along else kernel
        draw: Draw = "window" if along else "stratified"
        z = move(job, csd, s, coupled, draw=draw, budget=frames_per_step, share=share, over=over)
        return decode(job.prior, z)

    def unet_rows(frames: int) -> float:
        seen = min(ANCHORS, frames) / frames if share == "anchors" else 0.0
        return csd_rows(csd.s_text, csd.s_image) * csd.steps * (1 + seen)

    return Method(edit, unet_rows)


def propagation(csd: CsdConfig, *, keys: int | None) -> Method:
    """CSD-Edit of that many key frames together, or of the first frame (None), carried to the others along the flow."""

    @torch.no_grad()
    def edit(job: Job) -> Float[Tensor, "n 3 H W"]:
        n = len(job.source)
        chosen = [0] if keys is None else key_frames([0] * n, keys)
        s = job.prior.codec.encode(job.source[chosen])
        edited = decode(job.prior, move(job, csd, s, None, draw="stratified", budget=24))
        carried = CarriedFrames(lambda key: edited[chosen.index(key)], estimated_motion(job), chosen)
        return carried(range(n))

    rows = csd_rows(csd.s_text, csd.s_image) * csd.steps
    return Method(edit, lambda frames: rows * min(keys or 1, frames) / frames)


def move(
    job: Job,
    csd: CsdConfig,
    s: Float[Tensor, "n c h w"],
    kernel: Kernel | None,
    *,
    draw: Draw,
    budget: int,
    share: Sharing = "none",
    over: Callable[[Score], Score] | None = None,
) -> Float[Tensor, "n c h w"]:
    """The latents of an edit that begins at `s`."""
    batching = Batching(budget, draw, anchors=ANCHORS)
    config = replace(
        csd, steps=csd.steps * batching.steps(len(s)), lr_decay_every=csd.lr_decay_every * batching.steps(len(s))
    )
    particles = FrameParticles(s, csd, batching=batching, device=job.prior.device)
    score = Attention(share).over(job.prior.score(Prompts(job.sentence), Guidance.of(csd)))
    score = over(score) if over else score
    for _ in run(particles, Objective(score, config, kernel), rng=job.rng()):
        pass
    return particles.z[:]


def decode(prior: InstructPrior | FamilyEditor, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
    """Pictures, a few at a time."""
    return torch.cat([prior.codec.decode(part.to(prior.device)).float().cpu() for part in z.split(16)])


def standard(
    csd: CsdConfig, *, sampling_steps: int, s_text: float, s_image: float, keys: int, ablation: bool
) -> Mapping[str, Method]:
    """The rows of the table.

    `csd` is the video editor's setting; `s_text` and `s_image` are for sampling. The paper's row takes the published
    kernel, normalisation and learning rate, with the steps of `csd` and its guidance scales, which belong to the prior.
    """
    svgd, alone = replace(csd, coupling="svgd"), replace(csd, coupling="independent")
    scales = {"s_text": s_text, "s_image": s_image}
    together = VideoConfig(
        by="sampling", start="noised",
        csd=replace(default_config(builtin=True, by="sampling"), steps=sampling_steps, s_text=s_text, s_image=s_image),
    )  # fmt: skip
    plain = replace(together, csd=replace(together.engine, s_text=1.0, s_image=1.0))
    inverted, shared = replace(plain, start="inverted"), {"share": "anchors"}
    paper = replace(PAPER["csd-edit-video"], steps=csd.steps, s_text=csd.s_text, s_image=csd.s_image)
    methods = {
        "per-frame sampling": sampling(steps=sampling_steps, **scales, same_noise=False),
        "per-frame sampling, same noise": sampling(steps=sampling_steps, **scales, same_noise=True),
        "by sampling": sampled(plain),
        "by sampling, shared anchors": sampled(replace(plain, **shared)),
        "by sampling, inverted": sampled(inverted),
        "first frame, carried along the flow": propagation(alone, keys=None),
        f"{keys} key frames, carried along the flow": propagation(svgd, keys=keys),
        "csd-edit, independent": collaboration(alone),
        "csd-edit, SVGD": collaboration(svgd),
        "csd-edit, SVGD along motion": collaboration(svgd, along=estimated_motion),
        "csd-edit, SVGD along true motion": collaboration(svgd, along=true_motion),
    }
    if ablation:
        methods |= {
            "csd-edit, SVGD, paper": collaboration(paper),
            "csd-edit, SVGD, as a flow model": dressed(collaboration(svgd)),
            "by sampling, guided": sampled(together),
            "by sampling, Plug-and-Play": sampled(replace(plain, attention=("pnp",))),
            "by sampling, inverted, shared anchors": sampled(replace(inverted, **shared)),
            "by sampling, inverted, Plug-and-Play": sampled(replace(inverted, attention=("pnp",))),
            "independent, shared noise": collaboration(replace(alone, noise="shared")),
            "SVGD, shared noise": collaboration(replace(svgd, noise="shared")),
            "SVGD, kernel on clean latents": collaboration(replace(svgd, kernel_on="clean")),
            "SVGD, no repulsion": collaboration(replace(svgd, repulsion=0.0)),
            "SVGD, uniform kernel": collaboration(replace(svgd, bandwidth=0.0)),
        }
    return methods


def timed(method: Method, job: Job) -> Edited:
    """Run it and measure."""
    cuda = job.prior.device.type == "cuda"
    peak_mb = peak_memory(job.prior.device)
    clock = time.perf_counter if cuda else time.process_time  # others may use the processors meanwhile
    since = clock()
    clip = method.run(job).float().cpu()
    seconds = (clock() - since) / len(clip)
    return Edited(clip, seconds, peak_mb())
