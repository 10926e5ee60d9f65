"""Speed and memory of networks on a device, as Markdown: of Stable Diffusion 1.5's size with random weights, and ours.

    python -m scripts.gpu.networks [--device cuda]

Calls are those of the engine (`Denoiser`, `VaeCodec`), so planned memory is what `Chunks` would plan with.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from csd3d.attention.rows import Rows
from csd3d.attention.words import Tokens
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.codec import VaeCodec
from csd3d.priors.networks.denoiser import Denoiser, layout
from scripts.benchmarks.memory import peak_memory

SD_UNET: Mapping[str, Any] = {
    "sample_size": 64, "in_channels": 8, "out_channels": 4, "cross_attention_dim": 768, "attention_head_dim": 8,
}  # fmt: skip
"""InstructPix2Pix, by diffusers' defaults."""
SD_VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
}
MOST_ROWS = 4096
"""In one call."""


@dataclass(frozen=True)
class Settings:
    """Speed and memory of networks, as Markdown on the standard output."""

    device: str = "cuda"
    rows: tuple[int, ...] = (1, 8, 40, 160)
    """Rows of a call of a UNet."""
    pictures: tuple[int, ...] = (1, 8)
    """Pictures of a call of an autoencoder."""
    repeats: int = 3
    """Calls of which the fastest counts."""
    compiled: bool = True
    """Compiled UNets too."""


@dataclass(frozen=True)
class Call:
    """One call that was measured."""

    rows: int
    seconds: float
    bytes: float
    """Peak above what was there before; NaN where it is not known."""


def measure(call: Callable[[], object], rows: int, device: torch.device, repeats: int) -> Call:
    """The fastest of some calls after one that does not count, and the peak of memory."""
    call()
    wait(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else float("nan")
    peak, best = peak_memory(device), float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        wait(device)
        best = min(best, time.perf_counter() - began)
    return Call(rows, best, 1e6 * peak() - before)


def wait(device: torch.device) -> None:
    """Until all that the device was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def predicting(
    denoiser: Denoiser, rows: int, side_lat: int, channels: int, text: tuple[int, int]
) -> Callable[[], Tensor]:
    """A prediction of the UNet for so many rows."""
    x = torch.randn(rows, channels, side_lat, side_lat, device=denoiser.device)
    embedding = torch.randn(rows, *text, device=denoiser.device)
    about = Rows.of(
        "target", ("IT",), range(rows), lambda *_: Tokens((), text[0]), noise=0.3, size_lat=(side_lat, side_lat)
    )
    return lambda: denoiser.predict(lambda index: (x[index], embedding[index]), about, 321)


@torch.no_grad()
def unets(settings: Settings, config: Mapping[str, Any] = SD_UNET) -> Iterator[str]:
    """Lines of a table: a UNet of a config, in every precision."""
    device = torch.device(settings.device)
    side, text = int(config["sample_size"]), (77, int(config["cross_attention_dim"]))
    half = (torch.bfloat16,) if device.type == "cpu" else (torch.float16, torch.bfloat16)
    for dtype in (torch.float32, *half):
        for compiled in (False, True) if settings.compiled and dtype != torch.float32 else (False,):
            unet: Any = UNet2DConditionModel.from_config(dict(config))
            unet = unet.requires_grad_(False).to(device, dtype).to(memory_format=layout(device))
            denoiser = Denoiser(unet, chunks=Chunks(device, max_rows=MOST_ROWS), compiled=compiled)
            how = f"{str(dtype).removeprefix('torch.')}{', compiled' if compiled else ''}"
            yield from lines(
                how, settings.rows, settings, denoiser.row_bytes((side, side)),
                lambda rows, d=denoiser: predicting(d, rows, side, int(config["in_channels"]), text),
            )  # fmt: skip
            del unet, denoiser


@torch.no_grad()
def codecs(settings: Settings, config: Mapping[str, Any] = SD_VAE, side_px: int = 512) -> Iterator[str]:
    """Lines of a table: an autoencoder of a config, encoding and decoding."""
    device = torch.device(settings.device)
    vae: Any = AutoencoderKL(**config)
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    codec = VaeCodec(vae.requires_grad_(False).to(device, dtype), chunks=Chunks(device, max_rows=MOST_ROWS))
    planned = codec.row_bytes(side_px, side_px)

    def encoding(count: int) -> Callable[[], Tensor]:
        rgb = torch.rand(count, 3, side_px, side_px, device=device)
        return lambda: codec.encode(rgb)

    def decoding(count: int) -> Callable[[], Tensor]:
        z = torch.zeros(count, codec.channels, side_px // codec.factor, side_px // codec.factor, device=device)
        return lambda: codec.decode(z)

    yield from lines("encoding", settings.pictures, settings, planned, encoding)
    yield from lines("decoding", settings.pictures, settings, planned, decoding)


@torch.no_grad()
def builtin(settings: Settings) -> Iterator[str]:
    """Lines of a table: the built-in editor's UNet."""
    device = torch.device(settings.device)
    for dtype in (torch.float32, torch.bfloat16) if device.type == "cpu" else (torch.float32, torch.float16):
        prior = InstructPrior.load("builtin", device=device, dtype=dtype)
        text = prior.embed(["make it snowy"])
        yield from lines(
            str(dtype).removeprefix("torch."), settings.rows, settings, prior.denoiser.row_bytes((16, 16)),
            lambda rows, p=prior, t=text: predicting(p.denoiser, rows, 16, 8, (t.shape[1], t.shape[2])),
        )  # fmt: skip


def lines(
    name: str,
    counts: Sequence[int],
    settings: Settings,
    planned: int,
    calls: Callable[[int], Callable[[], Tensor]],
) -> Iterator[str]:
    """A line for each number of rows; the last one that fits is the last one measured."""
    device, first = torch.device(settings.device), None
    for count in counts:
        try:
            found = measure(calls(count), count, device, settings.repeats)
        except torch.OutOfMemoryError:
            yield f"| {name} | {count} | does not fit | | | |"
            return
        first = first or found
        more = (found.bytes - first.bytes) / (found.rows - first.rows) if found.rows > first.rows else found.bytes
        ratio = f"{planned / more:.2f}" if more > 0 else ""
        yield (
            f"| {name} | {count} | {count / found.seconds:.1f} | {1e3 * found.seconds / count:.2f} "
            f"| {more / 1e6:.0f} | {ratio} |"
        )


def table(title: str, rows: Iterator[str]) -> Iterator[str]:
    """A title and its table, each line as soon as it is known."""
    yield from (f"### {title}", "")
    yield "| | rows | rows / s | ms / row | MB for one more row | planned / real |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    yield from rows
    yield ""


def main(settings: Settings) -> int:
    """Print everything; returns the exit code."""
    for title, rows in (
        ("UNet of 860 M parameters, 64 x 64 latents", unets(settings)),
        ("Its autoencoder, 512 x 512 px", codecs(settings)),
        ("The built-in editor's UNet, 16 x 16 latents", builtin(settings)),
    ):
        for line in table(title, rows):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
