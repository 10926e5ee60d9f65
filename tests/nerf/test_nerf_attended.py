"""A scene is trained while the prior of its edits is controlled inside: what each flag of `ns-train` does to views."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from tests.nerf.tiny import config_for, trainer_for

pytestmark = pytest.mark.slow


def views_of(scene: Path, prior: Path, out: Path, **changes: Any) -> torch.Tensor:
    """What training sees after the first edits."""
    trainer = trainer_for(
        config_for(scene, prior, out, scene_steps=1, views_per_edit=6, max_num_iterations=2, **changes)
    )
    trainer.train()
    assert torch.isfinite(torch.stack([p.detach().sum() for p in trainer.pipeline.model.parameters()])).all()
    data = trainer.pipeline.datamanager
    return torch.stack([data._images[view].permute(2, 0, 1) for view in range(len(data.photographs))])


@pytest.fixture(scope="module")
def plain(scene: Path, prior: Path, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return views_of(scene, prior, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    "changes",
    [
        {"share": "anchors"},
        {"attention": ("masactrl", "sag:threshold=0")},
        {"steer": "excite:until=1,rms=0.1,columns=words", "group": "snowy"},
        {"mask_words": "snowy"},
    ],
    ids=["share", "attention", "steer", "mask-words"],
)
def test_a_scene_is_trained_with_it(
    changes: dict[str, Any], plain: torch.Tensor, scene: Path, prior: Path, tmp_path: Path
) -> None:
    views = views_of(scene, prior, tmp_path, **changes)
    assert views.shape == plain.shape
    assert (views - plain).abs().max() > 1e-3
    masks = [*tmp_path.glob("**/masks/*.png")]
    assert len(masks) == (len(views) if "mask_words" in changes else 0)
