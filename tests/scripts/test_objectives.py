"""The benchmark of objectives: its measures mean what they say, and it runs on a tiny prior and goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from csd3d.engine.config import METHODS
from csd3d.engine.types import Batch
from csd3d.priors.defaults import default_config
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.progress import RunProgress
from csd3d.translate.config import TranslateConfig
from scripts.benchmark_objectives import Settings, benchmark, make_material
from scripts.benchmarks import samples, translation
from scripts.benchmarks.contrast import contrasts
from scripts.benchmarks.heldout import FIRST_SEED, world_source
from scripts.benchmarks.objectives import directions, edit_all, measure, methods, of_others, sharpness
from tests.priors.tiny import write_tiny_prior


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_prior(tmp_path_factory.mktemp("prior") / "t2i", kind="text-to-image", closed=False, sample_size=4)


@pytest.fixture(scope="module")
def settings(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    csd = replace(default_config("dds", builtin=True), steps=2)
    return Settings(str(folder), tmp_path_factory.mktemp("out"), csd=csd, size_px=64, quick=True)


def test_the_truth_is_right_sharp_and_keeps_the_background(settings: Settings) -> None:
    job = make_material(settings.effective())
    for record in measure(job, job.truths):
        assert record["accuracy"] == 1
        assert record["background"] < 0.002 or record["background"] != record["background"]
    assert all(r["accuracy"] == 0 and r["structure"] == 0 for r in measure(job, job.pictures))
    before, after = job.captions[0]
    assert before != after


def test_blur_is_seen_only_where_the_edit_changes_nothing() -> None:
    source = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    truth = source.clone()
    truth[..., 8:] = 0.5
    spoilt = truth.clone()
    spoilt[..., 8:] = torch.rand(1, 3, 16, 8)
    assert float(sharpness(spoilt, source, truth)) == pytest.approx(1.0)
    flat = truth.clone()
    flat[..., :8] = 0.5 + 0.5 * (flat[..., :8] - 0.5)
    assert float(sharpness(flat, source, truth)) == pytest.approx(0.5, abs=1e-5)


def test_methods_differ_in_one_thing_each() -> None:
    base = default_config("dds", builtin=True)
    rows = methods(base, (base.s_text, 7.0))
    assert rows["sds"] == replace(base, residual="noise")
    assert rows["cds"].regulariser == METHODS["cds"].regulariser
    assert {rows[k].nce_layers for k in rows if k.startswith("cds,")} == {"self-attention", "cross-attention", "score"}
    assert rows["dds, s_text 7"].s_text == 7.0
    assert len(rows) == 7


def test_directions_are_those_of_the_step(settings: Settings, folder: Path) -> None:
    prior, job = TextToImagePrior.load(folder), make_material(settings.effective())
    (found,) = directions(prior, job, s_text=2.0, times=(400,), draws=1, seed=3)
    s = prior.codec.encode(job.pictures)
    score = prior.score(Prompts([c[0] for c in job.captions]), Guidance(2.0))
    e = torch.randn(s.shape[1:], generator=torch.Generator().manual_seed(3)).expand_as(s)
    g = score.target(prior.schedule.noised(Batch(s, s, torch.arange(len(s))), 400, e)) - e
    assert found.aligned == pytest.approx(float(g.flatten(1).norm(dim=1).mean()), rel=1e-4)
    same = directions(
        prior,
        replace(job, truths=job.pictures, captions=[(a, a) for a, _ in job.captions]),
        s_text=2.0,
        times=(400,),
        draws=1,
        seed=3,
    )
    assert found.aligned_norms == pytest.approx(found.aligned)  # of one noise
    several = directions(prior, job, s_text=2.0, times=(400,), draws=3, seed=3)[0]
    assert several.aligned_norms > several.aligned
    assert several.dds_norms > several.dds
    assert same[0].dds == pytest.approx(0, abs=1e-4)
    assert same[0].cosine == pytest.approx(1, abs=1e-4)


def test_captions_that_do_not_fit_are_of_other_scenes() -> None:
    names = ["a", "b", "a", "c", "b", "a"]
    order = of_others(names)
    assert sorted(order) == list(range(6))
    assert all(names[i] != names[k] for i, k in enumerate(order))
    assert sorted(of_others(["a", "a", "b"])) == [0, 1, 2]


def test_pictures_do_not_depend_on_each_other_but_for_their_noise(settings: Settings, folder: Path) -> None:
    prior, job = TextToImagePrior.load(folder), make_material(settings.effective())
    csd = replace(settings.csd, noise="shared")
    both = edit_all(prior, job, csd, seed=0).rgb
    one = replace(job, tasks=job.tasks[:1], captions=job.captions[:1], pictures=job.pictures[:1], truths=job.truths[:1])
    torch.testing.assert_close(edit_all(prior, one, csd, seed=0).rgb, both[:1], atol=1e-4, rtol=0)


def test_it_runs_and_goes_on_with_what_is_finished(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = RunProgress(quiet=True)
    monkeypatch.setattr(samples, "WAYS", {row: samples.WAYS[row] for row in ("ddim", "csd")})
    monkeypatch.setattr("scripts.benchmark_objectives.SHARE_TIMES", (500,))
    few = {name: row for name, row in contrasts(settings.csd).items() if name.endswith(("cds, 50 %", "in the source"))}
    monkeypatch.setattr("scripts.benchmark_objectives.contrasts", lambda _: few)
    page = (benchmark(settings, quiet) / "objectives.md").read_text()
    for row in ("sds", "cds, score", "codec of the truth", "| 50 |", "| csd |", "cds, 50 %", "anchors in the source"):
        assert row in page
    assert (settings.out / "objectives.png").is_file()
    for name in ("edit_all", "edit_by", "samples.records_of", "translation.answer"):
        monkeypatch.setattr(f"scripts.benchmark_objectives.{name}", None)
    assert (benchmark(settings, quiet) / "objectives.md").read_text() == page
    only = benchmark(replace(settings, of=("contrast",)), quiet) / "objectives.md"
    assert [line for line in only.read_text().splitlines() if line.startswith("## ")] == [
        "## CDS where its term counts"
    ]


def test_lengths_of_training_rise(settings: Settings) -> None:
    with pytest.raises(ValueError, match="network_at: expected rising, below network_steps"):
        replace(settings, network_steps=100, network_at=(50, 200))


def test_networks_are_examined_where_their_captions_are_true() -> None:
    sources = [world_source(FIRST_SEED + i, 64) for i in range(4)]
    exam = translation.examination(sources)
    assert {t.edit.name for t in exam.tasks} == {"night", "snow"}
    for task, (before, after) in zip(exam.tasks, exam.captions, strict=True):
        assert after.replace(", at night", "").replace(", in snow", "") == before != after
        assert task.source in sources
    pictures, captions = translation.pupils(FIRST_SEED, 4, 64)
    assert len(pictures) == len(captions) > 0
    assert all("," not in caption for caption in captions)


def test_variety_is_that_of_the_truths_or_none() -> None:
    exam = translation.examination([world_source(FIRST_SEED + i, 64) for i in range(4)])
    assert translation.variety(exam, exam.truths) == pytest.approx(1)
    night = [t.edit.name == "night" for t in exam.tasks]
    collapsed = torch.stack([exam.truths[0] if dark else exam.truths[-1] for dark in night])
    assert translation.variety(exam, collapsed) == pytest.approx(0, abs=1e-4)


def test_a_network_learns_answers_and_goes_on(settings: Settings, folder: Path, tmp_path: Path) -> None:
    prior = TextToImagePrior.load(folder)
    exam = translation.examination([world_source(FIRST_SEED, 64)])
    tasks = {"night": "night {}", "snow": "snow {}"}  # the tiny text encoder reads but the beginning
    config = TranslateConfig(tasks=tasks, csd=settings.csd, steps=2, batch=2, lr=1e-2)
    pictures, captions = translation.pupils(FIRST_SEED, 2, 64)
    given = (prior, config, pictures, captions)
    trained = translation.Pupil(*given, tmp_path / "network").after(2, RunProgress(quiet=True))
    answers = translation.answer(trained, exam)
    assert answers.rgb.shape == exam.pictures.shape
    assert bool(trained.network.unet.conv_out.weight.abs().max() > 0)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    assert set(translation.ablations(config)) == {"network", "network, no warm-up", "network, SDS"}
    translation.Pupil(*given, tmp_path / "stopped").after(1, RunProgress(quiet=True))
    again = translation.Pupil(*given, tmp_path / "stopped")
    went_on = again.after(2, RunProgress(quiet=True)).network.state_dict()
    assert all(torch.equal(x, went_on[name]) for name, x in trained.network.state_dict().items())
    with pytest.raises(ValueError, match="steps: expected 2 or more, which are done, got 1"):
        again.after(1, RunProgress(quiet=True))
