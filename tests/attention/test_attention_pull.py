"""Steering as a term of distillation, in float64: against loops, against differences, in pieces, over two ranks."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csd3d.attention import AttendedScore, Attention
from csd3d.attention.energy import Contrast, Energy, Excite
from csd3d.attention.pull import Pull
from csd3d.attention.steer import Steer, Steering
from csd3d.engine import METHODS, Batch, Noised, Schedule, csd_step
from csd3d.engine.regularisers import Regularised
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from tests.attention.test_attention_steer import CAPTIONS, PUBLISHED, Loops, exact
from tests.priors.tiny import write_tiny_prior

ENERGIES = [Contrast(), Contrast(previous=False), Excite()]
INSTRUCTIONS = ("make the ball red", "cover everything with snow")


@pytest.fixture(scope="module")
def t2i(tmp_path_factory: pytest.TempPathFactory) -> TextToImagePrior:
    folder = write_tiny_prior(tmp_path_factory.mktemp("pull") / "t2i", kind="text-to-image", closed=False)
    return exact(TextToImagePrior.load(folder, device="cpu"))


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> InstructPrior:
    return exact(InstructPrior.load(write_tiny_prior(tmp_path_factory.mktemp("pull") / "instruct"), device="cpu"))


@pytest.fixture
def one_row(t2i: TextToImagePrior, instruct: InstructPrior) -> Iterator[None]:
    chunks = [chunk for prior in (t2i, instruct) for chunk in prior.chunks]
    for chunk in chunks:
        chunk.max_rows = 1
    yield
    for chunk in chunks:
        chunk.max_rows = None


def noised(t: int = 700, n: int = 2, seed: int = 3) -> Noised:
    rng = torch.Generator().manual_seed(seed)
    z, s, e = (torch.randn(n, 4, 8, 8, generator=rng, dtype=torch.float64) for _ in range(3))
    return Schedule.scaled_linear().noised(Batch(z, s, torch.arange(n)), t, e)


def pull_of(prior: Any, energy: Energy, **how: Any) -> Pull:
    """Of a text-to-image prior under captions, of an editor under instructions."""
    steering = replace(PUBLISHED, energy=energy, rounds=None, **how)
    captions = isinstance(prior, TextToImagePrior)
    score = prior.score(Prompts(CAPTIONS if captions else INSTRUCTIONS), Guidance(6.0, 1.5))
    return Pull(Steer.over(score, steering, steps=1, group=""))


def energy_at(pull: Pull, x: Noised, z: Tensor) -> Tensor:
    """E of particles at z, with the maps of the noisier level held."""
    before = pull._before(x)
    z_t = pull.steer.score.schedule.add_noise(z, x.e, x.t)
    return pull.steer.read(z_t, x.t, x.index, before, s=x.s, gradient=False).energy


@pytest.mark.parametrize("energy", ENERGIES, ids=["conform", "alone", "excite"])
def test_against_the_published_loops(energy: Energy, t2i: TextToImagePrior) -> None:
    """One particle after another; the gradient is that by z_t, times sqrt(ab), the weight that of the noise."""
    x, pull = noised(), pull_of(t2i, energy)
    schedule = pull.steer.score.schedule
    ab = schedule.alpha_bar(700)
    got = pull(x)
    for i, caption in enumerate(CAPTIONS):
        loops = Loops(t2i, caption, pull.steer.steering)
        if energy.compares:
            noisier = schedule.add_noise(x.z, x.e, 720)[i : i + 1]
            with torch.no_grad():
                loops.before = loops.maps(noisier, 720)
        slope = loops.value(x.z_t[i : i + 1], 700)[1][0]
        torch.testing.assert_close(got[i], 20 * math.sqrt(1.7 / 2) * math.sqrt(ab) * slope, atol=1e-9, rtol=1e-6)
    assert got.abs().max() > 1e-3


@pytest.mark.parametrize("energy", ENERGIES, ids=["conform", "alone", "excite"])
@pytest.mark.parametrize("kind", ["t2i", "instruct"])
def test_it_is_the_gradient_by_differences(kind: str, energy: Energy, request: pytest.FixtureRequest) -> None:
    x, pull = noised(), pull_of(request.getfixturevalue(kind), energy, step=1.0)
    along = torch.randn(x.z.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    slope = (energy_at(pull, x, x.z + 1e-5 * along) - energy_at(pull, x, x.z - 1e-5 * along)) / 2e-5
    expected = math.sqrt(1.7 / 2) * slope
    torch.testing.assert_close((pull(x) * along).sum((1, 2, 3)), expected, atol=1e-9, rtol=1e-5)
    if energy == Excite():
        assert expected.abs().min() > 1e-6


@pytest.mark.parametrize("kind", ["t2i", "instruct"])
def test_pieces_and_company_change_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    x, pull = noised(n=2), pull_of(request.getfixturevalue(kind), Contrast())
    whole = pull(x)
    request.getfixturevalue("one_row")
    close: Any = {"atol": 1e-10, "rtol": 1e-8}
    torch.testing.assert_close(pull(x), whole, **close)
    torch.testing.assert_close(torch.cat([pull(x.rows([i])) for i in (0, 1)]), whole, **close)
    torch.testing.assert_close(pull(x.rows([1, 0])), whole[[1, 0]], **close)


def test_it_acts_near_noise_and_in_the_length_that_is_asked_for(t2i: TextToImagePrior) -> None:
    pull = pull_of(t2i, Excite(), until=0.4)
    assert torch.equal(pull(noised(599)), torch.zeros(2, 4, 8, 8, dtype=torch.float64))
    assert pull(noised(600)).abs().max() > 0
    relative = pull_of(t2i, Excite(), step=None, rms=0.1)
    x = noised(800)
    rms = [float(part.square().mean().sqrt()) for part in (relative(x)[0], x.z[0])]
    assert rms[0] == pytest.approx(0.1 * math.sqrt(0.9) * rms[1])
    assert pull_of(t2i, Contrast())(noised(999)).isfinite().all(), "there is no noisier level"


@pytest.mark.parametrize("method", ["sds", "csd", "dds", "cds"])
def test_a_step_descends_it_beside_the_prior(method: str, t2i: TextToImagePrior) -> None:
    x = noised()
    config, plain = replace(METHODS[method], t_max=1000), t2i.score(Prompts(CAPTIONS, CAPTIONS), Guidance(6.0))
    steering = replace(PUBLISHED, energy=Excite(), rounds=None)
    score = Attention(steering=steering).over(plain)
    assert isinstance(score, AttendedScore)
    difference = csd_step(score, x, config).g - csd_step(plain, x, config).g
    torch.testing.assert_close(difference, pull_of(t2i, Excite())(x), atol=1e-5, rtol=1e-3)
    assert isinstance(score.for_step(x), Regularised)


def test_two_ranks_give_what_one_gives(t2i: TextToImagePrior, monkeypatch: pytest.MonkeyPatch) -> None:
    from csd3d.runs import ranks

    def of_two(count: int, do: Any) -> Tensor:
        rows = torch.cat([do(list(range(rank, count, 2))) for rank in (0, 1)])
        return rows[torch.cat([torch.arange(rank, count, 2) for rank in (0, 1)]).argsort()]

    x = noised()
    plain = t2i.score(Prompts(CAPTIONS, CAPTIONS), Guidance(6.0))
    score = Attention("anchors", steering=replace(PUBLISHED, rounds=None)).over(plain)
    config = replace(METHODS["dds"], t_max=1000)
    expected = csd_step(score, x, config).g
    monkeypatch.setattr(ranks, "map_sharded", of_two)
    torch.testing.assert_close(csd_step(ranks.SharedScore(score), x, config).g, expected, atol=1e-5, rtol=1e-4)


def test_settings_and_what_suits_the_prior(t2i: TextToImagePrior, tmp_path: Path) -> None:
    asked = Attention.of("none", ("structure",), "excite:until=0.9", "red ball | cover")
    assert asked.steering == Steering(Excite(), until=0.9)
    assert asked.compositions == Attention.of("none", ("structure:groups=red ball | cover",)).compositions
    with pytest.raises(ValueError, match="steer: expected no rounds where particles are moved, got 3"):
        Attention.of("none", (), "conform:rounds=3")
    config = replace(METHODS["dds"], t_max=1000)
    score: Any = t2i.score_under(config, Prompts(CAPTIONS[0], CAPTIONS[1]), Attention.of("none", (), "excite", ""))
    assert score.pull.steer.steering.step == 20
    with pytest.raises(ValueError, match="group: expected things"):
        t2i.score_under(config, Prompts("a photo", "a photo"), Attention.of("none", (), "excite", ""))
