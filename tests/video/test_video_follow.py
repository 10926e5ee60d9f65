"""Points of a clip by features: what flow has lost, at the places of latents, and in a run that is stopped."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_video_motion import panned
from video_toys import toy_edit

from csd3d.engine.config import CsdConfig
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.rows import Rows, writing_rows
from tests.priors.tiny import write_tiny_prior
from video import VideoConfig, edit_video
from video.follow import FeatureMatches
from video.motion import ClipMotion, Move


def test_features_of_half_the_size_give_moves_of_latents(tmp_path: Path) -> None:
    wide = torch.randn(16, 4, 12, generator=torch.Generator().manual_seed(0))
    with writing_rows(tmp_path / "f.npy", 3) as append:
        append(torch.stack([wide[:, :, 4 - k : 10 - k] for k in (0, 0, 2)]).half())
    matches = FeatureMatches(Rows(tmp_path / "f.npy"), (3, 3, 9), (8, 12))
    (move, known), (back, back_known) = matches(3, 9)
    assert move.shape == (8, 12, 2)
    assert (known[:, :8] == 1).all()
    assert (move[:, :8] == torch.tensor([4.0, 0.0])).all()
    assert (back_known[:, 4:] == 1).all()
    assert (back[:, 4:] == torch.tensor([-4.0, 0.0])).all()


def test_they_count_where_flow_is_lost_within_a_shot(monkeypatch: pytest.MonkeyPatch) -> None:
    def everywhere(i: int, j: int) -> tuple[Move, Move]:
        return (torch.full((8, 12, 2), 7.0), torch.ones(8, 12)), (torch.full((8, 12, 2), -7.0), torch.ones(8, 12))

    greys = panned(4, 10, 0)
    flow, both = ClipMotion(greys, 8, [0, 0, 0, 1]), ClipMotion(greys, 8, [0, 0, 0, 1], everywhere)
    (position, sure), (got, known) = (motion(0, torch.arange(4)) for motion in (flow, both))
    lost = sure <= 0.5
    assert lost[1].any()
    assert torch.equal(got[:3][~lost[:3]], position[:3][~lost[:3]]), "flow where it is trusted"
    centres = position[0].expand(3, -1, -1, -1)
    assert torch.equal(got[:3][lost[:3]], centres[lost[:3]] + 7)
    assert (known[:3] > 0.5).all()
    assert torch.equal(known[3], sure[3]), "nothing between shots"
    monkeypatch.setattr("video.motion.FOLLOWED", 1)
    (_, far), (_, near) = (ClipMotion(greys, 8, None, way)(0, torch.arange(3)) for way in (everywhere, None))
    assert (far[2] == 1).all()
    assert (near[2] == 0).all()


def test_a_clip_is_edited_by_them_and_goes_on_with_the_same(tmp_path: Path) -> None:
    prior = TextToImagePrior.load(write_tiny_prior(tmp_path / "t2i", kind="text-to-image", closed=False), device="cpu")
    rng = np.random.default_rng(0)
    for k in range(4):
        Image.fromarray(rng.integers(0, 255, (32, 48, 3)).astype(np.uint8)).save(tmp_path / f"{k}.png")
    csd = replace(prior.defaults(), steps=2, s_text=2.0, coupling="motion")
    config = VideoConfig(csd=csd, prior=str(prior.path), source_prompt="a ball", size=32, motion="features")

    def edit(name: str, config: VideoConfig, **more: Any) -> np.ndarray:
        run = tmp_path / f"run-{name}"
        edit_video(tmp_path / "?.png", "a red ball", tmp_path / name, config, run_dir=run, prior=prior, **more)
        return np.stack([np.array(Image.open(path)) for path in sorted((tmp_path / name).glob("*.png"))])

    whole = edit("whole", config)
    assert (tmp_path / "run-whole" / "features.npy").exists()
    edit("parts", replace(config, csd=replace(csd, steps=1)))
    assert np.array_equal(edit("parts", config, resume=True), whole)
    assert not np.array_equal(edit("flow", replace(config, motion="flow")), whole)


def test_what_cannot_serve_is_refused(make_clip: Any, tmp_path: Path) -> None:
    path, _ = make_clip(frames=3)
    config = VideoConfig(csd=CsdConfig(steps=1), motion="features")
    with pytest.raises(ValueError, match="motion: expected flow where nothing is followed"):
        toy_edit(path, tmp_path / "a", config=config)
    followed = replace(config, csd=CsdConfig(steps=1, coupling="motion"))
    with pytest.raises(ValueError, match=r"motion: expected flow with a prior .*, got features"):
        toy_edit(path, tmp_path / "b", config=followed)
