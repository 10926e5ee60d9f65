"""Anchors as references: who sees whom, what is recorded of it how often, and who cannot."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from csd3d.attention.presets import Attention
from csd3d.cli.main import main
from csd3d.engine.config import CsdConfig
from csd3d.engine.residuals import StepScore
from csd3d.engine.types import Batch, Noised
from csd3d.media.clip.source import open_clip
from csd3d.priors.families.conditions import Conditions
from csd3d.priors.families.prior import FamilyPrior
from csd3d.priors.prior import Prompts

Load = Callable[[str], FamilyPrior]
PROMPTS = Prompts("make it snowy")
SHARED = Attention("anchors")


def noised(prior: FamilyPrior, n: int, anchors: list[int] | None = None, *, t: int = 300) -> Noised:
    s = prior.encode(torch.rand(n, 3, 64, 64))
    batch = Batch(s, s, torch.arange(n), anchors=None if anchors is None else torch.tensor(anchors))
    return prior.schedule.noised(batch, t, torch.randn(s.shape))


def sharing(prior: FamilyPrior) -> StepScore:
    score = prior.score_under(prior.defaults(), PROMPTS, SHARED)
    assert isinstance(score, StepScore)
    return score


@pytest.mark.parametrize("name", ["klein", "qwen-plus"])
def test_particles_see_the_anchors_and_nobody_else(name: str, family: Load) -> None:
    prior = family(name)
    x = noised(prior, 4, anchors=[0, 2])
    score = sharing(prior)
    step = score.for_step(x)
    target, source = step.target(x), step.source(x)
    for i in range(4):  # alone as in company
        torch.testing.assert_close(step.target(x.rows([i])), target[i : i + 1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(step.source(x.rows([i])), source[i : i + 1], atol=1e-5, rtol=1e-5)

    def changed(k: int) -> list[bool]:
        """Whose prediction is another where the source of particle `k` is."""
        s = x.s.clone()
        s[k] = prior.encode(torch.rand(1, 3, 64, 64))[0]
        other = replace(x, s=s)
        now = score.for_step(other).target(other)
        return [not torch.allclose(a, b, atol=1e-5) for a, b in zip(now, target, strict=True)]

    assert changed(2) == [True] * 4
    assert changed(3) == [False, False, False, True]


def test_no_edit_is_no_residual_and_a_single_particle_has_no_references(family: Load) -> None:
    prior = family("klein")
    x = noised(prior, 3)
    score = prior.score_under(prior.defaults(), Prompts(""), SHARED)
    assert isinstance(score, StepScore)
    step = score.for_step(x)
    assert torch.equal(step.target(x), step.source(x))
    assert not torch.equal(step.source(x), prior.score_under(prior.defaults(), Prompts("")).source(x))
    one = noised(prior, 1)
    assert torch.equal(sharing(prior).target(one), prior.score_under(prior.defaults(), PROMPTS).target(one))


@pytest.mark.parametrize(("name", "times"), [("klein", 2), ("qwen-plus", 5)])
def test_what_is_shown_is_recorded_once(name: str, times: int, family: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    own, seen = Conditions._record, []

    def watch(self: Conditions, sentence: str, negative: str, like: Any, pictures: Any) -> Any:
        seen.append(len(pictures))
        return own(self, sentence, negative, like, pictures)

    monkeypatch.setattr(Conditions, "_record", watch)
    prior = family(name)
    prior.conditions._known.clear()
    x = noised(prior, 5)
    score = sharing(prior)
    for t in (200, 400):
        step = score.for_step(replace(x, t=t))
        step.target(replace(x, t=t))
        step.source(replace(x, t=t))
    assert sorted(n for n in seen if n) == [4] * (times - 1) + [5], "four anchors see three others and their source"


@pytest.mark.parametrize("name", ["kontext", "qwen-edit", "sdxl"])
def test_who_cannot_see_several_pictures_says_so(name: str, family: Load) -> None:
    prior = family(name)
    with pytest.raises(ValueError, match=r"share: expected none, .* cannot see other particles, got 'anchors'"):
        prior.score_under(CsdConfig(residual="noise"), PROMPTS, SHARED)


def test_what_is_asked_beside_it_is_still_refused(family: Load) -> None:
    with pytest.raises(ValueError, match="attention: expected a prior of Stable Diffusion's kind"):
        family("klein").score_under(CsdConfig(), PROMPTS, Attention.of("anchors", ("pnp",)))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["moves", "sampling"])
def test_a_clip_is_edited_with_anchors_and_the_run_goes_on(
    by: str, make_clip: Callable[..., tuple[Path, torch.Tensor]], tmp_path: Path, family_path: Callable[[str], Path]
) -> None:
    clip, _ = make_clip(frames=5, height=64, width=64)
    words = ["video", str(clip), "--prompt", "make it snowy", "--prior", str(family_path("klein")), "--size", "64"]
    words += ["--device", "cpu", "--codec", "ffv1", "--by", by, "--frames-per-step", "3", "--lr", "20"]
    for name, more in (("whole", ["--share", "anchors"]), ("alone", [])):
        out = ["--run-dir", str(tmp_path / name), "--output", str(tmp_path / f"{name}.mkv"), "--steps", "2"]
        assert main([*words, *more, *out]) == 0

    def frames(name: str) -> torch.Tensor:
        with open_clip(tmp_path / f"{name}.mkv") as opened:
            return opened.read(0, opened.info.frames)

    assert not torch.equal(frames("whole"), frames("alone"))
    assert json.loads((tmp_path / "whole" / "manifest.json").read_text())["config"]["share"] == "anchors"
    if by == "moves":
        out = ["--run-dir", str(tmp_path / "first"), "--output", str(tmp_path / "first.mkv"), "--steps", "1"]
        assert main([*words, "--share", "anchors", *out]) == 0
        assert main(["video", "--resume", "--run-dir", str(tmp_path / "first"), "--steps", "2"]) == 0
        assert torch.equal(frames("whole"), frames("first"))
