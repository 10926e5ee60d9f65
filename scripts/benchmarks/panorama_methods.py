"""The ways of editing a panorama that are compared: same prior, canvas, sentence and seed in, edited latents out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.attention.presets import Attention, Sharing
from csd3d.engine.config import CsdConfig
from csd3d.engine.epochs import steps_in_epoch
from csd3d.engine.loop import Objective, run
from csd3d.engine.residuals import Score
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Noised
from csd3d.media.pictures.read import Picture
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from csd3d.world.edits import Edit
from csd3d.world.sample import Views, sample_panorama
from panorama.config import PanoramaConfig
from panorama.edit import make_surface
from panorama.regions import Everywhere, Plan, Sentence
from panorama.sphere import Sphere
from panorama.surface import Surface
from panorama.views import view_of
from panorama.windows import WindowParticles, Windows
from panorama.wrap import Wrap

SHARED = "csd-edit, SVGD, shared anchors"
"""The row with shared attention."""


@dataclass(frozen=True)
class Task:
    """What every method is given."""

    prior: InstructPrior
    s: Float[Tensor, "k c h w"]
    """Source latents."""
    surface: Surface
    """With the editor's overlapping windows."""
    apart: Surface
    """The same with windows side by side."""
    sphere: bool
    sentence: str
    seed: int
    windows_per_step: int = 8

    def windows(self, *, apart: bool = False) -> Windows:
        """The particles."""
        plan = Plan((Sentence(self.sentence, Everywhere()),))
        return (self.apart if apart else self.surface).windows(plan)

    def rng(self) -> torch.Generator:
        """A fresh source of random numbers, the same for every method."""
        return torch.Generator().manual_seed(self.seed)

    @torch.no_grad()
    def encode(self, rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Latents of pictures, on the CPU."""
        return self.prior.codec.encode(rgb.to(self.prior.device)).cpu()

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Pictures of latents, on the CPU."""
        return self.prior.codec.decode(z.to(self.prior.device)).cpu()


PanoramaKind = Literal["strip", "turn", "sphere"]
WRAPS: Mapping[PanoramaKind, Wrap] = {"strip": "none", "turn": "cylinder", "sphere": "sphere"}


def sample(kind: PanoramaKind, seed: int, window_px: int) -> Views:
    """Panorama number `seed`: 180 or 360 degrees of a cylinder, `window_px` high, or a sphere of twice that height."""
    if kind == "sphere":
        return sample_panorama(seed, kind="sphere", height_px=2 * window_px)
    return sample_panorama(seed, kind="strip", height_px=window_px, turn=360.0 if kind == "turn" else 180.0)


def truths_of(views: Views, edits: Sequence[Edit]) -> Float[Tensor, "k 3 H W"]:
    """The unedited panorama, then what each edit exactly gives."""
    return torch.cat([views.source(), *(views.truth(edit) for edit in edits)])


def make_task(
    picture: Picture, kind: PanoramaKind, prior: InstructPrior, sentence: str, *, window_px: int, seed: int
) -> Task:
    """What methods are given to edit `picture` by `sentence`."""
    lat = window_px // prior.codec.factor
    config = PanoramaConfig(window=lat, size=2 * window_px if kind == "sphere" else window_px)
    surface = make_surface(picture, WRAPS[kind], config, prior)
    apart = make_surface(picture, WRAPS[kind], replace(config, stride=lat, smooth=False), prior)
    blank = torch.zeros(1, prior.codec.channels, 1, 1)
    task = Task(prior, blank, surface, apart, kind == "sphere", sentence, seed)
    return replace(task, s=latents_of(task, picture))


def as_picture(rgb: Float[Tensor, "3 H W"]) -> Picture:
    """Values in [0, 1] as if they had been read."""
    return Picture(Path("world.png"), (rgb * 65535).round().permute(1, 2, 0).contiguous().numpy().astype("uint16"))


def latents_of(task: Task, picture: Picture) -> Float[Tensor, "k c h w"]:
    """The canvas of a picture of the task's size."""
    *_, (_, canvas) = task.surface.encode(picture, task.encode)
    return canvas


def in_windows(surface: Surface, rgb: Float[Tensor, "3 H W"], window_px: int) -> Float[Tensor, "n 3 h w"]:
    """What is judged: the views of a sphere, or squares half a window apart."""
    if isinstance(surface, Sphere):
        return torch.stack([view_of(rgb, view) for view in surface.views])
    starts = range(0, rgb.shape[-1] - window_px + 1, window_px // 2)
    return torch.stack([rgb[..., x : x + window_px] for x in starts])


def assembled(task: Task, picture: Picture, z: Tensor, *, detail: float) -> Float[Tensor, "3 H W"]:
    """The whole picture from a canvas."""
    out = torch.empty(3, picture.height_px, picture.width_px)
    for block in task.surface.blocks(picture, z, task.s, task.decode, detail=detail):
        out[:, block.rows[:, None], block.columns[None]] = block.edited
    return out


Method = Callable[[Task], Float[Tensor, "k c h w"]]


def sampling(*, steps: int, s_text: float, s_image: float, joint: bool) -> Method:
    """InstructPix2Pix by DDIM: every window for itself, or all denoised together with averaged predictions."""

    @torch.no_grad()
    def edit(task: Task) -> Float[Tensor, "k c h w"]:
        windows = task.windows(apart=not joint)
        score = task.prior.score(Prompts(task.sentence), Guidance(s_text, s_image))
        if joint:
            z = torch.randn(task.s.shape, generator=task.rng())

            def predict(z: Tensor, t: int) -> Tensor:
                out = torch.zeros_like(z)
                windows.scatter_add(out, _predict(score, windows.gather(z), t, windows.gather(task.s), task))
                return out

            return ddim(z, predict, score.schedule, steps)
        s = windows.gather(task.s)
        alone = ddim(
            torch.randn(s.shape, generator=task.rng()),
            lambda z, t: _predict(score, z, t, s, task),
            score.schedule,
            steps,
        )
        out = torch.zeros_like(task.s)
        windows.scatter_add(out, alone)
        return out

    return edit


def ddim(z: Tensor, predict: Callable[[Tensor, int], Tensor], schedule: Schedule, steps: int) -> Tensor:
    """Deterministic sampling (Song et al. 2021) from noise `z`; `predict(z, t)` is the guided noise in z at t."""
    times = torch.linspace(schedule.num_timesteps - 1, 0, steps + 1).round().int().tolist()
    for t, later in pairwise(times):
        ab, ab_later = schedule.alpha_bar(t), schedule.alpha_bar(later)
        e = predict(z, t)
        clean = (z - (1 - ab) ** 0.5 * e) / ab**0.5
        z = ab_later**0.5 * clean + (1 - ab_later) ** 0.5 * e
    return z


def collaboration(csd: CsdConfig, *, share: Sharing = "none") -> Method:
    """CSD-Edit of all windows, exactly as the editor moves them."""

    def edit(task: Task) -> Float[Tensor, "k c h w"]:
        windows = task.windows()
        turns = steps_in_epoch(len(windows), task.windows_per_step)
        config = replace(csd, steps=csd.steps * turns, lr_decay_every=csd.lr_decay_every * turns)
        particles = WindowParticles(
            task.s, windows, config, budget=task.windows_per_step, device=task.prior.device,
            settle=(lambda z: task.surface.settle(z, task.encode, task.decode)) if task.sphere else None,
        )  # fmt: skip
        score = Attention(share).over(task.prior.score(Prompts(task.sentence), Guidance.of(csd)))
        for _ in run(particles, Objective(score, config), rng=task.rng()):
            pass
        return particles.z

    return edit


def standard(csd: CsdConfig, *, sampling_steps: int, s_text: float, s_image: float) -> Mapping[str, Method]:
    """The rows of the table. `csd` is the editor's setting; `s_text` and `s_image` are for sampling."""
    scales = {"s_text": s_text, "s_image": s_image}
    return {
        "windows sampled one by one": sampling(steps=sampling_steps, joint=False, **scales),
        "windows sampled, averaged": sampling(steps=sampling_steps, joint=True, **scales),
        "csd-edit, independent": collaboration(replace(csd, coupling="independent")),
        "csd-edit, SVGD": collaboration(replace(csd, coupling="svgd")),
        SHARED: collaboration(replace(csd, coupling="svgd"), share="anchors"),
    }


def _predict(score: Score, z: Tensor, t: int, s: Tensor, task: Task) -> Tensor:
    """A few windows at a time."""
    parts, n = [], task.windows_per_step
    for a in range(0, len(z), n):
        index = torch.arange(a, min(a + n, len(z)))
        z_t, s_0, index = (x.to(task.prior.device) for x in (z[index], s[index], index))
        parts.append(score.target(Noised.from_noisy(z_t, t, s_0, index)).cpu())
    return torch.cat(parts)
