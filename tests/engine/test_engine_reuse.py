"""The unconditional part of guidance reused: exactly the formula, in every k-th move of each particle, and off at 1."""

from dataclasses import dataclass, field, replace

import pytest
import torch

from csd3d.engine import Batch, CsdConfig, Objective, Schedule, csd_step, reusing
from csd3d.engine.guidance import instruct_coefficients, instruct_source_coefficients, split
from csd3d.engine.reuse import ReusingScore, Side
from csd3d.engine.types import Latents, Noised, numbers
from csd3d.runs.ranks import SharedScore
from tests.devices import DEVICES

SCHEDULE = Schedule(torch.linspace(0.99, 0.01, 1000))
TEXT, IMAGE = 7.5, 1.5
CONFIG = CsdConfig(coupling="independent", weight="one", timesteps="descending", s_text=TEXT, s_image=IMAGE)


@dataclass
class Branches:
    """Branches that are functions of a noisy latent; counts those that are evaluated."""

    guided: bool = True
    rows: list[str] = field(default_factory=list[str])
    schedule: Schedule = SCHEDULE

    def branch(self, name: str, x_t: Latents) -> Latents:
        self.rows += [name] * len(x_t)
        return {"00": x_t.sin(), "I0": x_t.cos(), "IT": x_t**2}[name]

    def predict(self, x: Noised, side: Side, names: tuple[str, ...]) -> Latents:
        x_t = x.z_t if side == "target" else x.s_t
        found = instruct_coefficients(TEXT, IMAGE) if side == "target" else instruct_source_coefficients(IMAGE)
        return sum((c * self.branch(b, x_t) for b, c in found.items() if b in names), torch.zeros_like(x_t))

    def target(self, x: Noised) -> Latents:
        return self.predict(x, "target", ("00", "I0", "IT"))

    def source(self, x: Noised) -> Latents:
        return self.predict(x, "source", ("00", "I0"))

    def is_guided(self, t: int) -> bool:
        return self.guided

    def unconditional(self, x: Noised, side: Side) -> Latents:
        return self.predict(x, side, ("00",))

    def conditional(self, x: Noised, side: Side) -> Latents:
        return self.predict(x, side, ("I0", "IT"))


def step_of(index: list[int], seed: int) -> Noised:
    rng = torch.Generator().manual_seed(seed)
    z, s, e = (torch.randn(len(index), 4, 2, 2, generator=rng) for _ in range(3))
    return SCHEDULE.noised(Batch(z, s, torch.tensor(index)), 400, e)


def test_off_it_is_the_score_itself() -> None:
    score = Branches()
    assert reusing(score, CONFIG) is score


@pytest.mark.parametrize("every", [2, 3])
def test_it_is_the_formula_and_a_move_takes_as_many_rows_as_it_says(every: int) -> None:
    """Particles 0 and 2 take part in all steps, 1 in every second, which alone count for it."""
    own, plain = Branches(), Branches()
    score = reusing(own, CsdConfig(**{**vars(CONFIG), "guide_every": every}))
    kept: dict[int, torch.Tensor] = {}
    moves = dict.fromkeys(range(3), 0)
    for move in range(6):
        x = step_of([0, 2] if move % 2 else [0, 1, 2], move)
        own.rows.clear()
        g = csd_step(score, x, CONFIG).g
        due = [i for i in numbers(x.index) if moves[i] % every == 0]
        assert sorted(own.rows) == sorted(2 * ["00"] * len(due) + (2 * ["I0"] + ["IT"]) * len(x.z))
        for place, i in enumerate(numbers(x.index)):
            one = x.rows([place])
            if i in due:
                kept[i] = (1 - IMAGE) * (one.z_t.sin() - one.s_t.sin())
            moves[i] += 1
            r = TEXT * one.z_t**2 + (IMAGE - TEXT) * one.z_t.cos() - IMAGE * one.s_t.cos() + kept[i]
            torch.testing.assert_close(g[place : place + 1], r)
        if len(due) == len(x.z):
            torch.testing.assert_close(g, csd_step(plain, x, CONFIG).g)


def test_without_guidance_at_a_timestep_nothing_is_kept_or_counted() -> None:
    own = Branches(guided=False)
    score = reusing(own, CsdConfig(**{**vars(CONFIG), "guide_every": 2}))
    x = step_of([0, 1], 0)
    assert torch.equal(csd_step(score, x, CONFIG).g, csd_step(Branches(), x, CONFIG).g)
    assert isinstance(score, ReusingScore)
    assert score.state_dict()["index"].numel() == 0


def test_outside_of_a_step_it_is_the_prior_and_counts_nothing() -> None:
    own, x = Branches(), step_of([0, 1], 0)
    score = reusing(own, CsdConfig(**{**vars(CONFIG), "guide_every": 2}))
    assert isinstance(score, ReusingScore)
    assert torch.equal(score.target(x), own.target(x))
    assert torch.equal(score.source(x), own.source(x))
    assert score.state_dict()["index"].numel() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_kept_is_on_the_cpu_and_no_more_than_latents(device: str) -> None:
    score = reusing(Branches(), CsdConfig(**{**vars(CONFIG), "guide_every": 2}))
    assert isinstance(score, ReusingScore)
    x = step_of([0, 1, 2], 0)
    x = replace(x, z=x.z.to(device), s=x.s.to(device), z_t=x.z_t.to(device), s_t=x.s_t.to(device))
    assert score.for_step(x).target(x).device == x.z_t.device
    kept = list(score._kept.values())
    assert {u.device.type for u in kept} == {"cpu"}
    assert sum(u.untyped_storage().nbytes() for u in kept) == x.z.nbytes, "no row holds a whole batch"


def test_random_timesteps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"guide_every: expected 1 with random timesteps \(see --timesteps\), got 2"):
        CsdConfig(guide_every=2)


def test_a_loop_refuses_a_score_that_reuses_nothing() -> None:
    config = CsdConfig(**{**vars(CONFIG), "guide_every": 2})
    for score in (Branches(), SharedScore(Branches())):
        with pytest.raises(ValueError, match="guide_every: expected 1 with a score that reuses nothing, got 2"):
            Objective(score, config)
    Objective(SharedScore(reusing(Branches(), config)), config)


def test_a_state_goes_on_bit_for_bit() -> None:
    config = CsdConfig(**{**vars(CONFIG), "guide_every": 3})
    whole, first, second = (reusing(Branches(), config) for _ in range(3))
    assert isinstance(first, ReusingScore)
    assert isinstance(second, ReusingScore)
    steps = [step_of([0, 1], move) for move in range(5)]
    expected = [csd_step(whole, x, CONFIG).g for x in steps]
    for x in steps[:2]:
        csd_step(first, x, CONFIG)
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(csd_step(second, x, CONFIG).g, g) for x, g in zip(steps[2:], expected[2:], strict=True))


def test_the_parts_of_coefficients_are_those_of_the_whole() -> None:
    found = instruct_coefficients(TEXT, IMAGE)
    c_0, rest, others = split(found, "00")
    assert c_0 == found["00"]
    assert sum(others.values()) == pytest.approx(1)
    assert {branch: rest * c for branch, c in others.items()} == pytest.approx({"I0": found["I0"], "IT": found["IT"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"residual": "noise"}, "guide-every: expected 1 where no source is predicted"),
        ({"s_text": 0.0}, "guide-every: expected 1 with a guidance scale of 0, got 2"),
    ],
)
def test_what_it_cannot_serve_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reusing(Branches(), CsdConfig(**{**vars(CONFIG), "guide_every": 2, **change}))  # pyright: ignore[reportArgumentType]
