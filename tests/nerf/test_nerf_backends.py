"""What backends remember between two starts. Needs nerfstudio."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from csd3d.nerf.backends import EditedNerfacto, EditedSplats
from csd3d.nerf.checkpoints import plain

pytestmark = pytest.mark.slow


def splats(**state: object) -> Any:  # the state of a model that needs CUDA to be made
    return SimpleNamespace(strategy_state=state, gauss_params={"means": torch.zeros(3, 3)})


def test_splats_go_on_with_what_splitting_them_depends_on(tmp_path):
    one = splats(grad2d=torch.rand(3), count=torch.arange(3.0), radii=None, scene_scale=1.0)
    torch.save(plain(EditedSplats.training_state(one)), tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    other = splats(grad2d=None, count=None, radii=None, scene_scale=1.0)
    EditedSplats.restore_training(other, saved)
    assert torch.equal(other.strategy_state["grad2d"], one.strategy_state["grad2d"])
    assert torch.equal(other.strategy_state["count"], one.strategy_state["count"])
    assert (other.strategy_state["radii"], other.strategy_state["scene_scale"]) == (None, 1.0)
    EditedSplats.restore_training(other, {})  # a checkpoint of before
    assert other.strategy_state["count"] is not None


def test_rays_need_nothing_more():
    model: Any = object()
    assert EditedNerfacto.training_state(model) == {}
