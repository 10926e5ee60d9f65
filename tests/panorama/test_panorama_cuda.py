"""Pictures edited and made on a GPU are those of the CPU, which runs the same bodies; see `tests/devices.py`."""

from pathlib import Path

import pytest
import torch
from panorama_toys import save, scenery

from csd3d.engine.config import CsdConfig
from csd3d.runs.checkpoint import load_checkpoint
from csd3d.runs.progress import RunProgress
from panorama import PanoramaConfig, edit_image, edit_panorama
from tests.devices import CUDA
from tests.priors.tiny import write_tiny_prior


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "editor")


@pytest.mark.parametrize(
    ("shape", "device"),
    [("strip", "cpu"), *(pytest.param(shape, "cuda", marks=CUDA) for shape in ("image", "strip", "sphere"))],
)
def test_a_picture(shape: str, device: str, prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    picture = save(tmp_path / "a.png", scenery(64, 128))
    edit = edit_image if shape == "image" else edit_panorama
    canvases = {}
    for place in ("cpu", device):
        config = PanoramaConfig(
            csd=CsdConfig(steps=2, lr=0.05, s_text=2.0), prior=str(prior), device=place, precision="float32",
            window=None if shape == "image" else 4, windows_per_step=4, settle_every=1,
            wrap="sphere" if shape == "sphere" else "none",
        )  # fmt: skip
        run = tmp_path / f"run-{place}"
        if not run.exists():
            edit(picture, "make it snowy", None, config, run_dir=run, progress=RunProgress(quiet=True))
        canvases[place] = load_checkpoint(run / "state.safetensors").tensors["particles.z"]
    here, there = canvases["cpu"], canvases[device]
    assert there.isfinite().all()
    assert (here - there).abs().max() < 1e-2 * here.abs().max()
