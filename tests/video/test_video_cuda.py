"""A clip edited on a GPU is that of the CPU, whatever the coupling and optimiser; so is a resumed one.

The CPU runs the same bodies; see `tests/devices.py`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from csd3d.engine.config import CsdConfig
from csd3d.runs.checkpoint import load_checkpoint
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from tests.devices import DEVICES
from tests.priors.tiny import write_tiny_prior
from video import VideoConfig, edit_video


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "editor")


def latents(run: Path) -> np.ndarray:
    return np.load(run / f"state-{load_checkpoint(run / 'state.safetensors').record['step']}-z.npy")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("coupling", "optimizer"), [("svgd", "sgd"), ("svgd", "adam"), ("motion", "sgd"), ("independent", "sgd")]
)
def test_a_clip(
    coupling: Any, optimizer: Any, device: str, prior: Path, make_clip: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    clip, _ = make_clip(frames=5, height=32, width=32)
    csd = CsdConfig(steps=2, lr=0.05, coupling=coupling, optimizer=optimizer, s_text=2.0)
    runs = {}
    for place in ("cpu", device):
        precision = "float32"
        config = VideoConfig(csd=csd, prior=str(prior), device=place, precision=precision, size=32, frames_per_step=3)
        runs[place] = tmp_path / f"run-{place}"
        if not runs[place].exists():
            edit_video(clip, "make it snowy", None, config, run_dir=runs[place], progress=RunProgress(quiet=True))
    here, there = (latents(runs[place]) for place in ("cpu", device))
    assert np.isfinite(there).all()
    assert np.abs(here - there).max() < 1e-2 * np.abs(here).max()
    assert (runs[device] / "edited.mp4").is_file()


@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_is_the_usual_one_there_and_a_run_goes_on(
    device: str, prior: Path, make_clip: Any, tmp_path: Path
) -> None:
    clip, _ = make_clip(frames=3, height=32, width=32)
    for steps in (1, 2):
        csd = CsdConfig(steps=steps, lr=0.05, s_text=2.0)
        config = VideoConfig(csd=csd, prior=str(prior), device=device, size=32)
        edit_video(
            clip, "make it snowy", None, config, run_dir=tmp_path / "run", resume=steps == 2,
            progress=RunProgress(quiet=True),
        )  # fmt: skip
    manifest = Manifest.read(tmp_path / "run" / "manifest.json")
    assert manifest.steps_done == 2
    assert ("cuda" in manifest.memory_bytes) == (device == "cuda")
    assert np.isfinite(latents(tmp_path / "run")).all()
