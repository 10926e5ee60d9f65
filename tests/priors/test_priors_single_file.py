"""One file of weights as a prior: in the layout of the first Stable Diffusion, or of a bare transformer."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from csd3d.engine.types import Batch
from csd3d.priors.auto import load_prior
from csd3d.priors.loading import Loading
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.priors.store.fingerprint import fingerprint_of, prior_entry
from csd3d.priors.store.resolve import resolve
from tests.priors.families.tiny import write_family
from tests.priors.tiny import write_tiny_prior

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
LAYERS = 1
"""Blocks on each level of the tiny networks."""


def old_unet_key(key: str) -> str:
    """Where a weight of a UNet stood in the first Stable Diffusion's files."""
    head = {
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    }  # fmt: skip
    for new, old in head.items():
        if key.startswith(f"{new}."):
            return key.replace(new, old, 1)
    kind, rest = key.split(".", 1)
    if kind == "mid_block":
        which, number, inner = rest.split(".", 2)
        place = "middle_block." + ("1" if which == "attentions" else str(2 * int(number)))
    else:
        block, which, number, inner = rest.split(".", 3)
        if kind == "down_blocks":
            index = 1 + int(block) * (LAYERS + 1) + (LAYERS if which == "downsamplers" else int(number))
            place = f"input_blocks.{index}." + {"resnets": "0", "attentions": "1", "downsamplers": "0"}[which]
            inner = inner.replace("conv.", "op.") if which == "downsamplers" else inner
        else:
            index = int(block) * (LAYERS + 1) + (LAYERS if which == "upsamplers" else int(number))
            place = f"output_blocks.{index}." + {"resnets": "0", "attentions": "1", "upsamplers": "2"}[which]
    if which == "resnets":
        part, end = inner.rsplit(".", 1)
        inner = f"{RESNET[part]}.{end}"
    return f"{place}.{inner}"


def old_vae_key(key: str, levels: int) -> str:
    """The same of a weight of an autoencoder."""
    key = re.sub(r"encoder.down_blocks.(\d+).resnets.(\d+)", r"encoder.down.\1.block.\2", key)
    key = re.sub(r"encoder.down_blocks.(\d+).downsamplers.0", r"encoder.down.\1.downsample", key)
    for up, new in (("block.", "resnets."), ("upsample", "upsamplers.0")):
        pattern = rf"decoder.up_blocks.(\d+).{new}"
        key = re.sub(pattern, lambda m, up=up: f"decoder.up.{levels - 1 - int(m[1])}.{up}", key)
    key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    names = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for new, old in names.items():
        key = key.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
    return key


def old_file(prior: Path, file: Path) -> Path:
    """All weights of a prior of Stable Diffusion's kind in one file."""
    unet, vae, text = (
        load_file(next((prior / part).glob("*.safetensors"))) for part in ("unet", "vae", "text_encoder")
    )
    one: dict[str, Tensor] = {f"model.diffusion_model.{old_unet_key(k)}": v for k, v in unet.items()}
    for key, value in vae.items():
        old = old_vae_key(key, levels=4)
        one[f"first_stage_model.{old}"] = value[:, :, None, None] if "attn_1" in old and value.ndim == 2 else value
    for key, value in text.items():
        one["cond_stage_model.transformer.text_model." + key.removeprefix("text_model.")] = value
    save_file({k: v.contiguous() for k, v in one.items()}, file)
    return file


def small_files(prior: Path, folder: Path, *, keep: tuple[str, ...] = ()) -> Path:
    """What is no weights in a prior's directory; parts to `keep` have them."""

    def weights(where: str, names: list[str]) -> list[str]:
        return [] if Path(where).name in keep else [name for name in names if name.endswith(".safetensors")]

    shutil.copytree(prior, folder, ignore=weights)
    return folder


def target(prior: Prior) -> Tensor:
    """A prediction, always of the same latents."""
    s = torch.randn(1, prior.codec.channels, 8, 8, generator=torch.Generator().manual_seed(0))
    x = prior.schedule.noised(Batch(s, s, torch.arange(1)), 300, s.flip(-1))
    return prior.score(Prompts("make it snowy"), Guidance(2.0, 1.5)).target(x)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny editor in diffusers layout, with the UNet of Stable Diffusion 2."""
    return write_tiny_prior(tmp_path_factory.mktemp("whole") / "prior", closed=False, stock=True)


@pytest.fixture(scope="module")
def single(whole: Path) -> tuple[Path, Path]:
    """The same as a file and a directory of small files."""
    return old_file(whole, whole.parent / "one.safetensors"), small_files(whole, whole.parent / "small")


def test_one_file_is_the_same_prior(whole: Path, single: tuple[Path, Path]) -> None:
    file, small = single
    how = Loading(prior_config=small)
    prior, same = load_prior(file, device="cpu", how=how), load_prior(whole, device="cpu")
    torch.testing.assert_close(target(prior), target(same))
    rgb = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(prior.decode(prior.encode(rgb)), same.decode(same.encode(rgb)))
    assert prior.kind == "instruct"
    assert (prior.name, prior.path, prior.weights) == (str(file), small, file)
    assert [e["what"] for e in prior_entry(prior)["added"]] == ["weights"]
    assert fingerprint_of(prior) != fingerprint_of(same)


def test_a_bare_transformer_takes_the_rest_from_its_directory(tmp_path: Path) -> None:
    path = write_family("kontext", tmp_path / "kontext")
    file = tmp_path / "kontext.safetensors"
    shutil.copy(path / "transformer" / "diffusion_pytorch_model.safetensors", file)
    rest = small_files(path, tmp_path / "rest", keep=("vae", "text_encoder", "text_encoder_2"))
    prior = load_prior(file, device="cpu", how=Loading(prior_config=rest))
    torch.testing.assert_close(target(prior), target(load_prior(path, device="cpu")))
    bare = small_files(path, tmp_path / "bare")
    with pytest.raises(ValueError, match=r"kontext.safetensors: cannot be read: expected weights of its vae in it or"):
        load_prior(file, device="cpu", how=Loading(prior_config=bare))
    weights = load_file(file)
    weights.pop(min(weights))
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"kontext.safetensors: cannot be read: it lacks weights of its transformer,"):
        load_prior(file, device="cpu", how=Loading(prior_config=rest))


def test_the_directory_of_a_model_that_is_recognised_comes_from_the_cache(
    single: tuple[Path, Path], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, small = single
    asked: list[tuple[str, bool]] = []

    def snapshot(repo: str, *, local_files_only: bool) -> str:
        asked.append((repo, local_files_only))
        return str(small)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    found = resolve(file)
    assert (found.path, found.weights, found.kind) == (small, file, "instruct")
    assert asked == [("timbrooks/instruct-pix2pix", True)]
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"diffusers takes it for timbrooks/instruct-pix2pix, which the hub's"):
        resolve(file)


def test_what_cannot_be_used_is_refused_in_one_line(single: tuple[Path, Path], whole: Path, tmp_path: Path) -> None:
    file, small = single
    unknown = tmp_path / "unknown.safetensors"
    save_file({"a": torch.zeros(1)}, unknown)
    with pytest.raises(ValueError, match=r"diffusers does not recognise it; give a directory .* as --prior-config"):
        resolve(unknown)
    with pytest.raises(ValueError, match=r"unknown.safetensors: cannot be read: expected weights of its"):
        load_prior(unknown, device="cpu", how=Loading(prior_config=small))
    with pytest.raises(ValueError, match=r"expected model_index.json in it"):
        resolve(file, Loading(prior_config=tmp_path))
    with pytest.raises(ValueError, match=r"prior-config: expected none but with a prior in one .safetensors file"):
        resolve(whole, Loading(prior_config=small))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        resolve(cut, Loading(prior_config=small))
    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"or a .safetensors file, got a single file"):
        resolve(pickled)
    evil = tmp_path / "evil"
    shutil.copytree(small, evil)
    (evil / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"vae/ has pickles, which can run any program"):
        resolve(file, Loading(prior_config=evil))
    lacking = tmp_path / "lacking.safetensors"
    tensors = load_file(file)
    del tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"]
    save_file(tensors, lacking)
    with pytest.raises(ValueError, match=r"lacking.safetensors: cannot be read: it lacks weights of its unet,"):
        load_prior(lacking, device="cpu", how=Loading(prior_config=small))
