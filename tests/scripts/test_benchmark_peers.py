"""A checkout's loop runs on our networks with the same random numbers as ours; what it is made of here is our own."""

from pathlib import Path

import pytest
import torch

from csd3d.runs.progress import RunProgress
from scripts import benchmark_peers
from scripts.benchmark_peers import Settings, benchmark, cases, compare, ours, published
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


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "csdedit.py").write_text(STANDS_IN)
    prior = write_tiny_prior(tmp_path / "prior")
    return Settings(
        tmp_path, tmp_path / "out", str(prior), frames=(3,), steps=2, repeats=1, size_px=64, prompt="make it snowy"
    )


def test_the_page_and_the_numbers(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    out = benchmark(settings, RunProgress(quiet=True))
    page = (out / "peers.md").read_text()
    assert "| 3 | " in page
    assert str(settings.csd) not in page + (out / "peers.json").read_text()
    assert capsys.readouterr().out == ""
    assert not (settings.csd / "__pycache__").exists()


def test_who_does_the_same_does_not_differ(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(cases(settings))
    found = compare(case, published(settings.csd))
    assert found["difference"] > 1  # it moved nothing
    monkeypatch.setattr(benchmark_peers, "theirs", lambda case, module: ours(case))
    assert compare(case, published(settings.csd))["difference"] == 0
    torch.manual_seed(1)
    moved = ours(case)
    assert not torch.equal(moved, case.s)


def test_nonsense_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"csd: expected a checkout with csdedit\.py"):
        Settings(tmp_path / "none")
    with pytest.raises(ValueError, match="frames: expected 3 or more"):
        Settings(settings.csd, frames=(2,))
    (settings.csd / "csdedit.py").write_text("import a_package_that_is_not_there")
    with pytest.raises(ValueError, match=r"cannot be imported \(ModuleNotFoundError"):
        published(settings.csd)
