"""The loop of sampling: transitions in order, the formulas of `ddim`, and any step to go on from."""

from dataclasses import replace

import pytest
import torch
from engine_toys import SCHEDULE, ToyScore, latents

from csd3d.engine import (
    CsdConfig,
    Index,
    Latents,
    Noised,
    SampledParticles,
    Sampling,
    ddim_step,
    invert,
    run_sampling,
    sample,
    timesteps,
)
from csd3d.engine.ddim import CLEAN, alpha_bar
from csd3d.engine.sampling import Drawn, Transition

CONFIG = CsdConfig(steps=4, t_max=1000)


class Pieces:
    """Latents that make their transitions `size` at a time."""

    def __init__(self, x: Latents, s: Latents, size: int) -> None:
        self.x, self.guess, self.s = x.clone(), x.clone(), s
        self.parts = torch.arange(len(x)).split(size)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.parts)

    def draw(self, transition: Transition, number: int) -> Drawn:
        index = self.parts[number]
        x = (self.guess if transition.round else self.x)[index]
        return Drawn(Noised.from_noisy(x, transition.asked, self.s[index], index))

    def take(self, transition: Transition, number: int, index: Index, e: Latents) -> None:
        ab, to = alpha_bar(SCHEDULE, transition.t), alpha_bar(SCHEDULE, transition.to)
        (self.x if transition.last else self.guess)[index] = ddim_step(self.x[index], e, ab, to)


def test_transitions_go_up_and_down_through_the_same_levels() -> None:
    moves = Sampling(ToyScore(), ToyScore(), replace(CONFIG, steps=2), rounds=1).transitions
    assert [(m.t, m.to, m.round, m.last, m.asked) for m in moves] == [
        (CLEAN, 499, 0, False, 0), (CLEAN, 499, 1, True, 499),
        (499, 999, 0, False, 499), (499, 999, 1, True, 999),
        (999, 499, 0, True, 999), (499, CLEAN, 0, True, 499),
    ]  # fmt: skip
    assert [m.level for m in moves] == [0, 0, 1, 1, 1, 0]
    assert [m.inverts for m in moves] == [True] * 4 + [False] * 2
    assert len(Sampling(ToyScore(), None, CONFIG).transitions) == 4


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("rounds", [0, 2])
def test_the_loop_is_the_formulas_in_pieces_of_any_size(size: int, rounds: int) -> None:
    s, levels, score = latents(5), timesteps(4, 1000), ToyScore()
    *_, noisy = invert(score, s, levels, rounds=rounds)
    expected = sample(score, noisy, s, levels)
    particles = Pieces(s, s, size)
    assert isinstance(particles, SampledParticles)
    sampling = Sampling(score, score, CONFIG, rounds)
    infos = list(run_sampling(particles, sampling))
    assert len(infos) == len(sampling.transitions) * len(particles.parts)
    assert torch.equal(particles.x, expected)
    half = Pieces(s, s, size)
    steps = run_sampling(half, sampling)
    for _ in range(len(infos) // 2):
        next(steps)
    assert len(list(run_sampling(half, sampling, start=len(infos) // 2))) == len(infos) - len(infos) // 2
    assert torch.equal(half.x, expected)


def test_what_is_not_finite_is_named_and_goes_no_further() -> None:
    class Bad(ToyScore):
        def target(self, x: Noised) -> Latents:
            e = super().target(x)
            return torch.where((x.index == 3).view(-1, 1, 1, 1), torch.nan, e)

    particles = Pieces(latents(5), latents(5), 5)
    with pytest.raises(FloatingPointError, match=r"not finite at step 0, timestep 999, for particles \[3\]"):
        list(run_sampling(particles, Sampling(Bad(), None, CONFIG)))
    assert torch.equal(particles.x, latents(5))


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="t_max: expected at most 1000"):
        Sampling(ToyScore(), None, replace(CONFIG, t_max=1001))
    with pytest.raises(ValueError, match="steps: expected 1 to 30"):
        Sampling(ToyScore(), None, replace(CONFIG, steps=40, t_max=30))
