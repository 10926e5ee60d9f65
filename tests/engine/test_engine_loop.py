"""The loop: lazy, reproducible, resumable bit for bit, and safe for the particles it moves."""

import copy
import math
from dataclasses import replace
from itertools import islice

import pytest
import torch
from engine_toys import SCHEDULE, FreeLatents, generator, latents, noised
from engine_toys import FeatureToyScore as ToyScore
from torch import Tensor

from csd3d.engine import (
    METHODS,
    CsdConfig,
    Latents,
    Noised,
    Objective,
    Particles,
    Schedule,
    Stateful,
    StepInfo,
    csd_step,
    draw_noise,
    lr_at,
    run,
    settled,
)
from csd3d.engine.loop import draw_timestep
from csd3d.engine.step import measured

CONFIG = CsdConfig(steps=12, lr=0.3, lr_decay_every=4)


def finished(config: CsdConfig, seed: int = 0, score: ToyScore | None = None) -> tuple[Tensor, list[StepInfo]]:
    particles = FreeLatents(latents(6), config, per_step=4)
    infos = list(run(particles, Objective(score or ToyScore(), config), rng=generator(seed)))
    return particles.z, infos


def test_toys_are_particles() -> None:
    particles = FreeLatents(latents(2), CONFIG)
    assert isinstance(particles, Particles)
    assert isinstance(particles, Stateful)


def test_whoever_watches_sees_each_step_before_it_is_applied() -> None:
    particles, seen = FreeLatents(latents(6), CONFIG, per_step=4), []
    infos = run(
        particles, Objective(ToyScore(), CONFIG), rng=generator(0),
        watch=lambda batch, result: seen.append((batch.index, measured(result).gradient_rms, particles.z.clone())),
    )  # fmt: skip
    before = particles.z.clone()
    for step, info in enumerate(infos):
        index, size, then = seen[step]
        assert (tuple(index.tolist()), size) == (info.index, info.gradient_rms)
        assert torch.equal(then, before)
        before = particles.z.clone()
    assert torch.equal(before, finished(CONFIG)[0]), "watching changes nothing"


def test_first_step_by_hand() -> None:
    particles, rng = FreeLatents(latents(3), CONFIG), generator(5)
    info = next(run(particles, Objective(ToyScore(), CONFIG), rng=rng))

    rng = generator(5)
    s, index = latents(3), torch.arange(3)
    torch.randperm(3, generator=rng)
    t = int(torch.randint(CONFIG.t_min, CONFIG.t_max, (), generator=rng))
    e = torch.randn(3, 4, 3, 5, generator=rng)
    result = csd_step(ToyScore(), noised(s, s, index, t=t, e=e), CONFIG)
    torch.testing.assert_close(particles.z, s - 0.3 * result.g)
    assert result.weights is not None
    found = measured(result)
    assert info == StepInfo(0, t, 0.3, (0, 1, 2), found.gradient_rms, found.residual_rms, found.kernel_mean, 0.0)


def test_how_far_particles_are_from_their_sources_is_reported() -> None:
    particles, seen = FreeLatents(latents(3), CONFIG), []
    for info in run(particles, Objective(ToyScore(), CONFIG), rng=generator()):
        seen.append(float((particles.z - particles.s).square().mean().sqrt()))
        if info.step:
            assert info.edit_rms == pytest.approx(seen[info.step - 1])


def infos_of(moves: list[float], edits: list[float | None]) -> list[StepInfo]:
    return [
        StepInfo(k, 100, 0.5, (), g / 0.5, 1.0, None, edit)
        for k, (g, edit) in enumerate(zip(moves, edits, strict=True))
    ]


def test_an_edit_has_settled_when_the_last_moves_are_short_beside_it() -> None:
    config = CsdConfig(tolerance=0.1)
    short = infos_of([1.0, 0.05, 0.1, 0.15], [0.0, 1.0, 2.0, 2.0])
    share = settled(short, config)
    assert share == pytest.approx(math.sqrt((0.05**2 + 0.1**2 + 0.15**2) / 9))
    assert settled(short, CsdConfig()) is None, "0: never"
    assert settled(short, replace(config, tolerance=0.06)) is None
    assert settled(short[:3], config) is None, "the first was long"
    assert settled(short[1:3], config) is None, "too few to say"
    assert settled(infos_of([0.01] * 4, [0.0] * 4), config) is None, "nothing was edited"
    assert settled(infos_of([0.01] * 4, [1.0, 1.0, None, 1.0]), config) is None, "steps of before tell nothing"
    assert settled(infos_of([0.01] * 7, [1.0] * 7), config, steps_per_epoch=2) is None, "an epoch goes on"
    assert settled(infos_of([0.01] * 6, [1.0] * 6), config, steps_per_epoch=2) == pytest.approx(0.01)
    assert settled(infos_of([0.01] * 4, [1.0] * 4), replace(config, optimizer="adam", lr=0.5)) is None, "moves are lr"


def test_every_step_is_reported_once() -> None:
    _, infos = finished(CONFIG)
    assert [info.step for info in infos] == list(range(12))
    assert all(CONFIG.t_min <= info.t < CONFIG.t_max for info in infos)
    assert len({info.t for info in infos}) > 6
    assert all(len(info.index) == 4 for info in infos)
    assert len({info.index for info in infos}) > 1
    assert all(info.kernel_mean is not None and 0 < info.kernel_mean < 1 for info in infos)


def test_same_seed_same_bits_other_seed_other_bits() -> None:
    (a, infos), (b, again), (c, _) = finished(CONFIG), finished(CONFIG), finished(CONFIG, seed=1)
    assert torch.equal(a, b)
    assert infos == again
    assert not torch.equal(a, c)


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_of_the_score_change_no_bit_of_a_run(chunk: int) -> None:
    assert torch.equal(finished(CONFIG)[0], finished(CONFIG, score=ToyScore(chunk=chunk))[0])


@pytest.mark.parametrize("stop", [0, 1, 5, 11, 12])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("noise", ["independent", "shared"])
def test_resumed_run_is_bit_equal(stop: int, optimizer: str, noise: str) -> None:
    config = CsdConfig(steps=12, lr=0.1, optimizer=optimizer, noise=noise)  # type: ignore[arg-type]
    whole, infos = finished(config)

    first, rng = FreeLatents(latents(6), config, per_step=4), generator()
    begun = list(islice(run(first, Objective(ToyScore(), config), rng=rng), stop))
    saved, rng_state = copy.deepcopy(first.state_dict()), rng.get_state()

    second, rng = FreeLatents(latents(6), config, per_step=4), generator(99)
    second.load_state_dict(saved)
    rng.set_state(rng_state)
    rest = list(run(second, Objective(ToyScore(), config), rng=rng, start=stop))
    assert torch.equal(second.z, whole)
    assert begun + rest == infos


def test_nothing_happens_before_it_is_asked_for() -> None:
    particles, rng = FreeLatents(latents(2), CONFIG), generator()
    steps, before = run(particles, Objective(ToyScore(), CONFIG), rng=rng), rng.get_state()
    assert torch.equal(rng.get_state(), before)
    next(steps)
    state = rng.get_state()
    assert not torch.equal(state, before)
    steps.close()  # type: ignore[attr-defined]
    assert torch.equal(rng.get_state(), state)


def test_prior_with_fewer_timesteps_is_refused_at_once() -> None:
    short = ToyScore(schedule=Schedule(SCHEDULE.alphas_cumprod[:100]))
    with pytest.raises(ValueError, match="t_max: expected at most 100, the number of timesteps of this prior, got 500"):
        Objective(short, CONFIG)


class BreaksAtThird(ToyScore):
    """NaN for particle 1 from the third evaluation on."""

    def target(self, x: Noised) -> Latents:
        e = super().target(x)
        return e.where((x.index != 1).view(-1, 1, 1, 1), torch.nan) if self.calls.count("target") > 2 else e


@pytest.mark.parametrize("method", METHODS)
def test_nan_stops_the_run_before_it_reaches_the_particles(method: str) -> None:
    config = replace(METHODS[method], steps=12)
    particles, good = FreeLatents(latents(3), config), FreeLatents(latents(3), config)
    with pytest.raises(
        FloatingPointError, match=r"residual is not finite at step 2, timestep \d+, for particles \[1\]"
    ):
        list(run(particles, Objective(BreaksAtThird(), config), rng=generator()))
    list(islice(run(good, Objective(ToyScore(), config), rng=generator()), 2))
    assert torch.equal(particles.z, good.z)


def test_coupled_particles_agree_more_than_independent_ones() -> None:
    """From one place, under a prior that asks something else of each."""
    spreads = []
    for method in ("csd", "sds"):
        config = replace(METHODS[method], steps=60, noise="shared")
        particles = FreeLatents(latents(1).repeat(5, 1, 1, 1), config)
        list(run(particles, Objective(ToyScore(), config), rng=generator()))
        spreads.append(particles.z.std(0).mean().item())
    assert spreads[0] < 0.5 * spreads[1]


def test_noise_is_standard_normal_and_shared_on_demand() -> None:
    z = torch.zeros(500, 4, 6, 6)
    own = draw_noise(z, generator(), CsdConfig(noise="independent"))
    assert abs(float(own.mean())) < 0.02
    assert float(own.std()) == pytest.approx(1, abs=0.02)
    assert not torch.equal(own[0], own[1])
    shared = draw_noise(z, generator(), CsdConfig(noise="shared"))
    assert shared.shape == z.shape
    assert torch.equal(shared[0], shared[499])


def test_noise_of_a_seed_does_not_depend_on_dtype() -> None:
    one, other = (draw_noise(latents(2, 0, dtype), generator(), CONFIG) for dtype in (torch.float32, torch.float64))
    assert other.dtype == torch.float64
    assert torch.equal(one.double(), other)


def test_timesteps_cover_their_range_evenly() -> None:
    rng, config = generator(), CsdConfig(t_min=3, t_max=7)
    drawn = torch.tensor([draw_timestep(rng, config) for _ in range(2000)])
    assert drawn.unique().tolist() == [3, 4, 5, 6]
    assert (drawn.bincount()[3:] / 2000 - 0.25).abs().max() < 0.05


@pytest.mark.parametrize("steps", [1, 4, 7, 300])
def test_descending_timesteps_fall_through_their_parts(steps: int) -> None:
    rng, config = generator(), CsdConfig(t_min=20, t_max=120, steps=steps, timesteps="descending")
    width = 100 / steps
    for _ in range(50):
        drawn = [draw_timestep(rng, config, move=move) for move in range(steps)]
        for move, t in enumerate(drawn):
            low = 20 + 100 - width * (move + 1)
            assert int(low) <= t < low + width + 1
            assert 20 <= t < 120
    last = {draw_timestep(rng, config, move=steps + more) for more in range(50)}
    assert max(last) < 20 + width + 1
    assert max(draw_timestep(rng, config) for _ in range(200)) > 100, "no move: the whole range"


def test_descending_runs_begin_with_the_most_noise() -> None:
    config = replace(CONFIG, timesteps="descending")
    times = [info.t for info in finished(config)[1]]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]


def test_learning_rate_decays_in_stairs() -> None:
    config = CsdConfig(lr=2.0, lr_decay=0.9, lr_decay_every=20)
    assert lr_at(0, config) == lr_at(19, config) == 2.0
    assert lr_at(20, config) == pytest.approx(1.8)
    assert lr_at(199, config) == pytest.approx(2 * 0.9**9)
    assert lr_at(500, CsdConfig(lr_decay=1.0, lr=0.1)) == 0.1
    assert [info.lr for info in finished(CONFIG)[1]] == [lr_at(step, CONFIG) for step in range(12)]


def test_noise_that_is_drawn_on_the_device_takes_one_number_of_the_run() -> None:
    """So a run goes on with it from the state of `rng` alone."""
    z, config = latents(3, 0), CsdConfig(noise_on="device")
    rng = generator()
    first = draw_noise(z, rng, config)
    state, second = rng.get_state(), draw_noise(z, rng, config)
    assert not torch.equal(first, second)
    assert torch.equal(second, draw_noise(z, torch.Generator().set_state(state), config))
    assert torch.equal(first, draw_noise(z, generator(), config))
    assert abs(float(draw_noise(latents(200, 0), rng, config).std()) - 1) < 0.05
    assert len(draw_noise(z, rng, CsdConfig(noise_on="device", noise="shared"))[:, 0].unique(dim=0)) == 1
    drawn = torch.Generator()
    drawn.manual_seed(int(torch.randint(2**63 - 1, (), generator=generator())))
    assert torch.equal(first, torch.randn(z.shape, generator=drawn))
