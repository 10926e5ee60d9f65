"""A scene edited by a modern family: an editor that sees other views as references. Needs nerfstudio."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from tests.nerf.tiny import config_for, trainer_for
from tests.priors.families.tiny import write_family

pytestmark = pytest.mark.slow


def test_views_are_edited_by_a_family_that_sees_anchors(scene: Path, tmp_path: Path) -> None:
    klein = write_family("klein", tmp_path / "klein")
    config = config_for(
        scene, klein, tmp_path / "runs", size=64, scene_steps=2, edit_every=2, edit_steps=1, views_per_edit=3,
        max_num_iterations=4, share="anchors",
    )  # fmt: skip
    trainer = trainer_for(config)
    data, prior = trainer.pipeline.datamanager, trainer.pipeline.current.prior
    seen: list[int] = []
    record = prior.conditions._record
    prior.conditions._record = lambda *args: seen.append(len(args[3])) or record(*args)
    before = data.photographs.clone()
    trainer.train()
    assert trainer.step == 3
    assert torch.isfinite(data._images).all()
    assert (data._images.movedim(-1, 1) - before).abs().max() > 1e-3
    assert 3 in seen, "a view's own picture and two others"


def test_a_family_that_takes_one_picture_says_so(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prior = write_family("sdxl-ip2p", tmp_path / "editor")
    with pytest.raises(SystemExit) as end:
        trainer_for(config_for(scene, prior, tmp_path / "runs", size=64, share="anchors"))
    assert end.value.code == 2
    assert "share: expected none, SDXL InstructPix2Pix, CosXL-Edit cannot see other" in capsys.readouterr().err
