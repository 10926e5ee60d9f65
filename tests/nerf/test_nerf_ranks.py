"""Several processes: who does what, and two with gloo against one."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from csd3d.nerf.checkpoints import load_checkpoint
from csd3d.runs.ranks import broadcast, gather, local_indices
from tests.forking import in_fork
from tests.nerf.ranks_work import VIEWS, feature_gradient, inverted, outcome
from tests.nerf.tiny import ToyEditor, config_for, trainer_for, write_small_scene

pytestmark = pytest.mark.slow


def test_two_processes_edit_as_one(tmp_path: Path, scene_server: dict[str, str]) -> None:
    write_small_scene(tmp_path / "scene")
    words = ["-c", "from tests.nerf.ranks_work import main; main()", str(tmp_path)]
    started = [in_fork(scene_server, *words, str(rank), cwd=tmp_path) for rank in (0, 1)]
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    first, second = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    alone, uncoupled = outcome(tmp_path), outcome(tmp_path, coupling="independent")
    assert first["views"] == second["views"] == alone["views"]
    assert torch.equal(first["images"], second["images"])
    assert (first["images"] - alone["images"]).abs().max() < 1.5 / 255  # stored in eight bits
    assert (uncoupled["images"] - alone["images"]).abs().max() > 10 / 255
    assert first["rows"] == second["rows"] == [VIEWS // 2] * 4  # each does half of the work
    assert alone["rows"] == [VIEWS] * 4
    assert alone["gradients"]
    for name, gradient in alone["gradients"].items():
        least = 1e-4 * float(gradient.abs().max())
        for of_two in (first, second):
            assert torch.allclose(of_two["gradients"][name], gradient, rtol=1e-3, atol=least), name
    for rank in (first, second):
        assert rank["all"].flatten().tolist() == [0, 10, 20, 30, 40]
        assert rank["first"].tolist() == [[0.0]]
        assert torch.allclose(rank["features"], feature_gradient(), atol=1e-7)
        assert rank["paused"] is True
    saved = load_checkpoint(next(tmp_path.glob("out2/**/*.ckpt")))
    again = trainer_for(
        config_for(tmp_path / "scene", tmp_path, tmp_path / "again", prompt=None, prior="builtin")
    ).pipeline
    again.current.prior = ToyEditor(inverted)
    again.load_pipeline(saved["pipeline"], 1)  # one process reads what two have written
    again.begin(2, saved["csd3d"])
    assert torch.equal(again.datamanager._images, first["images"])


def test_one_process_exchanges_nothing() -> None:
    assert local_indices(3) == [0, 1, 2]
    x = torch.rand(3, 2, requires_grad=True)
    assert torch.equal(gather(x, 3), x)
    assert not gather(x, 3).requires_grad
    assert broadcast([1]) == [1]
