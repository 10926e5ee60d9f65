"""One training loop for every model: data-parallel, averaged weights, resumable at any moment, reproducible.

A batch is a function of (seed, step, rank), so nothing but the step number has to be remembered to go on where a killed
run stopped. State is safetensors: weights, their running average and Adam's moments.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Plan:
    """How long and how fast one model learns."""

    steps: int
    lr: float
    """Peak learning rate: linear warm-up over `warmup` steps, then a cosine to a hundredth."""
    warmup: int = 200
    ema: float = 0.997
    weight_decay: float = 0.01
    clip: float = 1.0
    save_seconds: float = 120.0
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class FastGroupNorm(nn.GroupNorm):
    """GroupNorm through layer_norm, whose backward pass is several times faster on a CPU. Same weights, same result."""

    def forward(self, input: Tensor) -> Tensor:
        n, c = input.shape[:2]
        rows = input.reshape(n * self.num_groups, -1)
        y = nn.functional.layer_norm(rows, (rows.shape[1],), eps=self.eps).view_as(input)
        shape = (1, c) + (1,) * (input.ndim - 2)
        return y * self.weight.view(shape).to(y.dtype) + self.bias.view(shape).to(y.dtype)


def use_fast_norm(model: nn.Module) -> None:
    """Swap the class of every GroupNorm of a model in training; what is saved does not change."""
    for module in model.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = FastGroupNorm


def autocast_on(device: str) -> torch.autocast:
    """bfloat16 where the device multiplies matrices in it; else float32: without such units the casts cost more."""
    fast = device != "cpu" or torch.cpu._is_amx_tile_supported()
    return torch.autocast(device, torch.bfloat16, enabled=fast)


def rank_and_world() -> tuple[int, int]:
    """This process among its fellows; (0, 1) when alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def step_generator(plan: Plan, step: int) -> torch.Generator:
    """The source of every random number of one step on this rank."""
    rank, world = rank_and_world()
    return torch.Generator().manual_seed((plan.seed * 1_000_003 + step) * world + rank)


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    _, world = rank_and_world()
    if world == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= world
    offset = 0
    for p in parameters:
        if p.grad is not None:
            p.grad.copy_(flat[offset : offset + p.numel()].view_as(p))
            offset += p.numel()


def _save(path: Path, model: nn.Module, ema: dict[str, Tensor], optimiser: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"ema.{k}": v for k, v in ema.items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": v for k, v in state.items()}
    partial = path.with_suffix(".part")
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, partial, metadata={"step": str(step)})
    os.replace(partial, path)


def _load(path: Path, model: nn.Module, ema: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> int:
    with safe_open(path, "pt") as f:
        step = int(f.metadata()["step"])
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for k in ema:
        ema[k].copy_(tensors[f"ema.{k}"])
    state: dict[int, dict[str, Tensor]] = {}
    for k, v in tensors.items():
        if k.startswith("adam."):
            _, i, name = k.split(".")
            state.setdefault(int(i), {})[name] = v
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return step


def averaged(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights in the checkpoint of an unfinished run, and whatever else the model consists of."""
    tensors = load_file(checkpoint)
    model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    return model | {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}


def train(
    model: nn.Module, loss_of: Callable[[int, torch.Generator], Tensor], plan: Plan, checkpoint: Path
) -> dict[str, Tensor]:
    """Minimise `loss_of(step, generator)`; returns the averaged weights.

    Starts from `checkpoint` if it is there, and writes it every `plan.save_seconds` and at the end.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=plan.weight_decay, betas=(0.9, 0.99), fused=True)
    ema = {k: v.detach().clone() for k, v in model.named_parameters()}
    rank, _ = rank_and_world()
    first = _load(checkpoint, model, ema, optimiser) if checkpoint.exists() else 0
    log = checkpoint.with_suffix(".jsonl").open("a") if rank == 0 else None
    begun = saved = time.monotonic()
    running = torch.zeros(())
    for step in range(first, plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = plan.lr_at(step)
        loss = loss_of(step, step_generator(plan, step))
        loss.backward()
        _average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, plan.clip)
        optimiser.step()
        optimiser.zero_grad()
        keep = min(plan.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_([ema[k] for k, _ in model.named_parameters()], [*model.parameters()], 1 - keep)
        running += loss.detach().cpu()
        if log and (step + 1) % 50 == 0:
            rate = (step + 1 - first) / (time.monotonic() - begun)
            row = {"step": step + 1, "loss": round(running.item() / 50, 5), "lr": plan.lr_at(step)}
            row |= {"steps_per_s": round(rate, 2), "minutes_left": round((plan.steps - step - 1) / rate / 60, 1)}
            log.write(json.dumps(row) + "\n")
            log.flush()
            running.zero_()
        if rank == 0 and (time.monotonic() - saved > plan.save_seconds or step + 1 == plan.steps):
            _save(checkpoint, model, ema, optimiser, step + 1)
            saved = time.monotonic()
    return ema


def _one_of(rank: int, world: int, meeting: str, work: Callable[[], None]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    try:
        work()
    finally:
        dist.destroy_process_group()


def in_parallel(world: int, work: Callable[[], None]) -> None:
    """Run picklable `work` in `world` processes joined by gloo (two single-threaded ones beat two threads on a CPU)."""
    if world == 1:
        work()
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _one_of, (world, f"{folder}/meeting", work), nprocs=world, start_method="spawn"
        )
