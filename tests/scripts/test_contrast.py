"""The ablation of CDS: weights give its term the share of the gradient that is asked for; samples are read."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.priors.defaults import default_config
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.world.captions import without_looks
from csd3d.world.edits import describe
from csd3d.world.scene import Scene, Thing
from scripts.benchmark_objectives import Settings, make_material
from scripts.benchmarks import samples
from scripts.benchmarks.composition import NO_LOOK, SHAPES, Content, Reader, content_of
from scripts.benchmarks.contrast import SHARES, contrasts, edit_by, term_to_residual, weight_of
from scripts.benchmarks.objectives import Job, edit_all
from tests.priors.tiny import write_tiny_prior

TIMES = (300, 700)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> TextToImagePrior:
    folder = tmp_path_factory.mktemp("prior") / "t2i"
    return TextToImagePrior.load(write_tiny_prior(folder, kind="text-to-image", closed=False, sample_size=4))


@pytest.fixture(scope="module")
def job() -> Job:
    return make_material(Settings(size_px=64, quick=True).effective())


@pytest.fixture(scope="module")
def csd() -> CsdConfig:
    return replace(default_config("dds", builtin=True), steps=1)


def test_rows_vary_one_thing_each(csd: CsdConfig) -> None:
    rows = contrasts(csd)
    assert [rows[f"cds, {100 * share:g} %"].share for share in SHARES] == [*SHARES]
    assert {row.csd.nce_layers for row in rows.values()} == {"self-attention", "cross-attention", "score"}
    assert [name for name, row in rows.items() if row.swapped] == ["cds, 20 %, anchors in the source"]
    assert all(replace(row.csd, regulariser="none", nce_layers=csd.nce_layers, nce_patches=csd.nce_patches,
                       nce_patch_sizes=csd.nce_patch_sizes) == csd for row in rows.values())  # fmt: skip


@pytest.mark.parametrize("swapped", [False, True])
def test_the_weight_gives_the_share(prior: TextToImagePrior, job: Job, csd: CsdConfig, swapped: bool) -> None:
    row = replace(contrasts(csd)["cds, 50 %"], swapped=swapped)
    ratios = term_to_residual(prior, job, row, times=TIMES, seed=0)
    weight = weight_of(0.5, ratios["source"])
    assert weight * ratios["source"] == pytest.approx(1.0)
    narrow = replace(row, csd=replace(csd, regulariser="patch-nce", t_min=500, t_max=501))
    ratio = term_to_residual(prior, job, narrow, times=(500,), seed=0)["source"]
    _, share = edit_by(prior, job, narrow, weight=weight_of(0.5, ratio), seed=0)
    assert share == pytest.approx(0.5, abs=0.2)  # norms of all pictures together, of other noise; the ratio is a median


def test_rows_are_cds_at_that_weight(prior: TextToImagePrior, job: Job, csd: CsdConfig) -> None:
    rows = contrasts(csd)
    cds = replace(rows["cds, 50 %"].csd, nce_weight=7.0)
    wanted = edit_all(prior, job, cds, seed=0).rgb
    edited, _ = edit_by(prior, job, rows["cds, 50 %"], weight=7.0, seed=0)
    assert torch.equal(edited.rgb, wanted)
    swapped, _ = edit_by(prior, job, rows["cds, 20 %, anchors in the source"], weight=7.0, seed=0)
    assert not torch.equal(swapped.rgb, wanted)


def test_a_caption_without_looks_leaves_only_them_out() -> None:
    assert without_looks("a striped red ball and a tree on grass, at night") == "a ball and a tree on grass, at night"
    thing = Thing("ball", (0.0, 0.0), hat=True, colour="purple", material="striped")
    assert without_looks(describe(Scene((thing,), ground="lava"))) == "a ball with a hat on lava"


def test_samples_are_asked_for_with_and_without_the_look() -> None:
    asked = samples.asked_of(2, first=0)
    assert [a.left_open for a in asked] == [False, True, False, True]
    assert all(len(a.scene.things) == 1 for a in asked)
    assert asked[0].scene == asked[1].scene != asked[2].scene
    assert asked[1].caption == without_looks(asked[0].caption) != asked[0].caption


def test_the_reader_says_what_samples_agree_on() -> None:
    scene = Scene((Thing("ball", (0.0, 0.0), colour="red"),))
    red, ball = int(content_of([scene]).look[0, SHAPES.index("ball")]), SHAPES.index("ball")

    class Seeing(Reader):
        def read(self, rgb: Tensor) -> Content:
            present = torch.zeros(4, len(SHAPES), dtype=torch.bool)
            look = torch.full((4, len(SHAPES)), NO_LOOK)
            present[:3, ball] = True
            look[:3, ball] = torch.tensor([red, red + 1, red + 1])
            return Content(present, look, torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long))

    found = samples.read(Seeing(), torch.zeros(4, 3, 64, 64), scene)
    assert found == pytest.approx({"found": 0.75, "look": 1 / 3, "same": 2 / 3})


def test_samples_of_a_caption_are_made_and_read(prior: TextToImagePrior) -> None:
    (asked, _) = samples.asked_of(1, first=0)
    given = {"samples": 2, "size_px": 64, "seed": 0, "steps": 1}
    torch.manual_seed(0)
    record = samples.records_of(prior, asked, "csd, no repulsion", reader=Reader().eval(), **given)
    assert record["spread"] > 0
    assert 0 <= record["found"] <= 1
    assert "found" not in samples.records_of(prior, asked, "ddim", reader=None, **given)
