"""CLIP, DINO, LPIPS and FID on tiny random networks: how they are read, what they see, what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, ViTConfig, ViTModel

from csd3d.evaluate.cases import Case
from csd3d.evaluate.config import EvaluateConfig
from csd3d.evaluate.measure import Measured, measure
from csd3d.evaluate.meters import Chunk
from csd3d.evaluate.table import tabulate
from csd3d.evaluate.towers.clip import load_clip
from csd3d.evaluate.towers.dino import load_dino
from csd3d.evaluate.towers.inception import InceptionTower
from csd3d.evaluate.towers.load import Towers, load_towers
from csd3d.evaluate.towers.lpips import LpipsTower, alexnet, load_lpips, vgg16
from csd3d.evaluate.towers.scaling import CLIP_MEAN, Scaling, read_scaling
from tests.clips import moving_picture
from tests.evaluate.test_evaluate_measure import write_frames

CPU = torch.device("cpu")
WORDS = [
    "<|startoftext|>",
    "<|endoftext|>",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz"),
]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP of two narrow layers whose words are letters."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    small: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = CLIPTextConfig(vocab_size=len(WORDS), max_position_embeddings=16, eos_token_id=1, bos_token_id=0, **small)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **small)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    config = ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=32
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture
def alex_file(tmp_path):
    """An AlexNet of random weights as torchvision's file has it, with weights of channels beside it."""
    layers, _ = alexnet()
    weights = {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
    torch.save({**weights, "classifier.1.weight": torch.zeros(1)}, tmp_path / "alexnet.pth")
    heads = {f"lin{k}.model.1.weight": torch.rand(1, c, 1, 1) for k, c in enumerate((64, 192, 384, 256, 256))}
    torch.save(heads, tmp_path / "alex.pth")
    return tmp_path / "alexnet.pth"


def test_clip_embeds_pictures_and_sentences_in_one_space(clip_folder):
    tower = load_clip(str(clip_folder), CPU, fetch=False)
    rgb = torch.rand(2, 3, 40, 56)
    assert tower.embed(rgb).shape == (2, 8)
    assert tower.text("a cat").shape == (8,)
    assert tower.text("a cat").equal(tower.text("a cat"))
    assert not tower.text("a cat").equal(tower.text("a dog"))
    assert tower.text("word " * 50).shape == (8,)  # cut to what the model takes
    wide = rgb[:1, :, :16].repeat(1, 1, 1, 3)
    assert tower.embed(wide).shape == (1, 8)


def test_clip_is_what_transformers_says(clip_folder):
    tower = load_clip(str(clip_folder), CPU, fetch=False)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    rgb = torch.rand(1, 3, 32, 32)
    levels = Scaling(32, CLIP_MEAN, (0.26862954, 0.26130258, 0.27577711))(rgb)
    words = torch.tensor([[0, WORDS.index("a</w>"), 1]])
    with torch.no_grad():
        expected = model(input_ids=words, pixel_values=levels)
    cosine = torch.cosine_similarity(tower.embed(rgb), tower.text("a")[None])
    torch.testing.assert_close(cosine, (expected.image_embeds @ expected.text_embeds.T)[0])


def test_pictures_are_scaled_as_a_model_says(tmp_path):
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    assert read_scaling(tmp_path, side_px=32, mean=zero, std=one) == Scaling(32, zero, one)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1]}))
    assert read_scaling(tmp_path, side_px=32, mean=zero, std=one) == Scaling(32, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    for bad in ("no json", json.dumps({"image_mean": 3}), json.dumps({"image_std": [0, 1, 1]})):
        file.write_text(bad)
        with pytest.raises(ValueError, match="preprocessor_config"):
            read_scaling(tmp_path, side_px=32, mean=zero, std=one)


def test_dino_gives_keys_of_the_last_layer(dino_folder):
    tower = load_dino(str(dino_folder), CPU, fetch=False)
    rgb = torch.rand(2, 3, 32, 48)
    keys = tower.keys(rgb)
    assert keys.shape == (2, 1 + 7 * 10, 16)  # 224 x 320 in patches of 32, and the class token
    assert not keys[0].equal(keys[1])
    assert tower.keys(rgb[:1]).allclose(keys[:1], atol=1e-5)


@pytest.mark.parametrize("make", [alexnet, vgg16])
def test_lpips_of_equal_pictures_is_none(make):
    layers, taken = make()
    assert len(taken) == 5
    assert all(isinstance(layers[k], torch.nn.ReLU) for k in taken)
    widths = [next(m for m in list(layers)[k::-1] if isinstance(m, torch.nn.Conv2d)).out_channels for k in taken]
    tower = LpipsTower(layers, taken, [torch.ones(w) for w in widths], CPU)
    rgb = torch.rand(1, 3, 64, 64)
    assert tower.distance(rgb, rgb).tolist() == [0]
    assert float(tower.distance(rgb, 1 - rgb)) > 0


def test_lpips_is_the_packages(alex_file):
    """Computed as by the package whose heads they are, where it and torchvision are installed."""
    package = pytest.importorskip("torchmetrics.functional.image.lpips", reason="torchmetrics comes with csd3d[nerf]")
    saved = torch.load(alex_file, weights_only=True)
    other = package._LPIPS(pretrained=False, net="alex", use_dropout=True, eval_mode=True, pnet_rand=True).eval()
    slices = [m for name, m in other.net.named_modules() if isinstance(m, torch.nn.Conv2d)]
    for conv, k in zip(slices, (0, 3, 6, 8, 10), strict=True):
        assert conv.bias is not None
        conv.weight.data, conv.bias.data = saved[f"features.{k}.weight"], saved[f"features.{k}.bias"]
    heads = torch.load(alex_file.with_name("alex.pth"), weights_only=True)
    for k in range(5):
        getattr(other, f"lin{k}").model[1].weight.data = heads[f"lin{k}.model.1.weight"]
    a, b = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = other(a, b, normalize=True).flatten()
    torch.testing.assert_close(load_lpips(alex_file, CPU).distance(a, b), expected)


def test_lpips_without_heads_or_of_another_network_is_refused(alex_file, tmp_path, monkeypatch):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="AlexNet or VGG16"):
        load_lpips(tmp_path / "other.safetensors", CPU)
    monkeypatch.setattr("csd3d.evaluate.towers.lpips.packaged", lambda *names: None)
    alex_file.with_name("alex.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights of channels, alex\.pth"):
        load_lpips(alex_file, CPU)


@pytest.mark.parametrize("flag", ["clip", "dino"])
def test_a_model_is_never_fetched_unasked(flag, monkeypatch, tmp_path):
    asked = []

    def snapshot(name, *, local_files_only, allow_patterns):
        asked.append(local_files_only)
        raise FileNotFoundError("not in the cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(FileNotFoundError, match=f"{flag}: expected a folder, or a model id .*--fetch"):
        load_towers(replace(EvaluateConfig(), **{flag: "nobody/nothing"}))
    assert asked == [True]
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{flag}: expected a model that can be read"):
        load_towers(replace(EvaluateConfig(), **{flag: str(tmp_path)}))


@pytest.mark.parametrize("flag", ["clip", "dino"])
def test_a_model_that_lacks_weights_is_refused_rather_than_drawn(flag, clip_folder, dino_folder, tmp_path):
    folder = shutil.copytree({"clip": clip_folder, "dino": dino_folder}[flag], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "layernorm" in name.lower() or "layer_norm" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{flag}: expected a model that can be read, .*it lacks 1 of its weights"):
        load_towers(replace(EvaluateConfig(), **{flag: str(folder)}))


def test_all_metrics_of_a_clip(clip_folder, dino_folder, alex_file, tmp_path, monkeypatch):
    monkeypatch.setattr("csd3d.evaluate.towers.load.packaged", lambda *names: None)
    rgb = moving_picture(4, 48, 64)
    source = write_frames(tmp_path / "a", rgb)
    case = Case("x", source, {"same": source, "dark": write_frames(tmp_path / "b", 0.5 * rgb)}, "a red cat", "a cat")
    config = EvaluateConfig(clip=str(clip_folder), dino=str(dino_folder), lpips=alex_file)
    towers, notes = load_towers(config)
    assert notes[1:] == [f"CLIP is {clip_folder}", f"DINO is {dino_folder}", "LPIPS is that of alexnet.pth"]
    towers = replace(towers, inception=InceptionTower(Means(), CPU))
    found, _ = measure(case, towers.meters, config)
    table = tabulate(found, towers.over_all(found), notes)
    same, dark = table.rows["same"], table.rows["dark"]
    assert set(dark) == set(table.metrics) == {
        "change", "structure", "warp error", "WarpSSIM", "flicker", "CLIP-T", "CLIP direction", "CLIP consistency",
        "CLIP-F", "CLIP direction consistency", "Frame-Acc", "Q_edit", "LPIPS", "LPIPS neighbours", "DINO structure",
        "FID",
    }  # fmt: skip
    assert "CLIP direction" not in same  # nothing changed
    assert same["CLIP direction consistency"].value == pytest.approx(1)
    assert same["LPIPS"].value == same["DINO structure"].value == 0
    assert same["FID"].value == pytest.approx(0, abs=1e-6)
    assert dark["FID"].value > same["FID"].value
    assert dark["Q_edit"].value == pytest.approx(dark["WarpSSIM"].value * dark["CLIP-T"].value)


class Means(torch.nn.Module):
    """Stands for Inception: mean levels."""

    def forward(self, levels):
        assert levels.dtype == torch.uint8
        return (levels.float().mean((2, 3)) / 255,)


def test_the_fid_is_over_all_results_of_a_method_and_against_a_reference():
    towers = Towers(EvaluateConfig(), inception=InceptionTower(Means(), CPU))
    assert towers.inception is not None
    found = []
    for case, level in (("a", 0.2), ("b", 0.6)):
        meter = towers.meters(Case(case, Path("unused")))[-1]
        rgb = torch.full((2, 3, 8, 8), level)
        meter.add(Chunk(rgb, 0), rgb)
        found.append(Measured(case, "mine", 2, {}, [meter]))
    assert towers.over_all(found)["mine"]["FID"] == pytest.approx(0, abs=1e-9)
    reference = torch.full((4, 3), 0.4) + 0.2 * torch.tensor([[1.0], [1], [-1], [-1]]) + 0.1
    shifted = Towers(towers.config, inception=towers.inception, reference=reference).over_all(found)
    assert shifted["mine"]["FID"] == pytest.approx(3 * 0.1**2, rel=1e-3)
