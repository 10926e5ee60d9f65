"""A step on a GPU, checked without one: tensors that have shapes, types and devices, but no memory (`FakeTensorMode`).

Operations that mix devices raise there, and so does whatever needs a value on the host: each would wait for the GPU.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from csd3d.attention import Tokens
from csd3d.engine import (
    METHODS,
    Batch,
    CsdConfig,
    Kernel,
    RbfKernel,
    Schedule,
    Score,
    TransportKernel,
    csd_step,
    descend,
    first_moments,
    measured,
    optimise,
)
from csd3d.priors import instruct, text_to_image
from csd3d.priors.instruct import InstructPrior, InstructScore
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.denoiser import Denoiser
from csd3d.priors.prior import Guidance
from csd3d.priors.prompts.sentences import Sentences, Texts
from csd3d.priors.text_to_image import TextToImagePrior, TextToImageScore
from tests.forking import in_fork
from tests.priors.tiny import write_tiny_prior

CUDA = torch.device("cuda:0")
SD_1_5: Mapping[str, Any] = {"sample_size": 64, "out_channels": 4, "cross_attention_dim": 768, "attention_head_dim": 8}
N = 5


class NoWaiting(TorchDispatchMode):
    """Copies between devices raise, unless they come from the host and nobody waits for them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket is torch.ops.aten._to_copy:
            there = kwargs.get("device")
            if there is not None and there != args[0].device:
                assert args[0].device.type == "cpu", f"a copy to {there} waits for the GPU"
                assert kwargs.get("non_blocking"), f"a copy from the host to {there} waits for the GPU"
                args[0].constant = None  # a value that is known would be copied to a device that is not there
        if func.overloadpacket is torch.ops.aten.copy_:
            assert args[0].device == args[1].device, "a copy between devices"
        return func(*args, **kwargs)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def pretended_gpu() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), NoWaiting():
        yield


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch)


def know(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the host knows without asking the GPU has no values here either: the schedule, and who reads what."""
    monkeypatch.setattr(Schedule, "alpha_bar", lambda self, t: 0.5)
    monkeypatch.setattr(Sentences, "rows", lambda self, index: torch.ones_like(index))
    for module in (instruct, text_to_image, optimise):
        monkeypatch.setattr(module, "numbers", lambda index: [1] * len(index))


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> tuple[InstructPrior, TextToImagePrior]:
    folder: Path = tmp_path_factory.mktemp("priors")
    editor = write_tiny_prior(folder / "editor")
    stock = write_tiny_prior(folder / "stock", kind="text-to-image", stock=True, prediction="v_prediction")
    return InstructPrior.load(editor, device="cpu"), TextToImagePrior.load(stock, device="cpu")


def score_of(
    prior: InstructPrior | TextToImagePrior,
    dtype: torch.dtype,
    guidance: Guidance,
    sentences: int,
    big: bool,
    device: torch.device = CUDA,
) -> Score:
    """The score of a prior whose networks are on the pretended GPU, maybe as big as those of Stable Diffusion 1.5."""
    config = dict(prior.denoiser._unet.config)
    if big:
        config = {**SD_1_5, "in_channels": config["in_channels"]}
    with torch.device(device), default_dtype(dtype):
        unet: Any = UNet2DConditionModel.from_config(config)
        unet.requires_grad_(False)
        text = torch.empty(1 + sentences, 77 if big else 16, config["cross_attention_dim"], dtype=dtype)
    there: Any = {"device": device, "dtype": dtype, "denoiser": Denoiser(unet, chunks=Chunks(device, 10**13))}
    read = Sentences(text, (Tokens((), len(text[0])),) * len(text), Texts(("",) * sentences, None))
    if isinstance(prior, InstructPrior):
        return InstructScore(replace(prior, **there), read, guidance)
    return TextToImageScore(replace(prior, **there), read, read, guidance)


class Still:
    """Correspondences of a clip that stands still, found on the host."""

    def __call__(self, i: int, index: Tensor) -> tuple[Tensor, Tensor]:
        return torch.empty(len(index), 8, 8, 2), torch.empty(len(index), 8, 8)


def step(score: Score, config: CsdConfig, size_lat: int = 8, device: torch.device = CUDA) -> None:
    """One step of 5 particles, and the optimiser's move."""
    kernel: Kernel | None = TransportKernel(Still()) if config.coupling in ("motion", "depth") else None
    z, s, e = (torch.empty(N, 4, size_lat, size_lat, device=device) for _ in range(3))
    result = csd_step(score, score.schedule.noised(Batch(z, s, torch.arange(N)), 321, e), config, kernel=kernel)
    moved, _ = descend(z, result.g, first_moments(z, config.optimizer), lr=0.5)
    assert (moved.device, moved.dtype, moved.shape) == (device, torch.float32, z.shape)


@pytest.mark.parametrize(
    ("coupling", "kind", "dtype"),  # couplings see the scores of both kinds alike
    [
        ("svgd", 0, torch.float16),
        ("motion", 1, torch.bfloat16),
        ("depth", 0, torch.bfloat16),
        ("independent", 1, torch.float16),
    ],
)
def test_a_step_neither_mixes_devices_nor_waits(
    priors: tuple[InstructPrior, TextToImagePrior],
    dtype: torch.dtype,
    kind: Literal[0, 1],
    coupling: Any,
) -> None:
    with pretended_gpu():
        for guidance in (Guidance(7.5, 1.5), Guidance(1.0, 1.0)):
            score = score_of(priors[kind], dtype, guidance, sentences=1, big=False)
            step(score, CsdConfig(coupling=coupling))
    with pretended_gpu():
        score = score_of(priors[kind], dtype, Guidance(1.5, 1.5), sentences=N, big=False)
        step(
            score,
            CsdConfig(coupling=coupling, residual="noise", bandwidth="paper", kernel_on="clean", optimizer="adam"),
        )


@pytest.mark.slow
def test_a_step_of_stable_diffusions_size(priors: tuple[InstructPrior, TextToImagePrior]) -> None:
    with pretended_gpu():
        score = score_of(priors[0], torch.float16, Guidance(7.5, 1.5), sentences=1, big=True)
        step(score, METHODS["csd-edit"], size_lat=64)


def test_the_numbers_of_a_step_are_what_is_waited_for(priors: tuple[InstructPrior, TextToImagePrior]) -> None:
    """And the pretended GPU notices."""
    with pretended_gpu():
        score = score_of(priors[0], torch.float16, Guidance(1.0, 1.0), sentences=1, big=False)
        z, s, e = (torch.empty(N, 4, 8, 8, device=CUDA) for _ in range(3))
        result = csd_step(
            score, score.schedule.noised(Batch(z, s, torch.arange(N)), 321, e), CsdConfig(), kernel=RbfKernel()
        )
        with pytest.raises((DataDependentOutputException, AssertionError, NotImplementedError)):
            measured(result)


def test_nor_does_a_step_with_a_gradient_through_the_network(tmp_path: Path, server: dict[str, str]) -> None:
    """CDS. In a process of its own, which defines a kind of device."""
    editor = write_tiny_prior(tmp_path / "editor")
    stock = write_tiny_prior(tmp_path / "stock", kind="text-to-image", stock=True, prediction="v_prediction")
    code = f"from tests.priors.fake_gradient import main; main({str(editor)!r}, {str(stock)!r})"
    with in_fork(server, "-c", code, cwd=tmp_path) as process:
        said = process.communicate()[0]
    assert process.returncode == 0, said
    assert said.endswith("no device is mixed, nothing waits\n")
