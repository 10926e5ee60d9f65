"""Priors on a GPU: precisions agree, a step does not wait for it, memory that runs out makes calls smaller.

Bodies that can run on the CPU do so too; see `tests/devices.py`.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csd3d.engine import Batch, CsdConfig, RbfKernel, csd_step, descend, measured, require_finite
from csd3d.engine.regularisers import PatchNce
from csd3d.engine.types import Noised
from csd3d.priors.instruct import InstructPrior, InstructScore
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior, TextToImageScore
from tests.devices import DEVICES, on_cuda
from tests.priors.tiny import write_tiny_prior

HALF = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far a prediction may be off, against its own size."""
N = 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("priors")
    return {
        "instruct": write_tiny_prior(folder / "editor"),
        "text-to-image": write_tiny_prior(folder / "stock", kind="text-to-image", stock=True, closed=False),
    }


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def score_on(
    folders: dict[str, Path], kind: str, device: str, dtype: torch.dtype = torch.float32, **options: Any
) -> InstructScore | TextToImageScore:
    if kind == "instruct":
        prior = InstructPrior.load(folders[kind], device=device, dtype=dtype, **options)
        return prior.score(Prompts("make it snowy"), Guidance(2.0, 1.5))
    prior = TextToImagePrior.load(folders[kind], device=device, dtype=dtype, **options)
    return prior.score(Prompts("a red ball", source="a blue ball"), Guidance(2.0))


def particles(score: InstructScore | TextToImageScore, device: str) -> Noised:
    rng = torch.Generator().manual_seed(1)
    z, s, e = (torch.randn(N, 4, 8, 8, generator=rng).to(device) for _ in range(3))
    return score.schedule.noised(Batch(z, s, torch.arange(N)), 300, e)


def off(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference against that of what was expected."""
    return float((found.cpu().double() - expected.double()).square().mean().sqrt() / expected.double().std())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", ["instruct", "text-to-image"])
def test_a_step_is_that_of_the_cpu_in_every_precision(
    folders: dict[str, Path], kind: str, dtype: torch.dtype, device: str
) -> None:
    if device == "cpu" and dtype == torch.float16:
        pytest.skip("CPUs have no float16")
    here, there = score_on(folders, kind, "cpu"), score_on(folders, kind, device, dtype)
    expected = csd_step(here, particles(here, "cpu"), CsdConfig())
    found = csd_step(there, x := particles(there, device), CsdConfig())
    assert found.g.device.type == device
    assert found.g.dtype == torch.float32
    assert off(there.target(x), here.target(particles(here, "cpu"))) < HALF[dtype]
    assert off(found.r, expected.r) < 10 * HALF[dtype]  # of two that are nearly the same
    require_finite(measured(found), x, step=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALF)
def test_gradients_through_the_network_do_not_vanish_in_half_precision(
    folders: dict[str, Path], dtype: torch.dtype, device: str
) -> None:
    if device == "cpu" and dtype == torch.float16:
        pytest.skip("CPUs have no float16")
    here, there = score_on(folders, "text-to-image", "cpu"), score_on(folders, "text-to-image", device, dtype)
    term = {score: PatchNce(score, patches=4, weight=1.0) for score in (here, there)}
    expected = term[here](particles(here, "cpu"))
    found = term[there](particles(there, device))
    assert (found != 0).float().mean() > 0.99
    assert off(found, expected) < 20 * HALF[dtype]


@pytest.mark.parametrize("device", DEVICES)
def test_pictures_come_back_from_latents(folders: dict[str, Path], device: str) -> None:
    prior = InstructPrior.load(folders["instruct"], device=device)
    rgb = torch.rand(3, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    here = InstructPrior.load(folders["instruct"], device="cpu")
    z = prior.encode(rgb)
    assert z.device.type == "cpu"
    tolerance = 0.05 if device == "cuda" else 1e-6  # in float16 there
    assert (z - here.encode(rgb)).abs().max() < tolerance * here.encode(rgb).abs().max()
    assert (prior.decode(z) - here.decode(z)).abs().max() < tolerance


@on_cuda
@pytest.mark.parametrize("kind", ["instruct", "text-to-image"])
def test_a_step_does_not_wait_for_the_gpu(folders: dict[str, Path], kind: str) -> None:
    score = score_on(folders, kind, "cuda", torch.float16)
    x = particles(score, "cuda")
    csd_step(score, x, CsdConfig(), kernel=RbfKernel())  # libraries wait when they begin
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = csd_step(score, x, CsdConfig(), kernel=RbfKernel())
        descend(x.z, result.g, None, lr=0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    require_finite(measured(result), x, step=0)


@on_cuda
def test_memory_that_runs_out_makes_calls_smaller() -> None:
    device = torch.device("cuda:0")
    free, _ = torch.cuda.mem_get_info(device)
    sizes: list[int] = []

    def call(rows: slice) -> Tensor:
        torch.empty((rows.stop - rows.start) * (free // 3), dtype=torch.uint8, device=device)
        sizes.append(rows.stop - rows.start)
        return torch.arange(rows.start, rows.stop)

    chunks = Chunks(device)
    assert torch.equal(chunks.map(call, 16, row_bytes=1), torch.arange(16))
    assert max(sizes) <= 2
    assert "ran out of memory with 16 rows in one call; going on with 8" in chunks.notes[0]


@on_cuda
def test_a_compiled_network_predicts_the_same(folders: dict[str, Path]) -> None:
    plain, compiled = (score_on(folders, "instruct", "cuda", compiled=x) for x in (False, True))
    x = particles(plain, "cuda")
    assert off(compiled.target(x), plain.target(x).cpu()) < 1e-3


@on_cuda
def test_planned_memory_is_what_a_call_takes(tmp_path: Path) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from csd3d.priors.networks.denoiser import Denoiser, layout
    from scripts.gpu.networks import SD_UNET, predicting

    device = torch.device("cuda:0")
    unet: Any = UNet2DConditionModel.from_config(dict(SD_UNET))
    unet = unet.requires_grad_(False).half().to(device).to(memory_format=layout(device))
    denoiser = Denoiser(unet, chunks=Chunks(device, 10**13, max_rows=64))
    peaks: list[int] = []
    for rows in (4, 20):
        call = predicting(denoiser, rows, 64, 8, (77, 768))
        call()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert 0.7 < denoiser.row_bytes((64, 64)) / ((peaks[1] - peaks[0]) / 16) < 1.5
