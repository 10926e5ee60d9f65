"""A scene edited by a modern family: an editor that sees other views as references. Needs nerfstudio."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from tests.nerf.tiny import PX, config_for, trainer_for
from tests.priors.families.tiny import write_family
from tests.priors.guards import write_control
from tests.priors.tiny import write_tiny_prior

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


def test_views_are_guarded_by_the_depth_of_their_field(scene: Path, tmp_path: Path) -> None:
    editor = write_tiny_prior(tmp_path / "editor", closed=False, stock=True)
    maker = write_tiny_prior(tmp_path / "maker", kind="text-to-image", closed=False, stock=True)
    net = write_control(maker, tmp_path / "net")
    config = config_for(
        scene, editor, tmp_path / "runs", scene_steps=2, edit_every=2, edit_steps=1, views_per_edit=3,
        max_num_iterations=3, control=("depth", str(net)),
    )  # fmt: skip
    trainer = trainer_for(config)
    guard = trainer.pipeline.current.prior.guard
    told: list[torch.Tensor] = []
    tell = guard.sees.tell
    guard.sees.tell = lambda s, near: told.append(near) or tell(s, near)
    trainer.train()
    assert [near.shape for near in told] == [(3, 1, PX, PX)]
    assert (told[0].amin(), told[0].amax()) == (0, 1)


def test_a_family_that_takes_one_picture_says_so(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prior = write_family("sdxl-ip2p", tmp_path / "editor")
    with pytest.raises(SystemExit) as end:
        trainer_for(config_for(scene, prior, tmp_path / "runs", size=64, share="anchors"))
    assert end.value.code == 2
    assert "share: expected none, SDXL InstructPix2Pix, CosXL-Edit cannot see other" in capsys.readouterr().err
