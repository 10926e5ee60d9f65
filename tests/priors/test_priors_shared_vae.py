"""A prior that takes its vae from the one beside it: written without, read with, refused if another, exported."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from csd3d.cli import main as cli
from csd3d.cli.priors import export
from csd3d.priors.store.load import load_parts
from csd3d.priors.store.resolve import resolve
from csd3d.priors.store.save import save_prior
from csd3d.priors.text_to_image import TextToImagePrior
from tests.priors.tiny import write_tiny_prior


def write_pair(folder: Path, *, seed: int = 0) -> tuple[Path, Path]:
    """instruct/ with a vae, and t2i/ that shares it."""
    instruct = write_tiny_prior(folder / "instruct", seed=seed)
    write_tiny_prior(folder / "t2i", kind="text-to-image", closed=False, seed=seed)
    whole = load_parts(folder / "t2i", device=torch.device("cpu"), dtype=torch.float32)
    parts: Any = (whole.vae, whole.text_encoder, whole.tokenizer, whole.unet, whole.scheduler)
    save_prior(folder / "t2i", *parts, kind="text-to-image", dtype=torch.float32, vae_of="instruct")
    return instruct, folder / "t2i"


def test_it_is_written_without_and_read_with_the_vae_of_the_other(tmp_path: Path) -> None:
    instruct, t2i = write_pair(tmp_path)
    assert not (t2i / "vae").exists()
    assert resolve(t2i).kind == "text-to-image"
    prior = TextToImagePrior.load(t2i, device="cpu")
    written = load_file(instruct / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(v, written[k]) for k, v in prior.codec._vae.state_dict().items())


def test_another_vae_is_refused_when_written_and_when_read(tmp_path: Path) -> None:
    instruct, t2i = write_pair(tmp_path)
    parts = load_parts(t2i, device=torch.device("cpu"), dtype=torch.float32)
    file = instruct / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({k: v + 1e-3 for k, v in weights.items()}, file)
    with pytest.raises(ValueError, match=r"expected the vae that it was trained with, .*instruct/vae holds another"):
        TextToImagePrior.load(t2i, device="cpu")
    given: Any = (parts.vae, parts.text_encoder, parts.tokenizer, parts.unet, parts.scheduler)
    with pytest.raises(ValueError, match="vae_of: expected the same vae in"):
        save_prior(t2i, *given, kind="text-to-image", dtype=torch.float32, vae_of="instruct")
    config = instruct / "vae" / "config.json"
    save_file(weights, file)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.7}))
    with pytest.raises(ValueError, match="vae_of: expected the same vae in"):
        save_prior(t2i, *given, kind="text-to-image", dtype=torch.float32, vae_of="instruct")


@pytest.mark.parametrize("name", [None, "nowhere", "../t2i", 3])
def test_without_the_other_its_vae_is_missing(tmp_path: Path, name: object) -> None:
    _, t2i = write_pair(tmp_path)
    index = json.loads((t2i / "model_index.json").read_text())
    (t2i / "model_index.json").write_text(json.dumps(index | {"_vae_of": name}))
    with pytest.raises(ValueError, match="its folder vae/ is missing"):
        resolve(t2i)


def test_an_exported_prior_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, t2i = write_pair(tmp_path)
    assert cli.main(["priors", "export", str(t2i), str(tmp_path / "out" / "mine")]) == 0
    out = tmp_path / "out" / "mine"
    assert str(out) in capsys.readouterr().out
    shutil.rmtree(tmp_path / "instruct")
    StableDiffusionPipeline.from_pretrained(str(out))
    assert TextToImagePrior.load(out, device="cpu").codec.scaling == 0.5
    assert [p.name for p in out.parent.iterdir()] == ["mine"]
    assert cli.main(["priors", "export", str(out), str(out)]) == 2
    assert "expected a folder that does not exist yet" in capsys.readouterr().err
    for place in (out / "within", out / "model_index.json" / "below"):
        assert cli.main(["priors", "export", str(out), str(place)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not place.exists()


def test_an_exported_prior_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, renamed, replace = list[str](), list[int](), os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name))
    monkeypatch.setattr(os, "replace", lambda a, b: (renamed.append(len(flushed)), replace(a, b)))
    write_tiny_prior(tmp_path / "tiny")
    renamed.clear()
    flushed.clear()
    export(str(tmp_path / "tiny"), tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").rglob("*")}
    assert files
    assert files <= set(flushed[: renamed[0]])
