"""The settings of CSD-Edit that are compared for speed: how many UNet rows a frame each takes is what differs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine import (
    METHODS,
    Batch,
    CsdConfig,
    Noised,
    Schedule,
    csd_step,
    descend,
    draw_noise,
    draw_timestep,
    first_moments,
    lr_at,
)
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from scripts.benchmarks.rows import csd_rows, sampling_rows
from scripts.benchmarks.video_methods import Job, decode, estimated_motion
from video.propagate import CarriedFrames, key_frames

Order = Literal["random", "stratified", "descending"]
"""How timesteps are drawn: each for itself, one from each of `steps` equal parts of the range in random order, or the
same parts from the noisiest down."""


@dataclass(frozen=True)
class Way:
    """CSD-Edit with settings of the engine, and with what only this benchmark has."""

    csd: CsdConfig
    order: Order = "random"
    bank: int = 0
    """So many fixed timesteps, each with noise of its own, at which the source is predicted once; 0: new ones in every
    step."""
    averaged: float = 0.0
    """Share of the last iterates that are averaged; 0: the last one is taken."""
    keys: int | None = None
    """Key frames, whose edit is carried to the others along their motion; None: every frame is moved."""

    def rows(self, frames: int) -> float:
        """UNet rows a frame, for a clip of so many."""
        csd = self.csd
        target = sampling_rows(csd.s_text, csd.s_image)
        source = csd_rows(csd.s_text, csd.s_image) - target
        sources = min(self.bank, csd.steps) if self.bank else csd.steps
        return (csd.steps * target + sources * source) * min(self.keys or frames, frames) / frames

    @torch.no_grad()
    def edit(self, job: Job, sentences: Sequence[str]) -> list[Float[Tensor, "n 3 H W"]]:
        """The clip of a job, edited by each of the sentences (that of the job does not count)."""
        n, prior = len(job.source), job.prior
        chosen = list(range(n)) if self.keys is None else key_frames([0] * n, self.keys)
        s = prior.codec.encode(job.source[chosen]).to(prior.device)
        edited = [decode(prior, z) for z in moved(self, prior, sentences, s, job.rng())]
        if self.keys is None:
            return edited
        motion = estimated_motion(job)
        return [CarriedFrames(lambda key, x=x: x[chosen.index(key)], motion, chosen)(range(n)) for x in edited]


def moved(
    way: Way, prior: InstructPrior, sentences: Sequence[str], s: Float[Tensor, "n c h w"], rng: torch.Generator
) -> list[Float[Tensor, "n c h w"]]:
    """Latents that begin at `s`, for each sentence. A plain way draws and moves as the video editor does.

    The sentences go side by side under the same t and e: so do runs of the editor with one seed. What they share, the
    prediction for the source, is evaluated once, and all others in one call of the UNet; this changes no result.
    """
    csd, n, k = way.csd, len(s), len(sentences)
    assign = torch.arange(k).repeat_interleave(n)
    score = prior.score(Prompts(list(sentences), assign=assign), Guidance.of(csd))
    index, of_all = torch.arange(n, device=s.device), torch.arange(k * n, device=s.device)
    z, s_all = s.repeat(k, 1, 1, 1), s.repeat(k, 1, 1, 1)
    moments, late = first_moments(z, csd.optimizer), list[Tensor]()
    bank, known = _bank(way, s, rng), dict[int, Tensor]()
    times = _timesteps(way.order, csd.steps, csd, rng) if way.order != "random" else None
    for step in range(csd.steps):
        if bank:
            t, e = bank[step % len(bank)]
        else:
            t = draw_timestep(rng, csd) if times is None else int(times[step])
            e = draw_noise(s, rng, csd)
        x = score.schedule.noised(Batch(z, s_all, of_all), t, e.repeat(k, 1, 1, 1))
        own = score.schedule.noised(Batch(s, s, index), t, e)
        if not bank or t not in known:
            known = {**(known if bank else {}), t: score.source(own)}
        target, g = score.target(x), torch.empty_like(z)
        for rows in torch.arange(k * n).split(n):
            part = _Known(score.schedule, target[rows], known[t])
            g[rows] = csd_step(part, x.rows(rows.tolist()), csd).g
        z, moments = descend(z, g, moments, lr=lr_at(step, csd))
        if step >= csd.steps * (1 - way.averaged):
            late.append(z)
    return list((torch.stack(late).mean(0) if late else z).split(n))


def _bank(way: Way, s: Float[Tensor, "n c h w"], rng: torch.Generator) -> list[tuple[int, Tensor]]:
    """Fixed timesteps with their noises; none unless the way has a bank."""
    if not way.bank:
        return []
    times = _timesteps("stratified", way.bank, way.csd, rng)
    return [(int(t), draw_noise(s, rng, way.csd)) for t in times]


def _timesteps(order: Order, count: int, csd: CsdConfig, rng: torch.Generator) -> Tensor:
    """One timestep from each of `count` equal parts of the range."""
    places = torch.arange(count).flip(0) if order == "descending" else torch.randperm(count, generator=rng)
    share = (places + torch.rand(count, generator=rng)) / count
    return (csd.t_min + (csd.t_max - csd.t_min) * share).long().clamp_max(csd.t_max - 1)


@dataclass(frozen=True, eq=False)
class _Known:
    """A score of one step, whose predictions are known."""

    schedule: Schedule
    predicted: Float[Tensor, "n c h w"]
    of_source: Float[Tensor, "n c h w"]

    def target(self, x: Noised) -> Tensor:
        return self.predicted

    def source(self, x: Noised) -> Tensor:
        return self.of_source


def at(steps: int, lr: float, *, s_text: float = 1.0, s_image: float = 1.0, **more: object) -> CsdConfig:
    """Settings with that many moves and that guidance; the learning rate falls in five plateaus."""
    every = max(1, steps // 5)
    csd = replace(METHODS["csd-edit"], steps=steps, lr=lr, lr_decay=0.75, lr_decay_every=every)
    return replace(csd, s_text=s_text, s_image=s_image, **more)  # pyright: ignore[reportArgumentType]


def down(steps: int, lr: float, *, guidance: float = 1.0, **more: object) -> Way:
    """Timesteps descend from 900, at a constant learning rate and equal guidance scales."""
    scales = {"s_text": guidance, "s_image": guidance}
    return Way(at(steps, lr, **{"t_max": 900, "lr_decay": 1.0, **scales, **more}), order="descending")


WAYS: Mapping[str, Way] = {
    "100 moves, lr 0.5, guidance 1.5 / 1.5 (the default before)": Way(at(100, 0.5, s_text=1.5, s_image=1.5)),
    "20 moves, lr 2, guidance 1.5 / 1.5": Way(at(20, 2.0, s_text=1.5, s_image=1.5)),
    "20 moves, lr 2, guidance 1.2 / 1.2": Way(at(20, 2.0, s_text=1.2, s_image=1.2)),
    "20 moves, lr 2": Way(at(20, 2.0)),
    "20 moves, lr 3": Way(at(20, 3.0)),
    "10 moves, lr 3": Way(at(10, 3.0)),
    "20 moves, lr 2, t below 700": Way(at(20, 2.0, t_max=700)),
    "20 moves, lr 2, t in 200 to 700": Way(at(20, 2.0, t_min=200, t_max=700)),
    "20 moves, lr 2, stratified t": Way(at(20, 2.0), order="stratified"),
    "10 moves, lr 3, stratified t": Way(at(10, 3.0), order="stratified"),
    "20 moves, lr 2, descending t": Way(at(20, 2.0), order="descending"),
    "20 moves, lr 2, descending from 900": down(20, 2.0, lr_decay=0.75),
    "5 moves, lr 3, constant, descending from 900": down(5, 3.0),
    "10 moves, lr 2.25, constant, descending from 900 (quick)": down(10, 2.25),
    "20 moves, lr 1.5, constant, descending from 900 (normal)": down(20, 1.5),
    "40 moves, lr 0.75, constant, descending from 900 (careful)": down(40, 0.75),
    "20 moves, lr 1.5, constant, descending from 900, guidance 1.5 / 1.5": down(20, 1.5, guidance=1.5),
    "normal, mean of the last half": replace(down(20, 1.5), averaged=0.5),
    "normal, source bank of 8": replace(down(20, 1.5), bank=8),
    "normal, independent": down(20, 1.5, coupling="independent"),
    "normal, Adam 0.1": down(20, 0.1, optimizer="adam"),
    "normal, 2 key frames": replace(down(20, 1.5), keys=2),
}
"""By name. Unless said: guidance 1 / 1, t random below 500, a learning rate that falls, and all frames are moved."""
