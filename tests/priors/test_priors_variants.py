"""Weights as they are published: in half precision under names of their own, in shards, never as pickles."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from csd3d.priors.auto import load_prior
from csd3d.priors.prior import Prior
from tests.priors.families.tiny import write_family
from tests.priors.tiny import write_tiny_prior

Write = Callable[[Path], Path]


def noise_of(prior: Prior) -> torch.Tensor:
    """A prediction, always of the same latents."""
    from tests.priors.test_priors_single_file import target

    return target(prior)


def write_open(folder: Path) -> Path:
    """A tiny editor of Stable Diffusion's kind."""
    return write_tiny_prior(folder, closed=False, stock=True)


@pytest.mark.parametrize("write", [write_open, lambda path: write_family("kontext", path)], ids=["sd", "kontext"])
def test_variants_and_shards_are_read(write: Write, tmp_path: Path) -> None:
    plain = write(tmp_path / "plain")
    pipe: Any = DiffusionPipeline.from_pretrained(str(plain), local_files_only=True)
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert list((tmp_path / "shards").glob("*/*.index.json"))
    same = load_prior(plain, device="cpu")
    torch.testing.assert_close(noise_of(load_prior(tmp_path / "shards", device="cpu")), noise_of(same))
    pipe.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16", max_shard_size="100KB")
    half = load_prior(tmp_path / "half", device="cpu")
    assert not any(".fp16" not in file.name for file in (tmp_path / "half").glob("*/*.safetensors"))
    torch.testing.assert_close(noise_of(half), noise_of(same), atol=5e-3, rtol=5e-2)
    for folder in (path.parent for path in (tmp_path / "shards").glob("*/*.index.json")):
        for file in folder.glob("*.safetensors"):
            file.rename(file.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"expected it to name safetensors files|which is missing|a pickle"):
        load_prior(tmp_path / "shards", device="cpu")


def test_a_part_without_a_variant_is_read_as_it_is(tmp_path: Path) -> None:
    plain = write_family("kontext", tmp_path / "plain")
    pipe: Any = DiffusionPipeline.from_pretrained(str(plain), local_files_only=True)
    pipe.save_pretrained(tmp_path / "mixed", variant="fp16")
    shutil.rmtree(tmp_path / "mixed" / "vae")
    shutil.copytree(plain / "vae", tmp_path / "mixed" / "vae")
    prior = load_prior(tmp_path / "mixed", device="cpu")
    torch.testing.assert_close(noise_of(prior), noise_of(load_prior(plain, device="cpu")))
