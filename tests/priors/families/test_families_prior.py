"""A pipeline as a prior: what the engine asks of it, what is recorded how often, and what is refused."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from csd3d.cli.main import main
from csd3d.engine import reusing
from csd3d.engine.config import CsdConfig
from csd3d.engine.reuse import ReusingScore
from csd3d.engine.types import Batch, Noised
from csd3d.priors.auto import load_prior
from csd3d.priors.families import load
from csd3d.priors.families.conditions import Conditions
from csd3d.priors.families.prior import FamilyEditor, FamilyPrior, FamilyTextToImage
from csd3d.priors.families.table import FAMILIES
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.priors.store.fingerprint import prior_fingerprint
from csd3d.priors.store.index import pipeline_of
from csd3d.priors.store.resolve import check_directory, resolve
from tests.priors.families.tiny import CLIPS
from tests.priors.families.tiny import FAMILIES as TINY

Write = Callable[[str], Path]
Load = Callable[[str], FamilyPrior]
MAKERS = ["sdxl", "sd3", "flux", "qwen-image", "z-image", "pixart", "pixart-alpha", "sana"]
EDITORS = [name for name in TINY if name not in MAKERS]


def noised(prior: Prior, n: int = 2, t: int = 300) -> Noised:
    s = prior.encode(torch.rand(n, 3, 64, 64))
    return prior.schedule.noised(Batch(s, s, torch.arange(n)), t, torch.randn(s.shape))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sentences of the recordings that are made from now on."""
    own, seen = Conditions._record, []

    def watch(self: Conditions, sentence: str, *args: Any, **more: Any) -> Any:
        seen.append(sentence)
        return own(self, sentence, *args, **more)

    monkeypatch.setattr(Conditions, "_record", watch)
    return seen


@pytest.mark.parametrize("name", EDITORS)
def test_nothing_is_wanted_where_nothing_is_asked_for(name: str, family: Load) -> None:
    prior = family(name)
    x = noised(prior)
    score = prior.score(Prompts(""), Guidance(4.0, 1.5))
    assert torch.equal(score.target(x), score.source(x))
    score = prior.score(Prompts(["", "make it snowy"]), Guidance(4.0, 1.5))
    r = score.target(x) - score.source(x)
    assert (r[0].abs() <= 2e-6 * x.z_t.abs().max()).all()
    assert r[1].abs().max() > 1e-5


@pytest.mark.parametrize("name", EDITORS)
def test_pictures_of_every_size_that_it_takes_are_edited(name: str, family: Load) -> None:
    prior = family(name)
    s = prior.encode(torch.rand(1, 3, 64, 64 + prior.multiple_px))
    x = prior.schedule.noised(Batch(s, s, torch.arange(1)), 300, torch.randn(s.shape))
    assert prior.score(Prompts("make it snowy"), Guidance(2.0, 1.5)).target(x).isfinite().all()


@pytest.mark.parametrize("name", MAKERS)
def test_a_caption_that_stays_changes_nothing(name: str, family: Load) -> None:
    prior = family(name)
    assert isinstance(prior, FamilyTextToImage)
    x = noised(prior)
    score = prior.score(Prompts("a dog", "a dog"), Guidance(4.0))
    assert torch.equal(score.target(x), score.source(x))
    assert not torch.equal(prior.score(Prompts("a cat", "a dog"), Guidance(4.0)).target(x), score.source(x))
    with pytest.raises(ValueError, match="source-prompt: expected what the source shows"):
        prior.require(CsdConfig(), Prompts("a cat"))


@pytest.mark.parametrize("name", ["klein", "dreamlite", "sdxl-ip2p"])
def test_particles_do_not_depend_on_their_company(name: str, family: Load) -> None:
    prior = family(name)
    x = noised(prior, 3)
    score = prior.score(Prompts(["make it snowy", "paint the ball red", "make it night"]), Guidance(3.0, 1.5))
    together = score.target(x)
    for i in range(3):
        torch.testing.assert_close(score.target(x.rows([i])), together[i : i + 1], atol=1e-5, rtol=1e-5)


def test_an_editor_that_reads_latents_alone_is_recorded_once_a_sentence(family: Load, recorded: list[str]) -> None:
    prior = family("klein")
    assert not prior.looks_at_pictures
    score = prior.score(Prompts("give the house a red roof"), Guidance(3.0, 1.5))
    for t in (200, 300):
        x = noised(prior, 3, t)
        for predict in (score.target, score.source):
            predict(x)
    assert recorded.count("give the house a red roof") == 1
    assert len(recorded) <= 2  # and once without a picture, for branch 00


def test_an_editor_that_looks_is_recorded_once_a_source_and_sees_the_real_picture(
    family: Load, recorded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = family("dreamlite")
    assert prior.looks_at_pictures
    monkeypatch.setattr(prior.codec, "decode", None)  # is not asked for
    x = noised(prior, 2)
    score = prior.score(Prompts("make it blue"), Guidance(3.0, 1.5))
    for predict in (score.target, score.source, score.target):
        predict(x)
    assert recorded == ["make it blue"] * 2


def test_latents_that_no_picture_is_known_of_are_decoded(family: Load) -> None:
    prior = family("dreamlite")
    x = noised(prior, 1)
    other = Noised(x.z + 0.01, x.s + 0.01, x.index, x.e, x.t, x.z_t, x.s_t)
    assert prior.score(Prompts("make it blue"), Guidance(3.0)).target(other).isfinite().all()


def test_conditions_are_bounded(family: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = family("kontext")
    x = noised(prior, 1)
    monkeypatch.setattr("csd3d.priors.families.conditions.KEPT_BYTES", 1)
    for sentence in ("one", "two", "three"):
        prior.score(Prompts(sentence), Guidance(2.0)).target(x)
        assert len(prior.conditions._known) == 1


def test_scales_without_a_meaning_are_noted_once(family_path: Write) -> None:
    prior = load_prior(family_path("klein-distilled"), device="cpu")
    assert isinstance(prior, FamilyEditor)
    for _ in range(2):
        prior.score(Prompts("make it snowy"), Guidance(4.0, 1.5))
    assert prior.notes == [
        "FLUX.2 [klein]: s_text does nothing, it is distilled and predicts without guidance",
        "FLUX.2 [klein]: s_image does nothing, it cannot predict without the picture",
    ]
    full = load_prior(family_path("klein"), device="cpu")
    full.score(Prompts("make it snowy"), Guidance(4.0, 1.5))
    assert full.notes == []


def test_what_it_cannot_serve_is_refused_in_one_line(family: Load) -> None:
    prior = family("klein")
    with pytest.raises(ValueError, match=r"negative-prompt: expected none, which FLUX.2 \[klein\] takes, got 'rain'"):
        prior.require(CsdConfig(), Prompts("make it snowy", negative="rain"))
    with pytest.raises(ValueError, match="regulariser: expected none"):
        prior.require(CsdConfig(regulariser="patch-nce"), Prompts("make it snowy"))
    with pytest.raises(ValueError, match="source-prompt: expected none"):
        prior.score(Prompts("make it snowy", "a dog"), Guidance(2.0))
    with pytest.raises(ValueError, match="multiples of 4 px, got 66x64"):
        prior.encode(torch.rand(1, 3, 64, 66))


def test_a_negative_prompt_is_what_guidance_leads_away_from(family: Load) -> None:
    prior = family("sdxl-ip2p")
    x = noised(prior, 1)
    plain, other = (prior.score(Prompts("make it snowy", negative=n), Guidance(3.0, 1.5)) for n in ("", "rain"))
    assert not torch.equal(plain.source(x), other.source(x))


@pytest.mark.parametrize("name", ["sdxl-ip2p", "sd3"])
def test_guidance_counts_in_an_interval(family: Load, name: str) -> None:
    prior = family(name)
    prompts = Prompts("make it snowy", "a dog" if prior.kind == "text-to-image" else None)
    always = prior.score(prompts, Guidance(3.0, 1.5))
    score, plain = (prior.score(prompts, g) for g in (Guidance(3.0, 1.5, t_min=400), Guidance(1.0)))
    x = noised(prior, 1)
    for t, other in ((399, plain), (400, always)):
        at = replace(x, t=t)
        assert torch.equal(score.target(at), other.target(at))
        assert torch.equal(score.source(at), other.source(at))


@pytest.mark.parametrize(
    ("name", "prompts"), [("sdxl-ip2p", Prompts(["", "make it snowy"])), ("sd3", Prompts("a cat", "a dog"))]
)
def test_what_guided_families_predict_without_a_condition_is_reused(name: str, prompts: Prompts, family: Load) -> None:
    prior = family(name)
    x = noised(prior)
    csd = CsdConfig(guide_every=2, timesteps="descending", s_text=4.0, s_image=1.5)
    whole = prior.score(prompts, Guidance.of(csd))
    score = reusing(prior.score_under(csd, prompts), csd)
    assert isinstance(score, ReusingScore)
    expected = whole.target(x) - whole.source(x)
    rows = list[int]()
    for _ in range(2):
        before, step = prior.rows_done, score.for_step(x)
        r = step.target(x) - step.source(x)
        rows.append(prior.rows_done - before)
        torch.testing.assert_close(r, expected, atol=1e-4, rtol=1e-3)
    assert rows[0] - rows[1] == 2 * len(x.z)


@pytest.mark.parametrize("name", ["klein-distilled", "qwen-edit"])
def test_reuse_is_refused_where_nothing_is_predicted_without_a_condition(name: str, family: Load) -> None:
    csd = CsdConfig(guide_every=2, timesteps="descending", s_text=4.0, s_image=1.5)
    prior = family(name)
    with pytest.raises(ValueError, match="guide-every: expected 1 with controlled attention, and for priors without"):
        prior.score_under(csd, Prompts("make it snowy"))


def test_files_say_which_loader_serves_them(family_path: Write, tiny: Path) -> None:
    assert isinstance(load_prior(family_path("kontext"), device="cpu"), FamilyEditor)
    assert check_directory(family_path("sd3")) == "text-to-image"
    assert resolve(family_path("kontext")).family is FAMILIES["FluxKontextPipeline"]
    assert resolve(tiny).family is None


def test_settings_suit_the_family(family: Load) -> None:
    csd = family("klein").defaults()
    assert (csd.s_text, csd.s_image, csd.t_max) == (4.0, 1.0, 500)
    assert family("sd3").defaults("dds").s_text == 7.0


def test_a_model_that_says_it_is_distilled_has_no_guidance(
    family: Load, family_path: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    prior = family("klein-distilled")
    assert prior.family.branches == ("IT",)
    assert (prior.defaults().s_text, prior.defaults().s_image) == (1.0, 1.0)
    for name, rows, moved in (("klein", "IT I0", 3), ("klein-distilled", "IT", 2)):
        assert main(["priors", "show", str(family_path(name))]) == 0
        out = capsys.readouterr().out
        assert f"family: FLUX.2 [klein], rows {rows}\n" in out
        assert f"moves x {moved} rows: " in out


def test_every_row_of_the_table_has_a_tiny_pipeline(family_path: Write) -> None:
    assert {pipeline_of(family_path(name)) for name in [*TINY, *CLIPS]} == set(FAMILIES)


def test_a_row_that_does_not_fit_is_refused(family_path: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(FAMILIES["DreamLitePipeline"], branches=("IT", "I0", "00"))
    monkeypatch.setattr("csd3d.priors.store.resolve.FAMILIES", {**FAMILIES, "DreamLitePipeline": wrong})
    with pytest.raises(ValueError, match=r"DreamLitePipeline: a replay of its network is off by .* cannot serve"):
        load_prior(family_path("dreamlite"), device="cpu")


def test_every_part_counts_in_the_fingerprint(family_path: Write, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(family_path("kontext"), copy)
    before = prior_fingerprint(copy)
    assert before == prior_fingerprint(family_path("kontext"))
    config = copy / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"mine": 1}))
    assert prior_fingerprint(copy) != before


def test_half_precision_predicts_about_the_same(family_path: Write, family: Load) -> None:
    half = load.load_family(family_path("kontext"), device="cpu", dtype=torch.bfloat16)
    x = noised(half, 1)
    a, b = (p.score(Prompts("make it snowy"), Guidance(2.0, 1.5)).target(x) for p in (half, family("kontext")))
    assert a.dtype == torch.float32
    assert (a - b).abs().max() < 0.1 * b.abs().max()


def test_an_autoencoder_that_overflows_in_float16_is_kept_in_float32(family_path: Write, family: Load) -> None:
    path = family_path("sdxl-ip2p")
    row = FAMILIES["StableDiffusionXLInstructPix2PixPipeline"]
    pipe = load.read_pipeline(path, row, dtype=torch.float16)
    half = load.make_prior(pipe, row, resolve(path), device=torch.device("cpu"))
    rgb = torch.rand(1, 3, 64, 64)
    assert pipe.vae.dtype == pipe.unet.dtype == torch.float16
    torch.testing.assert_close(half.encode(rgb), family("sdxl-ip2p").encode(rgb), atol=2e-3, rtol=2e-2)
    assert half.codec._vae.dtype == torch.float32


def test_precision_on_cuda_is_that_of_the_family() -> None:
    halves = {name for name, row in FAMILIES.items() if row.half == "float16"}
    assert halves == {"StableDiffusionXLInstructPix2PixPipeline", "StableDiffusionXLPipeline"}


@pytest.mark.parametrize("name", ["klein", "kontext", "sdxl", "sd3"])
def test_families_that_look_at_no_picture_load_without_torchvision(
    name: str, family_path: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(family_path(name), tmp_path / "copy")
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it were not installed
    assert load.load_family(copy, device="cpu").family.needs == ()
