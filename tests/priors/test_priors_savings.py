"""Less memory: weights in 8 bits, layers that wait on the CPU, and what is refused where the means lack."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
import transformers
from torch import Tensor

from csd3d.engine.types import Batch
from csd3d.priors.auto import load_prior
from csd3d.priors.families.load import load_family, read_pipeline
from csd3d.priors.families.prior import FamilyPrior
from csd3d.priors.families.table import FAMILIES
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.loading import Loading, Quantise
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.priors.store.savings import require_savings, wait_on_cpu
from tests.priors.families.tiny import write_family

CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def kontext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("kontext", tmp_path_factory.mktemp("families") / "kontext")


def target(prior: Prior) -> Tensor:
    """A prediction, always of the same latents."""
    s = torch.randn(1, prior.codec.channels, 8, 8, generator=torch.Generator().manual_seed(0))
    x = prior.schedule.noised(Batch(s, s, torch.arange(1)), 300, s.flip(-1))
    return prior.score(Prompts("make it snowy"), Guidance(2.0, 1.5)).target(x)


@pytest.mark.parametrize("name", ["tiny", "kontext"])
def test_eight_bits_predict_about_the_same(name: str, tiny: Path, kontext: Path) -> None:
    path = tiny if name == "tiny" else kontext
    plain, small = (load_prior(path, device="cpu", how=Loading(quantise=q)) for q in ("none", "fp8"))
    network = small.pipe.transformer if isinstance(small, FamilyPrior) else small.denoiser._unet  # pyright: ignore[reportAttributeAccessIssue]
    stored = {p.dtype for p in network.parameters()}
    assert torch.float8_e4m3fn in stored
    a, b = target(plain), target(small)
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    assert (a - b).abs().mean() < 0.1 * a.abs().mean()


def test_layers_that_wait_predict_the_same(tiny: Path, kontext: Path) -> None:
    family = load_family(kontext, device="cpu")
    before = target(family)
    family.conditions._known.clear()
    wait_on_cpu(family.pipe.components.values(), torch.device("cpu"))
    assert torch.equal(target(family), before)
    editor = InstructPrior.load(tiny, device="cpu")
    before = target(editor)
    editor.text._known.clear()
    wait_on_cpu((editor.denoiser._unet, editor.text._encoder, editor.codec._vae), torch.device("cpu"))
    assert torch.equal(target(editor), before)
    assert editor.decode(editor.encode(torch.rand(1, 3, 64, 64))).isfinite().all()


@pytest.mark.parametrize(
    ("how", "device", "whole", "message"),
    [
        (Loading(offload=True), torch.device("cpu"), True, "offload: expected a prior on CUDA, got one on the CPU"),
        (Loading(quantise="int8"), CUDA, True, "quantise: int8 needs torchao: pip install torchao"),
        (Loading(quantise="nf4"), CUDA, True, "quantise: nf4 needs bitsandbytes: pip install bitsandbytes"),
        (Loading(quantise="nf4"), torch.device("cpu"), True, "quantise: expected int8 or fp8 for a prior on the CPU"),
        (Loading(quantise="nf4"), CUDA, False, "quantise: expected none or fp8 but for a family in its directory"),
    ],
)
def test_what_cannot_be_had_is_refused(
    how: Loading, device: torch.device, whole: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csd3d.priors.store.savings.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        require_savings(how, device, whole=whole)


def test_it_is_refused_before_weights_are_read(tiny: Path) -> None:
    with pytest.raises(ValueError, match="offload: expected a prior on CUDA"):
        load_prior(tiny, device="cpu", how=Loading(offload=True))


def test_int8_by_torchao(kontext: Path) -> None:
    pytest.importorskip("torchao")
    plain, small = (load_family(kontext, device="cpu", how=Loading(quantise=q)) for q in ("none", "int8"))
    a, b = target(plain), target(small)
    assert not torch.equal(a, b)
    assert (a - b).abs().mean() < 0.1 * a.abs().mean()


def standing_in(library: ModuleType, name: str) -> type:
    """A configuration of a library that keeps what it was made with, and asks for no package."""

    def keep(self: Any, *args: object, **more: object) -> None:
        self.kind, self.asked = f"{library.__name__}.{name}", (args, more)

    return type(name, (getattr(library, name),), {"__init__": keep})


@pytest.mark.parametrize("quantise", ["int8", "nf4"])
def test_what_diffusers_is_asked_for(quantise: Quantise, kontext: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages are stood in for: one configuration of each library for its own parts, and none for the others."""
    for library in (diffusers, transformers):
        for name in ("TorchAoConfig", "BitsAndBytesConfig"):
            monkeypatch.setattr(library, name, standing_in(library, name))
    weights_only = SimpleNamespace(Int8WeightOnlyConfig=lambda: "int8 weights only")
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", weights_only)
    monkeypatch.setattr(sys.modules["torchao"], "quantization", weights_only, raising=False)
    found, options = dict[str, Any](), dict[str, Any]()
    whole = transformers.T5EncoderModel.from_pretrained

    def read_text(path: str, *, quantization_config: Any, **given: Any) -> Any:
        found[Path(path).name] = quantization_config
        return whole(path, **given)

    def read(path: str, **given: Any) -> None:
        options.update(given)
        raise ValueError("seen")

    monkeypatch.setattr(transformers.T5EncoderModel, "from_pretrained", read_text)
    monkeypatch.setattr(diffusers.FluxKontextPipeline, "from_pretrained", read)
    with pytest.raises(ValueError, match="cannot be read: seen"):
        read_pipeline(kontext, FAMILIES["FluxKontextPipeline"], dtype=torch.bfloat16, how=Loading(quantise=quantise))
    found |= options["quantization_config"].quant_mapping
    assert set(found) == {"transformer", "text_encoder_2"}, "not the autoencoder, nor CLIP"
    own = "TorchAoConfig" if quantise == "int8" else "BitsAndBytesConfig"
    assert found["transformer"].kind == f"diffusers.{own}"
    assert found["text_encoder_2"].kind == f"transformers.{own}"
    four_bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    for asked in found.values():
        assert asked.asked == ((("int8 weights only",), {}) if quantise == "int8" else ((), four_bits))
    assert options["use_safetensors"]
    assert options["local_files_only"]
