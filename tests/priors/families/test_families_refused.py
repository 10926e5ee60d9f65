"""Directories of families that are not as they should be: refused in one line, or noted, never filled in."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from csd3d.priors.auto import load_prior
from csd3d.priors.families import load
from csd3d.priors.families.prior import FamilyPrior
from csd3d.priors.store.resolve import resolve

Write = Callable[[str], Path]
Load = Callable[[str], FamilyPrior]


def test_a_package_that_is_missing_is_named(
    family_path: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(family_path("dreamlite"), tmp_path / "copy")
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'DreamLite needs torchvision: pip install "csd3d\[families\]"'):
        load_prior(copy, device="cpu")


def test_damaged_parts_are_refused_in_one_line(family_path: Write, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(family_path("kontext"), copy)
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_prior(copy, device="cpu")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="a pickle"):
        load_prior(copy, device="cpu")
    shutil.rmtree(copy / "text_encoder")
    with pytest.raises(ValueError, match="its folder text_encoder/ is missing"):
        load_prior(copy, device="cpu")


def with_weights(path: Path, copy: Path, part: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of a prior of which the weights of a part, by name, are changed."""
    shutil.copytree(path, copy)
    (file,) = (copy / part).glob("*.safetensors")
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_missing_weights_are_refused_rather_than_drawn_at_random(part: str, family_path: Write, tmp_path: Path) -> None:
    copy = with_weights(family_path("kontext"), tmp_path / "copy", part, lambda named: named.pop(min(named)))
    with pytest.raises(ValueError, match=rf"its {part}/ cannot be read: it lacks 1 of its weights, '.*' for one$"):
        load_prior(copy, device="cpu")


def test_weights_of_another_shape_are_named(family_path: Write, tmp_path: Path) -> None:
    def cut(named: dict[str, torch.Tensor]) -> None:
        named["final_layer_norm.weight"] = named["final_layer_norm.weight"][1:].clone()

    copy = with_weights(family_path("kontext"), tmp_path / "copy", "text_encoder", cut)
    with pytest.raises(ValueError, match=r"text_encoder/ cannot be read: expected '.*norm.weight' to be \(16,\), got"):
        load_prior(copy, device="cpu")


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ("transformer", "network to predict numbers"),
        ("text_encoder", "network to predict numbers"),
        ("vae", "autoencoder to make numbers of a picture"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(part: str, what: str, family_path: Write, tmp_path: Path) -> None:
    def spoil(named: dict[str, torch.Tensor]) -> None:
        for weights in named.values():
            weights.flatten()[0] = torch.inf

    copy = with_weights(family_path("kontext"), tmp_path / "copy", part, spoil)
    with pytest.raises(ValueError, match=f"FluxKontextPipeline: expected its {what}, got NaN or infinity$"):
        load_prior(copy, device="cpu")
    with pytest.raises(ValueError, match=r"got NaN or infinity in bfloat16; --precision takes others$"):
        load_prior(copy, device="cpu", precision="bfloat16")


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("tokenizer_2/tokenizer.json", "tokenizer_2/ to hold tokenizer.json or vocab.json and merges.txt or spiece"),
        ("scheduler/scheduler_config.json", "scheduler/ to hold scheduler_config.json"),
        ("text_encoder/config.json", "text_encoder/ to hold config.json"),
    ],
)
def test_small_files_that_libraries_would_make_up_are_wanted(
    file: str, wanted: str, family_path: Write, tmp_path: Path
) -> None:
    copy = shutil.copytree(family_path("kontext"), tmp_path / "copy")
    (copy / file).unlink()
    with pytest.raises(ValueError, match=f"expected {wanted}"):
        resolve(copy)


def test_a_pipeline_of_another_network_is_refused_in_a_short_line(family_path: Write, tmp_path: Path) -> None:
    copy = shutil.copytree(family_path("sdxl"), tmp_path / "copy")
    index = copy / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionXLPipeline", "StableDiffusionXLInstructPix2PixPipeline"))
    with pytest.raises(ValueError, match="Pipeline cannot be recorded: Incorrect configuration settings!") as caught:
        load_prior(copy, device="cpu")
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("part", ["transformer", "scheduler", "text_encoder_2"])
def test_a_part_that_is_not_named_is_said(part: str, family_path: Write, tmp_path: Path) -> None:
    copy = shutil.copytree(family_path("kontext"), tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text())
    index[part] = [None, None]
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"to name a {part}, which FluxKontextPipeline has$"):
        load_prior(copy, device="cpu")


def test_what_a_newer_network_has_more_is_noted(family_path: Write, family: Load, tmp_path: Path) -> None:
    copy = with_weights(
        family_path("kontext"), tmp_path / "copy", "transformer", lambda named: named.update(more=torch.zeros(1))
    )
    config = copy / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"warp": True}))
    before = f"FLUX.1 Kontext: diffusers {diffusers.__version__} leaves out 1 "
    assert load_prior(copy, device="cpu").said == [
        f"{before}settings of its transformer, 'warp' for one; is it of a newer one?",
        f"{before}weights of its transformer, 'more' for one; is it of a newer one?",
    ]
    assert family("kontext").said == []
