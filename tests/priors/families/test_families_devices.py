"""All families on a GPU: in half precision, with parts that wait on the CPU, and in fewer bits."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from csd3d.engine.types import Batch
from csd3d.priors.families.load import load_family
from csd3d.priors.families.prior import FamilyPrior
from csd3d.priors.loading import Loading, Quantise
from csd3d.priors.prior import Guidance, Prompts
from tests.devices import CUDA, on_cuda
from tests.priors.families.tiny import CLIPS, FAMILIES

Write = Callable[[str], Path]
Load = Callable[[str], FamilyPrior]
SOME = ["klein", "kontext", "sdxl-ip2p", "qwen-edit", "dreamlite", "sd3", "z-image", "lucy"]
"""One of each way in which pipelines call their networks."""


def target(prior: FamilyPrior) -> Tensor:
    """A prediction, always of the same latents and sources."""
    frames = 3 if prior.family.of_clips else 1
    shape = (1, frames * prior.codec.channels, 64 // prior.codec.factor, 64 // prior.codec.factor)
    s = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = prior.schedule.noised(Batch(s, s, torch.arange(1)), 300, s.flip(-1))
    source = None if prior.kind == "instruct" else "a photo"
    return prior.score(Prompts("make it snowy", source), Guidance(2.0, 1.5)).target(x)


def off(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference against that of what was expected."""
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "device"), [("klein", "cpu"), *(pytest.param(name, "cuda", marks=CUDA) for name in [*FAMILIES, *CLIPS])]
)
def test_half_precision_predicts_about_the_same(name: str, device: str, family_path: Write, family: Load) -> None:
    dtype = torch.bfloat16 if device == "cpu" else None  # its own
    half = load_family(family_path(name), device=device, dtype=dtype)
    found = target(half)
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    assert off(found, target(family(name))) < 0.1


@on_cuda
@pytest.mark.parametrize("name", SOME)
def test_parts_that_wait_on_the_cpu_predict_the_same(name: str, family_path: Write) -> None:
    whole, waiting = (
        load_family(family_path(name), device="cuda", how=Loading(offload=wait)) for wait in (False, True)
    )
    assert off(target(waiting), target(whole)) < 1e-3
    assert waiting.decode(torch.randn(1, waiting.codec.channels, 8, 8)).isfinite().all()


@on_cuda
@pytest.mark.parametrize(("quantise", "package"), [("fp8", "torch"), ("int8", "torchao"), ("nf4", "bitsandbytes")])
@pytest.mark.parametrize("name", ["klein", "qwen-edit"])
def test_fewer_bits_predict_about_the_same(name: str, quantise: Quantise, package: str, family_path: Write) -> None:
    pytest.importorskip(package)
    whole, small = (load_family(family_path(name), device="cuda", how=Loading(quantise=q)) for q in ("none", quantise))
    assert off(target(small), target(whole)) < 0.3
