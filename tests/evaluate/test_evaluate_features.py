"""The learned features: the network with random weights for its shapes, the real one where it is installed."""

import pytest
import torch
from safetensors.torch import save_file

from csd3d.evaluate.config import EvaluateConfig
from csd3d.evaluate.towers.efficientnet import EfficientNetLite, FeatureTower, load_features
from csd3d.evaluate.towers.load import load_towers
from csd3d.evaluate.towers.scaling import Scaling, squares
from csd3d.evaluate.towers.weights import FEATURES_PACKAGE, packaged, read_tensors

CPU = torch.device("cpu")


def test_the_network_has_the_parameters_of_the_published_one():
    network = EfficientNetLite()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008  # Lite0, as published
    assert "_blocks.15._project_conv.weight" in network.state_dict()


def test_shapes_of_what_the_tower_gives():
    tower = FeatureTower(EfficientNetLite(), CPU)
    rgb = torch.rand(2, 3, 32, 48)
    places, whole = tower(rgb)
    assert places.shape == (2, 14 * 20, 112)  # 224 x 320
    assert whole.shape == (2, 1280)
    wide = torch.rand(1, 3, 32, 128)
    places, whole = tower(wide)
    assert places.shape == (1, 7 * 14 * 14, 112)  # seven squares, half overlapping
    assert whole.shape == (1, 1280)


def test_a_panorama_is_seen_from_end_to_end():
    columns = torch.arange(100.0).expand(1, 3, 20, 100)
    parts = squares(columns)
    assert parts is not None
    assert parts[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    assert parts[-1, 0, 0, -1] == 99
    assert squares(columns[..., :40]) is None
    tall = squares(columns.transpose(2, 3))
    assert tall is not None
    assert tall.shape == (9, 3, 20, 20)


def test_scaling_crops_the_middle_or_keeps_all():
    rgb = torch.zeros(1, 3, 10, 30)
    rgb[..., 10:20] = 1
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    assert Scaling(10, zero, one)(rgb).min() == 1
    assert Scaling(32, zero, one, crop=False, multiple_px=32)(rgb).shape == (1, 3, 32, 96)
    torch.testing.assert_close(Scaling(10, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))(rgb), torch.full((1, 3, 10, 10), 2.0))


def test_weights_are_read_from_either_kind_of_file_and_others_refused(tmp_path):
    network = EfficientNetLite().eval()
    torch.save(network.state_dict(), tmp_path / "a.pth")
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    rgb = torch.rand(1, 3, 32, 32)
    first, second = (load_features(tmp_path / name, CPU)(rgb)[1] for name in ("a.pth", "a.safetensors"))
    assert first.equal(second)
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="expected the weights of EfficientNetLite"):
        load_features(tmp_path / "b.safetensors", CPU)
    (tmp_path / "c.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        load_features(tmp_path / "c.pth", CPU)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_features(tmp_path / "d.pth", CPU)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"x": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        read_tensors(tmp_path / "trap.pth", what="features")


def test_without_the_package_a_note_says_how_to_have_it(monkeypatch):
    monkeypatch.setattr("csd3d.evaluate.towers.load.packaged", lambda *names: None)
    towers, notes = load_towers(EvaluateConfig())
    assert towers.features is None
    assert len(notes) == 1
    assert "csd3d[metrics]" in notes[0]


def test_the_packaged_network_knows_a_cat():
    path = packaged(FEATURES_PACKAGE, "models/*.pth")
    data = pytest.importorskip("skimage.data", reason="scikit-image comes with csd3d[train]")
    if path is None:
        pytest.skip("EfficientNet-Lite0 comes with csd3d[metrics]")
    network = EfficientNetLite().eval()
    network.load_state_dict(dict(read_tensors(path, what="features")))
    cat = torch.from_numpy(data.chelsea().copy()).permute(2, 0, 1)[None] / 255
    scaled = Scaling(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(cat)
    with torch.no_grad():
        assert int(network.logits(scaled).argmax()) in range(281, 286)
