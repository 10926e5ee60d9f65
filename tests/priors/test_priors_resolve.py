"""What a name stands for, and one clear line for every name that stands for nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from csd3d.priors.store import resolve as room
from csd3d.priors.store.load import load_parts
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
    with pytest.raises(ValueError, match="is not valid JSON"):
        check_directory(copy)
    (copy / "model_index.json").write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        check_directory(copy)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        *(
            ("_class_name", name, f"or of a family in docs/families.md, got '{name}'")
            for name in ("OmniGenPipeline", "ZImageOmniPipeline", "HiDreamImagePipeline", "WanPipeline", "QwenImage21")
        ),
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
    assert weights_variant(copy / "unet", ("fp16", None)) is None
    shutil.copy(plain, half)
    assert weights_variant(copy / "unet", ("fp16", None)) == "fp16"
    assert weights_variant(copy / "unet") is None
    plain.unlink()
    assert weights_variant(copy / "unet") == "fp16"
    assert check_directory(copy) == "instruct"


@pytest.mark.parametrize(("variant", "readable"), [("bf16", True), ("fp16", True), ("non_ema", False), ("ema", False)])
def test_variants_are_read_or_named(copy: Path, variant: str, readable: bool) -> None:
    plain = copy / "unet" / "diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_suffix(f".{variant}.safetensors"))
    if readable:
        assert weights_variant(copy / "unet") == variant
        assert check_directory(copy) == "instruct"
        return
    with pytest.raises(ValueError, match=rf"found only diffusion_pytorch_model\.{variant}\.safetensors") as caught:
        check_directory(copy)
    assert "\n" not in str(caught.value)


def shard(folder: Path, names: object, *, index: str = "diffusion_pytorch_model.safetensors.index.json") -> None:
    """Write an index that names these files, beside whatever else is there."""
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": names}))


@pytest.mark.parametrize("variant", ["", ".fp16"])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"conv_in.weight": "evil.bin"}, r"expected it to name safetensors files beside it, got 'evil\.bin'"),
        ({"conv_in.weight": "evil.safetensors.pt"}, "got 'evil.safetensors.pt'"),
        ({"conv_in.weight": "../vae/diffusion_pytorch_model.safetensors"}, r"beside it, got '\.\./vae"),
        ({"conv_in.weight": "/tmp/a.safetensors"}, "beside it, got '/tmp/a.safetensors'"),
        ({"conv_in.weight": 3}, "got 3"),
        ({"conv_in.weight": "gone.safetensors"}, "names gone.safetensors, which is missing"),
        ({}, "expected a weight_map"),
        (["evil.bin"], "expected a weight_map"),
    ],
)
def test_an_index_of_shards_names_safetensors_files_only(
    copy: Path, names: object, words: str, whole: bool, variant: str
) -> None:
    """The libraries read what it names, a pickle too, and even where a whole file lies beside it."""
    if not whole:
        (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for pickled in ("evil.bin", "evil.safetensors.pt"):
        (copy / "unet" / pickled).write_bytes(b"a pickle")
    shard(copy / "unet", names, index=f"diffusion_pytorch_model.safetensors.index{variant}.json")
    with pytest.raises(ValueError, match=words):
        check_directory(copy)
    with pytest.raises(ValueError, match=words):
        load_parts(copy, device=torch.device("cpu"), dtype=torch.float32, kind="instruct")


def test_weights_in_shards_are_read(tiny: Path, copy: Path) -> None:
    parts = load_parts(tiny, device=torch.device("cpu"), dtype=torch.float32)
    whole = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(whole)
    whole.unlink()
    files = {name: f"part-{len(name) % 2}.safetensors" for name in weights}
    for file in set(files.values()):
        own = {name: value for name, value in weights.items() if files[name] == file}
        save_file(own, copy / "unet" / file, {"format": "pt"})
    shard(copy / "unet", files)
    again = load_parts(copy, device=torch.device("cpu"), dtype=torch.float32)
    for name, value in parts.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[name], value), name
