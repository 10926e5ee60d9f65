"""What a name stands for, and one clear line for every name that stands for nothing."""

import json
import shutil
from pathlib import Path

import pytest

from csd3d.priors.store import resolve as room
from csd3d.priors.store.resolve import builtin_directory, check_directory, resolve, weights_variant


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A prior that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "prior"))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation of our own; its weights/ folder."""
    monkeypatch.setattr(room.csd3d, "__file__", str(tmp_path / "csd3d" / "__init__.py"))
    return tmp_path / "csd3d" / "weights"


def test_builtin_is_the_instruction_editor(tiny: Path, installed: Path) -> None:
    shutil.copytree(tiny, installed / "instruct")
    for name in ("builtin", "builtin:instruct", " builtin "):
        found = resolve(name)
        assert (found.path, found.kind, found.builtin) == (installed / "instruct", "instruct", True)
    assert builtin_directory("builtin:t2i") == installed / "t2i"


def test_builtin_without_weights_says_what_to_do(installed: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights are not in this installation.*train_builtin\.py"):
        resolve("builtin")
    with pytest.raises(ValueError, match="the built-in priors are builtin, builtin:instruct, builtin:t2i"):
        resolve("builtin:xl")


def test_builtin_of_another_kind_is_refused(tiny: Path, installed: Path) -> None:
    shutil.copytree(tiny, installed / "t2i")
    with pytest.raises(ValueError, match="'text-to-image', got 'instruct'"):
        resolve("builtin:t2i")


def test_a_directory_goes_before_a_hub_id(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("owner/name").path is None
    assert resolve("owner/name").kind is None
    shutil.copytree(tiny, tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    found = resolve("owner/name")
    assert (found.path, found.kind, found.builtin) == (Path("owner/name"), "instruct", False)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("", ValueError, "expected 'builtin', a directory, or a hub id"),
        ("snow", ValueError, "expected 'builtin', a directory, or a hub id"),
        ("/no/such/place", FileNotFoundError, "there is no such directory"),
        ("./owner/name", FileNotFoundError, "there is no such directory"),
        (Path("owner/name"), FileNotFoundError, "there is no such directory"),
        (__file__, ValueError, "got a single file"),
    ],
)
def test_names_that_stand_for_nothing(name: str | Path, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_a_directory_that_is_no_prior(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(ValueError, match=r"not a prior: expected a diffusers directory with model_index\.json"):
        resolve(tmp_path)
    (copy / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="not readable as JSON"):
        check_directory(copy)
    (copy / "model_index.json").write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        check_directory(copy)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("_class_name", "StableDiffusionXLPipeline", "got 'StableDiffusionXLPipeline'"),
        ("_class_name", ["my_pipeline", "Mine"], "got .*my_pipeline"),
        ("unet", ["diffusers", "FluxTransformer2DModel"], "a unet of class UNet2DConditionModel, got Flux"),
        ("vae", ["diffusers", "AutoencoderTiny"], "a vae of class AutoencoderKL, got AutoencoderTiny"),
        ("tokenizer", None, "to name its tokenizer, got None"),
        ("scheduler", [None, None], "to name its scheduler"),
    ],
)
def test_pipelines_and_parts_of_other_classes_are_refused(copy: Path, key: str, value: object, words: str) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {key: value}))
    with pytest.raises(ValueError, match=words):
        check_directory(copy)


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(ValueError, match=f"its folder {part}/ is missing"):
        check_directory(copy)


def test_pickled_weights_are_refused_with_the_reason(copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"only as diffusion_pytorch_model\.bin, a pickle.*expected safetensors"):
        check_directory(copy)
    weights.with_suffix(".bin").unlink()
    with pytest.raises(ValueError, match="found no weights"):
        check_directory(copy)


def test_half_precision_files_are_found(copy: Path) -> None:
    plain = copy / "unet" / "diffusion_pytorch_model.safetensors"
    half = copy / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    assert weights_variant(copy / "unet", "fp16") is None
    shutil.copy(plain, half)
    assert weights_variant(copy / "unet", "fp16") == "fp16"
    assert weights_variant(copy / "unet") is None
    plain.unlink()
    assert weights_variant(copy / "unet") == "fp16"
    assert check_directory(copy) == "instruct"
