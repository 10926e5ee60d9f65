"""Reading a prior: damaged files, hub ids that cannot be had, devices and precisions that are not there."""

import json
import logging
import math
import shutil
import sys
from pathlib import Path

import diffusers.utils.logging as diffusers_logging
import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from csd3d.priors.instruct import InstructPrior
from csd3d.priors.store.device import pick_device, pick_dtype
from csd3d.priors.store.load import fetch, load_parts, read_schedule
from csd3d.priors.store.resolve import Resolved
from tests.priors.tiny import write_tiny_prior

CPU = torch.device("cpu")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A prior that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "prior"))


def refused(directory: Path, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load_parts(directory, device=CPU, dtype=torch.float32)
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)


def edit_json(path: Path, **change: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")


def test_parts_arrive_frozen_in_the_precision_asked_for(tiny: Path) -> None:
    parts = load_parts(tiny, device=CPU, dtype=torch.bfloat16)
    assert parts.kind == "instruct"
    for model in (parts.vae, parts.unet, parts.text_encoder):
        assert model.dtype == torch.bfloat16
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())


def test_long_loading_shows_how_far_it_is_at_a_terminal_alone(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    for terminal, least in ((True, 1), (True, 10**9), (False, 1)):
        monkeypatch.setattr("csd3d.priors.store.silence.LONG_BYTES", least)
        monkeypatch.setattr(sys.stderr, "isatty", lambda it=terminal: it)
        load_parts(tiny, device=CPU, dtype=torch.float32)
        shown.append(capsys.readouterr().err)
    assert "loading the prior" in shown[0]
    assert shown[1:] == ["", ""]


def test_weights_arrive_as_they_were_written(tiny: Path) -> None:
    parts = load_parts(tiny, device=CPU, dtype=torch.float32)
    written = load_file(tiny / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in parts.unet.state_dict().items():
        assert torch.equal(value, written[name])


def test_half_precision_files_serve_full_precision_too(tmp_path: Path) -> None:
    half = write_tiny_prior(tmp_path / "half", dtype=torch.float16)
    parts = load_parts(half, device=CPU, dtype=torch.float32)
    assert {m.dtype for m in (parts.vae, parts.unet, parts.text_encoder)} == {torch.float32}
    for file in list(half.rglob("*.safetensors")):
        file.rename(file.with_suffix(".fp16.safetensors"))
    again = load_parts(half, device=CPU, dtype=torch.float32)
    assert torch.equal(next(again.unet.parameters()), next(parts.unet.parameters()))


def test_the_file_nearest_to_the_precision_is_read(copy: Path) -> None:
    plain = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(plain)
    for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        marked = {k: torch.full_like(v, 0.5 if name == "fp16" else 0.25).to(dtype) for k, v in weights.items()}
        save_file(marked, plain.with_suffix(f".{name}.safetensors"), {"format": "pt"})
    for dtype, expected in ((torch.float32, None), (torch.float16, 0.5), (torch.bfloat16, 0.25)):
        value = next(load_parts(copy, device=CPU, dtype=dtype).unet.parameters())
        assert (expected is None) == (len(value.unique()) > 1)
        assert expected is None or value.unique().tolist() == [expected]
    for file in (plain, plain.with_suffix(".fp16.safetensors")):
        file.unlink()
    assert next(load_parts(copy, device=CPU, dtype=torch.float32).unet.parameters()).unique().tolist() == [0.25]


@pytest.mark.parametrize("part", ["vae/diffusion_pytorch_model", "unet/diffusion_pytorch_model", "text_encoder/model"])
@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_file_cut_short_is_named(copy: Path, part: str, keep: int) -> None:
    file = copy / f"{part}.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(copy, rf"{part}\.safetensors: not a complete safetensors file")


def test_a_git_lfs_pointer_is_recognised(copy: Path) -> None:
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3438167540\n")
    refused(copy, "git lfs pull fetches the real file")


def test_missing_and_misshapen_weights_are_refused_rather_than_drawn_at_random(copy: Path) -> None:
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if k != "conv_in.weight"}, file)
    refused(copy, r"unet/ cannot be read: it lacks 1 of its weights, 'conv_in.weight' for one")
    save_file(weights | {"conv_in.weight": torch.zeros(3, 3)}, file)
    refused(copy, r"unet/ cannot be read")
    save_file(weights, file)
    text = copy / "text_encoder" / "model.safetensors"
    weights = load_file(text)
    save_file({k: v for k, v in weights.items() if "token_embedding" not in k}, text)
    refused(copy, r"text_encoder/ cannot be read: it lacks 1 of its weights, '.*token_embedding.weight'")


@pytest.mark.parametrize("file", ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[1, 2]"])
def test_broken_settings_are_refused(copy: Path, file: str, content: str) -> None:
    (copy / file).write_text(content)
    refused(copy, f"{file}(:| is not) (valid JSON|expected a JSON object)")


def test_a_broken_tokenizer_is_refused(copy: Path) -> None:
    file = copy / "tokenizer" / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:1000])
    refused(copy, "tokenizer/ cannot be read")
    file.unlink()
    load_parts(copy, device=CPU, dtype=torch.float32)  # the older form will do
    (copy / "tokenizer" / "merges.txt").unlink()
    refused(copy, r"expected tokenizer/ to hold tokenizer\.json or vocab\.json and merges\.txt")


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("vae/config.json", {"latent_channels": 16}, "vae/ cannot be read|latent|expected a unet"),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "its unet to have in_channels 4, .* got 8"),
        ("vae/config.json", {"scaling_factor": 0}, "its vae to have a scaling_factor above 0, got 0"),
        ("vae/config.json", {"scaling_factor": math.nan}, "a scaling_factor above 0, got nan"),
        ("vae/config.json", {"scaling_factor": "x"}, "a scaling_factor above 0, got 'x'"),
        ("model_index.json", {"scheduler": ["diffusers", "os"]}, "one of diffusers', got 'os'"),
        ("model_index.json", {"scheduler": ["diffusers", "UNet2DConditionModel"]}, "one of diffusers'"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(copy: Path, file: str, change: dict, words: str) -> None:
    edit_json(copy / file, **change)
    refused(copy, words)


def test_an_index_with_a_byte_order_mark_is_read(copy: Path) -> None:
    index = copy / "model_index.json"
    index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes())
    load_parts(copy, device=CPU, dtype=torch.float32)


def test_schedules_other_than_ddpm_are_refused(copy: Path) -> None:
    with pytest.raises(ValueError, match=r"FlowMatchEulerDiscreteScheduler: expected one with alphas_cumprod"):
        read_schedule(FlowMatchEulerDiscreteScheduler())
    edit_json(copy / "scheduler" / "scheduler_config.json", prediction_type="sample")
    with pytest.raises(ValueError, match="expected prediction_type epsilon or v_prediction, got 'sample'"):
        InstructPrior.load(copy, device="cpu")


def test_a_text_to_image_model_is_no_instruction_editor(tmp_path: Path) -> None:
    directory = write_tiny_prior(tmp_path / "t2i", kind="text-to-image")
    with pytest.raises(ValueError, match="expected an instruction editor, got a text-to-image model"):
        InstructPrior.load(directory, device="cpu")


def test_a_hub_id_that_is_not_cached_is_an_error_offline() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"'no-such/prior': it is not in the hub's cache .*--offline.*--prior no-such/prior"
    ) as caught:
        InstructPrior.load("no-such/prior", device="cpu", offline=True)
    assert "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in ("stacktrace", "local_files_only", "Please"))


@pytest.mark.parametrize("error", [OSError("Cannot reach the hub\nwith more lines"), ValueError("no safetensors")])
def test_a_hub_id_that_cannot_be_fetched_is_an_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(DiffusionPipeline, "download", fail)
    with pytest.raises(FileNotFoundError, match=r"cannot be had from the hub: (Cannot reach|no safetensors)") as caught:
        InstructPrior.load("owner/name", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("half", "variants"), [(False, [None]), (True, ["fp16"])])
def test_a_hub_id_is_fetched_once_with_what_was_asked_for(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, half: bool, variants: list[str | None]
) -> None:
    asked: list[dict] = []

    def download(name: str, **settings: object) -> str:
        asked.append(settings | {"name": name})
        return str(tiny)

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    hub = Resolved("owner/name", None, None, builtin=False)
    assert fetch(hub, revision="v1", offline=True, half=half) == tiny
    assert [a["variant"] for a in asked] == variants
    for name, value in {
        "name": "owner/name",
        "revision": "v1",
        "local_files_only": True,
        "use_safetensors": True,
    }.items():
        assert asked[0][name] == value


def test_a_directory_has_no_revisions(tiny: Path) -> None:
    with pytest.raises(ValueError, match="only a hub id has revisions"):
        InstructPrior.load(tiny, revision="main", device="cpu")


def test_devices_and_precisions_that_cannot_be_used_are_refused(tiny: Path) -> None:
    assert pick_device("cpu") == CPU
    with pytest.raises(ValueError, match="expected 'cpu', 'cuda' or 'cuda:N', got 'gpu please'"):
        pick_device("gpu please")
    with pytest.raises(ValueError, match="expected a CUDA device that is there"):
        pick_device("cuda:99")
    for name in ("meta", "mps", "xpu", "hpu"):
        with pytest.raises(ValueError, match=f"device '{name}': expected one that this torch can compute on") as caught:
            pick_device(name)
        assert len(str(caught.value)) < 200
    assert pick_dtype(None, CPU) == torch.float32
    assert pick_dtype(None, torch.device("cuda")) == torch.float16
    assert pick_dtype(torch.bfloat16, CPU) == torch.bfloat16
    with pytest.raises(ValueError, match="expected float32 or bfloat16 on a CPU"):
        InstructPrior.load(tiny, device="cpu", dtype=torch.float16)
    with pytest.raises(ValueError, match="precision"):
        pick_dtype(torch.float64, CPU)
    with pytest.raises(ValueError, match="memory_gb: expected more than 0, got 0"):
        InstructPrior.load(tiny, device="cpu", memory_gb=0.0)


def test_loading_says_nothing_and_leaves_the_libraries_settings_alone(
    tiny: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = (diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled())
    with caplog.at_level(logging.WARNING):
        InstructPrior.load(tiny, device="cpu")
    out, err = capfd.readouterr()
    assert (out, err, caplog.messages) == ("", "", [])
    assert (diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled()) == before
