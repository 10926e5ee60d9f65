"""A checkout's loop runs on our networks with the same random numbers as ours; what it is made of here is our own."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from csd3d.engine.regularisers import patch_nce
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.progress import RunProgress
from scripts.benchmark_peers import Settings, benchmark, cases, compare
from scripts.benchmarks import peers_cds
from scripts.benchmarks.peers_csd import published
from tests.priors.tiny import write_tiny_prior

pytestmark = pytest.mark.slow

STANDS_IN = '''
"""A loop of the shape of the published one, which moves nothing."""
import torch


class CSDEdit(torch.nn.Module):
    def __init__(self, opt):
        raise AssertionError("it would load its own networks")

    def edit_video(self, video, guidance_scale, image_guidance_scale):
        texts = self.pipe._encode_prompt([self.opt.tgt_prompt] * len(video), device=self.device)
        z = self.encode_latents(video)
        for _ in range(self.opt.num_steps):
            t = torch.randint(self.opt.min_step, self.opt.max_step + 1, [1])
            noisy = self.scheduler.add_noise(z, torch.randn_like(z), t)
            assert len(texts) == 3 * len(noisy)
        self.decode_latents(z)
'''

CDS_STANDS_IN = """
import numpy as np
import torch
from utils.loss import step_of


class CDSPipeline:
    def __call__(self, prompt, trg_prompt, num_inference_steps):
        self.check_inputs(prompt)
        source, target = self._encode_prompt(prompt, trg_prompt)
        assert source.shape == target.shape and source.shape[:2] == (1, 2)
        z = self.prepare_latents(1)
        for _ in range(num_inference_steps):
            t = torch.randint(50, 949, (1,))
            z = z - step_of(self.scheduler.add_noise(z, torch.randn_like(z), t))
            self.unet.requires_grad_(True)
        self.decode_latents(z)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "csdedit.py").write_text(STANDS_IN)
    prior = write_tiny_prior(tmp_path / "prior")
    return Settings(
        tmp_path, out=tmp_path / "out", prior=str(prior), frames=(3,), steps=2, repeats=1, size_px=64,
    )  # fmt: skip


@pytest.fixture
def of_cds(tmp_path: Path) -> Settings:
    folder = tmp_path / "cds"
    (folder / "utils").mkdir(parents=True)
    (folder / "utils" / "loss.py").write_text("def step_of(noisy):\n    return 0 * noisy\n")
    (folder / "pipeline_cds.py").write_text(CDS_STANDS_IN)
    prior = write_tiny_prior(tmp_path / "captioned", kind="text-to-image", closed=False)
    return Settings(
        cds=folder, out=tmp_path / "out", captioned=str(prior), steps=2, repeats=1, size_px=64,
        captions=("a red cube", "a blue ball"),
    )  # fmt: skip


def test_the_page_and_the_numbers(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    out = benchmark(settings, RunProgress(quiet=True))
    page = (out / "peers.md").read_text()
    assert "| CSD | 3 | " in page
    assert "CDS" not in page
    assert str(settings.csd) not in page + (out / "peers.json").read_text()
    assert capsys.readouterr().out == ""
    assert not (settings.csd or out).joinpath("__pycache__").exists()


def test_both_papers(settings: Settings, of_cds: Settings) -> None:
    both = replace(of_cds, csd=settings.csd, prior=settings.prior, frames=(3,))
    page = (benchmark(both, RunProgress(quiet=True)) / "peers.md").read_text()
    assert "| CDS | 1 | " in page
    assert "| CSD | 3 | " in page
    assert "utils" not in sys.modules
    assert of_cds.cds is not None
    assert not list(of_cds.cds.rglob("__pycache__"))


def test_who_does_the_same_does_not_differ(settings: Settings) -> None:
    case, device = next(cases(settings)), torch.device("cpu")
    assert compare(case, settings, device)["difference"] > 1  # it moved nothing
    assert compare(replace(case, theirs=case.ours), settings, device)["difference"] == 0
    torch.manual_seed(1)
    assert not torch.equal(case.ours(), case.s)


def test_the_transposed_term_is_one_and_its_networks_are_a_copy(of_cds: Settings) -> None:
    case, prior = next(cases(of_cds)), TextToImagePrior.load(of_cds.captioned, device="cpu")
    case.theirs()
    assert not any(p.requires_grad for p in prior.denoiser._unet.parameters())
    assert case.otherwise is not None
    ends: list[torch.Tensor] = []
    for run in (case.ours, case.otherwise):
        torch.manual_seed(0)
        ends.append(run())
    assert not torch.equal(*ends)


def test_transposed_swaps_the_places(of_cds: Settings) -> None:
    """Of one map, by hand."""
    q, p = (torch.randn(1, 6, 2, 2, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    csd = replace(peers_cds.settings((8, 8)), nce_patch_sizes=(1,))
    prior = TextToImagePrior.load(of_cds.captioned, device="cpu")
    score = prior.score(Prompts("a red cube", source="a red cube"), Guidance(1.0))
    loss = peers_cds.Transposed(score, csd)._loss([q], [p])
    places = torch.arange(4)
    torch.testing.assert_close(loss, patch_nce(p, q, places, temperature=csd.nce_temperature).sum())


def test_nonsense_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"csd: expected a checkout with csdedit\.py"):
        Settings(tmp_path / "none")
    with pytest.raises(ValueError, match=r"cds: expected a checkout with pipeline_cds\.py"):
        Settings(settings.csd, tmp_path / "none")
    with pytest.raises(ValueError, match="expected a checkout, of CSD or with --cds of CDS, got none"):
        Settings()
    with pytest.raises(ValueError, match="frames: expected 3 or more"):
        Settings(settings.csd, frames=(2,))
    (settings.csd or tmp_path).joinpath("csdedit.py").write_text("import a_package_that_is_not_there")
    with pytest.raises(ValueError, match=r"cannot be imported \(ModuleNotFoundError"):
        published(settings.csd or tmp_path)
