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
    measured,
    settled,
)
from csd3d.engine.loop import StepInfo
from csd3d.priors.instruct import InstructPrior, InstructScore
from csd3d.priors.prior import Guidance, Prompts
from scripts.benchmarks.rows import csd_rows, sampling_rows
from scripts.benchmarks.video_methods import Job, built, decode, estimated_motion
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
    step. Where timesteps descend, moves at the same one follow each other."""
    reuse: int = 1
    """The part of the update that is without any condition is evaluated in every so many moves, and kept for those
    between (equal guidance scales only)."""
    averaged: float = 0.0
    """Share of the last iterates that are averaged; 0: the last one is taken."""
    keys: int | None = None
    """Key frames, whose edit is carried to the others along their motion; None: every frame is moved."""

    def rows(self, frames: int, times: Sequence[int]) -> float:
        """UNet rows a frame, for a clip of so many that was moved at these timesteps."""
        rows = 0
        for move, t in enumerate(times):
            guidance = Guidance.of(self.csd).at(t)
            target = sampling_rows(guidance.text, guidance.image)
            source = csd_rows(guidance.text, guidance.image) - target
            if move % self.reuse and guidance.text != 1:
                target, source = target - 1, source - 1
            rows += target + (0 if self.bank and t in times[:move] else source)
        return rows * min(self.keys or frames, frames) / frames

    @torch.no_grad()
    def edit(self, job: Job, sentences: Sequence[str]) -> list[tuple[Float[Tensor, "n 3 H W"], float]]:
        """The clip of a job, edited by each of the sentences (that of the job does not count), and UNet rows a frame of
        each."""
        n, prior = len(job.source), built(job)
        chosen = list(range(n)) if self.keys is None else key_frames([0] * n, self.keys)
        s = prior.codec.encode(job.source[chosen]).to(prior.device)
        made = moved(self, prior, sentences, s, job.rng())
        edited, rows = [decode(prior, z) for z, _ in made], [self.rows(n, times) for _, times in made]
        if self.keys is not None:
            motion = estimated_motion(job)
            edited = [CarriedFrames(lambda key, x=x: x[chosen.index(key)], motion, chosen)(range(n)) for x in edited]
        return list(zip(edited, rows, strict=True))


def moved(
    way: Way, prior: InstructPrior, sentences: Sequence[str], s: Float[Tensor, "n c h w"], rng: torch.Generator
) -> list[tuple[Float[Tensor, "n c h w"], list[int]]]:
    """Latents that begin at `s`, for each sentence, and the timesteps of their moves. A plain way draws and moves as
    the video editor does.

    The sentences go side by side under the same t and e: so do runs of the editor with one seed. What they share, the
    prediction for the source, is evaluated once, and all others in one call of the UNet; this changes no result.
    """
    csd, n, k = way.csd, len(s), len(sentences)
    predict = _Predictions(way, prior, sentences, s)
    z, late, fixed = s.repeat(k, 1, 1, 1), list[Tensor](), _fixed(way, s, rng)
    moments = first_moments(z, csd.optimizer)
    times, infos = [list[int]() for _ in sentences], [list[StepInfo]() for _ in sentences]
    for step in range(csd.steps):
        t, e = fixed[step] if fixed else (draw_timestep(rng, csd), draw_noise(s, rng, csd))
        now, lr, g = predict(z, t, e, step), lr_at(step, csd), torch.zeros_like(z)
        still = z.new_ones(k * n, 1, 1, 1, dtype=torch.bool)
        for j, rows in enumerate(torch.arange(k * n).split(n)):
            if settled(infos[j], csd) is not None:
                continue
            x = now.x.rows(rows.tolist())
            result = csd_step(_Known(now.schedule, now.predicted[rows], now.of_source), x, csd)
            g[rows], still[rows], found = result.g, False, measured(result, x)
            infos[j].append(StepInfo(step, t, lr, (), found.gradient_rms, found.residual_rms, None, found.edit_rms))
            times[j].append(t)
        moved_on, moments = descend(z, g, moments, lr=lr)
        z = torch.where(still, z, moved_on)
        if step >= csd.steps * (1 - way.averaged):
            late.append(z)
    return list(zip((torch.stack(late).mean(0) if late else z).split(n), times, strict=True))


@dataclass(frozen=True, eq=False)
class _Predicted:
    """The particles of all sentences in a step, and what was predicted for them and for their sources."""

    schedule: Schedule
    x: Noised
    predicted: Float[Tensor, "kn c h w"]
    of_source: Float[Tensor, "n c h w"]


class _Predictions:
    """What is predicted in the steps of a way, and kept from one to the next."""

    def __init__(self, way: Way, prior: InstructPrior, sentences: Sequence[str], s: Float[Tensor, "n c h w"]) -> None:
        n, k = len(s), len(sentences)
        prompts = Prompts(list(sentences), assign=torch.arange(k).repeat_interleave(n))
        self._way, self._s, self._k = way, s, k
        self._score = prior.score(prompts, Guidance.of(way.csd))
        self._known: dict[int, Tensor] = {}
        self._plain: Tensor | None = None

    def __call__(self, z: Tensor, t: int, e: Tensor, step: int) -> _Predicted:
        way, s, k, score = self._way, self._s, self._k, self._score
        x = score.schedule.noised(Batch(z, s.repeat(k, 1, 1, 1), torch.arange(len(z))), t, e.repeat(k, 1, 1, 1))
        own = score.schedule.noised(Batch(s, s, torch.arange(len(s))), t, e)
        if way.reuse > 1 and score.guidance.at(t).text != 1:
            return self._reused(score, x, own, step)
        if not way.bank or t not in self._known:
            self._known = {**(self._known if way.bank else {}), t: score.source(own)}
        return _Predicted(score.schedule, x, score.target(x), self._known[t])

    def _reused(self, score: InstructScore, x: Noised, own: Noised, step: int) -> _Predicted:
        """With the difference of the branches 00 as it was found in the last of the moves that look for it."""
        scale = self._way.csd.s_text
        if step % self._way.reuse == 0 or self._plain is None:
            of_source = score.target_branch(_as_target(own), "00").repeat(self._k, 1, 1, 1)
            self._plain = score.target_branch(x, "00") - of_source
        source = scale * score.target_branch(_as_target(own), "I0")
        return _Predicted(score.schedule, x, scale * score.target_branch(x, "IT") + (1 - scale) * self._plain, source)


def _as_target(own: Noised) -> Noised:
    """Noisy sources in the place of noisy particles."""
    return replace(own, z_t=own.s_t)


def _fixed(way: Way, s: Float[Tensor, "n c h w"], rng: torch.Generator) -> list[tuple[int, Tensor]]:
    """Timestep and noise of every move, where they are not drawn as the editor draws them; else none."""
    csd = way.csd
    if way.bank:
        times = _timesteps("stratified" if way.order == "random" else way.order, way.bank, csd, rng)
        bank = [(int(t), draw_noise(s, rng, csd)) for t in times]
        if way.order == "descending":
            return [bank[step * way.bank // csd.steps] for step in range(csd.steps)]
        return [bank[step % way.bank] for step in range(csd.steps)]
    if way.order == "random":
        return []
    return [(int(t), draw_noise(s, rng, csd)) for t in _timesteps(way.order, csd.steps, csd, rng)]


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
    "normal, tolerance 0.1": down(20, 1.5, tolerance=0.1),
    "normal, tolerance 0.05": down(20, 1.5, tolerance=0.05),
    "normal, tolerance 0.03": down(20, 1.5, tolerance=0.03),
    "careful, tolerance 0.05": down(40, 0.75, tolerance=0.05),
    "careful, tolerance 0.03": down(40, 0.75, tolerance=0.03),
    "100 moves, guidance 1.5 / 1.5, tolerance 0.05": Way(at(100, 0.5, s_text=1.5, s_image=1.5, tolerance=0.05)),
    "15 moves, lr 2, constant, descending from 900": down(15, 2.0),
    "normal, source bank of 10": replace(down(20, 1.5), bank=10),
    "20 moves, lr 2, source bank of 8": replace(Way(at(20, 2.0)), bank=8),
    "guidance 1.5 / 1.5, t from 450": down(20, 1.5, guidance=1.5, guide_min=450),
    "guidance 1.5 / 1.5, t below 450": down(20, 1.5, guidance=1.5, guide_max=450),
    "guidance 1.5 / 1.5, t from 250 to 650": down(20, 1.5, guidance=1.5, guide_min=250, guide_max=650),
    "guidance 1.5 / 1.5, difference 00 every 2": replace(down(20, 1.5, guidance=1.5), reuse=2),
    "guidance 1.5 / 1.5, difference 00 every 4": replace(down(20, 1.5, guidance=1.5), reuse=4),
    "normal, independent": down(20, 1.5, coupling="independent"),
    "normal, Adam 0.1": down(20, 0.1, optimizer="adam"),
    "normal, 2 key frames": replace(down(20, 1.5), keys=2),
}
"""By name. Unless said: guidance 1 / 1, t random below 500, a learning rate that falls, and all frames are moved."""
