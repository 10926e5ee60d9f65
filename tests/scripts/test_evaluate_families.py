"""Families are judged by exact truth: any member is right, the source and other edits are not."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from csd3d.metrics import psnr
from csd3d.runs.progress import RunProgress
from csd3d.world.families import all_families
from scripts import evaluate_families
from scripts.benchmarks.heldout import FIRST_SEED, world_source
from scripts.evaluate_families import Answers, Case, Settings, answers_of, group_of, row_of, sentence_of, to_markdown
from tests.priors.tiny import write_tiny_prior


@pytest.fixture(scope="module")
def case() -> Case:
    """A picture with more than one sky to choose from."""
    family = next(f for f in all_families() if f.name == "any sky")
    for seed in range(FIRST_SEED, FIRST_SEED + 20):
        source = world_source(seed, 64, variants=True)
        members = tuple(e for e in source.edits if e in family.members)
        if len(members) >= 3:
            return Case(family, source, members)
    raise AssertionError("expected a sky among twenty pictures")


def test_every_member_is_right_and_nothing_else(case: Case) -> None:
    other = next(e for e in case.source.edits if e.kind == "time")
    outputs = torch.cat([case.truths, case.source.picture[None], case.source.truth(other)[None]])
    answers = answers_of(case, outputs)
    m = len(case.members)
    assert answers.right == [True] * m + [False, False]
    assert answers.chosen[:m] == list(range(m))
    assert answers.windows[:m] == [1.0] * m
    assert min(answers.psnr[:m]) == psnr(outputs[:1], outputs[:1]).item()
    assert answers.held_out == [True] + [False] * (m + 1)


def test_half_a_picture_of_each_member_is_seen(case: Case) -> None:
    mixed = case.truths[0].clone()
    mixed[:, :, 32:] = case.truths[1][:, :, 32:]
    assert answers_of(case, mixed[None]).windows[0] < 0.8


def test_the_held_out_wording_comes_first_then_the_trained_ones() -> None:
    family = all_families()[0]
    said = [sentence_of(family, i) for i in range(len(family.wordings) + 1)]
    assert said[0] == family.held_out
    assert said[1:-1] == list(family.trained)
    assert said[-1] == family.held_out


def test_the_page_groups_families_of_a_thing(case: Case) -> None:
    a = Answers(
        "any colour ball", "colour", "s", ["x", "y"], [True, True], [True, False], [0, 1], [1.0, 0.5], [30.0, 20.0]
    )
    b = Answers(
        "any colour cube", "colour", "s", ["x", "y"], [False, True], [True, False], [0, 0], [1.0, 1.0], [30.0, 20.0]
    )
    assert group_of(a.family) == group_of(b.family) == "any colour"
    assert row_of("all", [a, b]) == ["all", "4", "75", "50", "2.0", "1.5", "0.75", "0.75", "0.88", "25.0"]
    about: dict[str, object] = {"prior": "p", "weights": "w", "command": "c", "minutes": 1.0}
    page = to_markdown([a, b], about | dict.fromkeys(("steps", "s_text", "s_image", "size_px", "seed"), 1))
    assert page.count("| any colour |") == 1


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"size_px": 60}])
def test_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"expected (1 or more|a multiple of 8)"):
        Settings(**wrong)  # pyright: ignore[reportArgumentType]


def test_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_families, "SOURCES_TRIED", 1)
    prior = write_tiny_prior(tmp_path / "tiny", closed=False)
    settings = Settings(prior=str(prior), out=tmp_path / "out", seeds=2, steps=1, size_px=64, device="cpu", quick=True)
    assert evaluate_families.evaluate(settings, RunProgress(quiet=True)) == tmp_path / "out"
    found = json.loads((tmp_path / "out" / "families.json").read_text())
    assert found["answers"]
    assert all(len(a["right"]) == len(a["chosen"]) == 2 <= len(a["members"]) for a in found["answers"])
    assert "| all |" in (tmp_path / "out" / "families.md").read_text()
    assert Image.open(tmp_path / "out" / "families.png").width > 3 * 64


def test_a_prior_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate_families.main(Settings(prior=str(tmp_path / "none"), device="cpu")) == 2
    assert "there is no such directory" in capsys.readouterr().err
