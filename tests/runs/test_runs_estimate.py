"""The time of a run is said before its long part: counted from one particle that was measured."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from csd3d.cli.main import main
from csd3d.engine.config import CsdConfig
from csd3d.engine.residuals import Score
from csd3d.engine.reuse import Side
from csd3d.engine.sampling import Sampling
from csd3d.engine.types import Latents, Noised
from csd3d.priors.prior import Guidance, Prompts
from csd3d.runs.estimate import LEAST, Estimate, Work, measure, measure_frames
from csd3d.runs.manifest import Manifest
from tests.conftest import OnlyToys
from tests.toys import ToyPrior


def work(steps: int, particles: int = 10) -> Work:
    score = ToyPrior().score(Prompts("make it red"), Guidance(2.0))
    return Work(score, CsdConfig(steps=steps), particles, (4, 6))


def test_it_counts_what_it_measures() -> None:
    now = iter([0.0, 3.0, 10.0, 10.5, 20.0, 20.25])  # one long move; a picture decoded twice
    found = measure(ToyPrior(), work(100), clock=lambda: next(now))
    assert found is not None
    assert found == Estimate(particles=10, moves=100, each_s=3.0, codec_s=0.5)
    assert found.total_s == 10 * (100 * 3.0 + 0.5)


def test_moves_that_reuse_guidance_are_counted_apart() -> None:
    own, parts = work(10, 30), list[str]()

    class Split:
        schedule, target, source = own.score.schedule, own.score.target, own.score.source

        def is_guided(self, t: int) -> bool:
            return True

        def unconditional(self, x: Noised, side: Side) -> Latents:
            parts.append("unconditional")
            return x.z

        def conditional(self, x: Noised, side: Side) -> Latents:
            parts.append("conditional")
            return x.z

    now = iter([0.0, 5.0, 10.0, 13.0, 20.0, 20.25, 30.0, 30.25])  # a fresh move, one that reuses, a picture twice
    csd = replace(own.csd, guide_every=4, timesteps="descending")
    found = measure(ToyPrior(), replace(own, score=Split(), csd=csd), clock=lambda: next(now))
    assert found == Estimate(30, 10, each_s=(3 * 5.0 + 7 * 3.0) / 10, codec_s=0.5)
    fresh, reused = ["unconditional"] * 2 + ["conditional"] * 2, ["conditional"] * 2
    assert parts == [*fresh, *fresh, *reused]


def test_what_some_moves_take_besides_is_counted_as_often() -> None:
    seen = list[int]()
    asked = replace(work(100), also=lambda s: seen.append(len(s)), also_each=0.5)
    now = iter([0.0, 3.0, 10.0, 12.0, 20.0, 21.0])  # a move, what it takes besides, a decoded picture
    assert measure(ToyPrior(), asked, clock=lambda: next(now)) == Estimate(10, 100, each_s=4.0, codec_s=2.0)
    assert seen == [1]


def test_transitions_of_sampling_are_counted_up_and_down() -> None:
    asked = work(20)
    sampled = replace(asked, sampling=Sampling(asked.score, asked.score, asked.csd), pictures=4)
    now = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])  # with guidance, without, a decoded picture
    found = measure(ToyPrior(), sampled, clock=lambda: next(now))
    assert found is not None
    assert found == Estimate(10, 40, each_s=2.0, codec_s=4.0, pictures=4, unit="transitions")
    assert found.total_s == 10 * 40 * 2.0 + 4 * 4.0
    assert "10 particles x 40 transitions at 2 s each" in found.line()


def test_pictures_are_named_where_they_take_long() -> None:
    assert "pictures" not in Estimate(10, 200, 0.5, 1.0).line()
    found = Estimate(24, 20, 0.125, 2.5)
    assert found.line().endswith(
        "about 2 min: 24 particles x 20 moves at 0.12 s each, measured on one, and 24 pictures at 2.5 s"
    )


def test_frames_are_counted_alone() -> None:
    now = iter([0.0, 2.0])
    line = measure_frames(300, lambda: None, clock=lambda: next(now)).line("")
    assert line == "this takes about 10 min: 300 frames at 2 s each, measured on one"


@pytest.mark.parametrize(("together", "several", "each_s"), [(9, 4, 0.2), (2, 2, 0.4)])
def test_particles_whose_moves_are_short_are_measured_in_one_call(together: int, several: int, each_s: float) -> None:
    own, sizes = replace(work(100), together=together), list[int]()

    class Counting:
        schedule, source = own.score.schedule, own.score.source

        def target(self, x: Noised) -> Latents:
            sizes.append(len(x.z))
            return own.score.target(x)

    now = iter([0.0, 0.5, 1.0, 1.5, 2.0, 2.8, 3.0, 3.8, 10.0, 10.5, 20.0, 20.25])  # one, twice; several; a picture
    found = measure(ToyPrior(), replace(own, score=Counting()), clock=lambda: next(now))
    assert found is not None
    assert sizes == [1, 1, several, several]
    assert (found.each_s, found.measured) == (pytest.approx(each_s), several)


def test_particles_that_look_at_others_are_measured_together() -> None:
    own, sizes = work(100), list[int]()

    class Looking:
        schedule, target, source = own.score.schedule, own.score.target, own.score.source

        def for_step(self, x: Noised) -> Score:
            sizes.append(len(x.z))
            return own.score

    now = iter([0.0, 3.0, 10.0, 10.5, 20.0, 20.25])
    found = measure(ToyPrior(), replace(own, score=Looking()), clock=lambda: next(now))
    assert found == Estimate(particles=10, moves=100, each_s=3.0 / 5, codec_s=0.5, measured=5)
    assert sizes == [5]
    assert found is not None
    assert "measured on 5" in replace(found, each_s=1.0).line()


def test_short_runs_are_not_measured_and_their_noise_is_left_alone() -> None:
    assert measure(ToyPrior(), work(LEAST // 10 - 1)) is None
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert measure(ToyPrior(), work(LEAST)) is not None
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("each_s", "line"),
    [
        (0.001, ""),
        (0.5, "this takes about 17 min: 10 particles x 200 moves at 0.5 s each, measured on one"),
        (36.0, "this takes about 20.0 h: 10 particles x 200 moves at 36 s each, measured on one. OVER AN HOUR: "),
    ],
)
def test_what_is_said(each_s: float, line: str) -> None:
    said = Estimate(10, 200, each_s, 0.0).line()
    assert said.startswith(line)
    assert bool(said) == bool(line)
    assert "\n" not in said


@pytest.mark.parametrize("how", [["--by", "sampling"], ["--by", "moves"]])
def test_measuring_changes_no_bit(
    how: list[str], only_toys: OnlyToys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from csd3d.media.pictures.levels import to_levels
    from csd3d.media.pictures.write import write_picture

    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "a.png", to_levels(torch.rand(3, 40, 60)))
    words = ["image", "a.png", "--prompt", "make it red", "--steps", "2", *how]
    assert main([*words, "--output", "silent.png"]) == 0
    assert "this takes" not in capfd.readouterr().err
    monkeypatch.setattr("csd3d.runs.estimate.LEAST", 1)
    monkeypatch.setattr("csd3d.runs.estimate.LONG_S", 0.0)
    assert main([*words, "--output", "said.png"]) == 0
    assert "this takes about" in capfd.readouterr().err
    assert (tmp_path / "said.png").read_bytes() == (tmp_path / "silent.png").read_bytes()


def test_it_is_said_before_anything_is_encoded(
    only_toys: OnlyToys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from csd3d.media.pictures.levels import to_levels
    from csd3d.media.pictures.write import write_picture

    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "a.png", to_levels(torch.rand(3, 40, 60)))
    monkeypatch.setattr("csd3d.runs.estimate.LEAST", 1)
    slow = replace(Estimate(1, 2, 4000.0, 0.0))
    monkeypatch.setattr("csd3d.runs.job.measure", lambda prior, work: slow)
    words = ["image", "a.png", "--prompt", "make it red", "--steps", "2", "--run-dir", "run"]
    assert main(words) == 0
    said = capfd.readouterr().err
    assert "this takes about 2.2 h" in said
    assert said.index("OVER AN HOUR") < said.index("encode") if "encode" in said else True
    assert Manifest.read(tmp_path / "run" / "manifest.json").numbers["estimated (s)"] == 8000.0
