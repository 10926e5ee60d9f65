"""Ordinary sampling from noise with the schedulers of diffusers, as its pipelines do it."""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Num
from torch import Tensor

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

Sampler = Literal["own", "ddim"]
"""The scheduler that a prior's directory names, or DDIM (Song et al. 2021)."""
Predict = Callable[[Float[Tensor, "n c h w"], Num[Tensor, ""]], Float[Tensor, "n c h w"]]
"""From scaled noisy latents and a timestep to the guided output of the network."""
Before = Callable[[Float[Tensor, "n c h w"], Num[Tensor, ""], int], Float[Tensor, "n c h w"]]
"""From noisy latents, a timestep and the number of a step to the latents from which the step is made."""


def denoise(
    stepper: Any,  # a scheduler; diffusers types neither step nor config
    predict: Predict,
    shape: Sequence[int],
    noise: Float[Tensor, "m c h w"] | None,
    rng: torch.Generator,
    *,
    device: torch.device,
    before: Before | None = None,
    part: slice = slice(None),
) -> Float[Tensor, "n c h w"]:
    """Latents of `shape` from noise, as the diffusers pipelines make them, on `device`.

    Args:
        stepper: A scheduler whose timesteps are set; its state changes.
        noise: Unit variance; one row (m = 1) is shared. None: drawn from `rng`.
        rng: On the CPU. Draws the noise of the steps too, when the sampler is a random one.
        before: Called before each step. None: nothing is done there.
        part: The steps that are made, of all `steps`. Those after the first go on from `noise`, which then holds what
            the steps before have left. For samplers without memory, such as DDIM.

    Raises:
        ValueError: Noise of another shape.
    """
    if noise is None:
        noise = torch.randn(*shape, generator=rng)
    if noise.shape[0] not in (1, shape[0]) or tuple(noise.shape[1:]) != tuple(shape[1:]):
        raise ValueError(f"noise: expected shape {tuple(shape)} or one row of it, got {tuple(noise.shape)}")
    random = {"generator": rng} if "generator" in inspect.signature(stepper.step).parameters else {}
    numbered = list(enumerate(stepper.timesteps))[part]
    begins = part.start in (None, 0)
    z = noise.to(device, torch.float32).expand(*shape) * (getattr(stepper, "init_noise_sigma", 1.0) if begins else 1)
    for number, t in numbered:
        if before is not None:
            z = before(z, t, number)
        z_in = stepper.scale_model_input(z, t) if hasattr(stepper, "scale_model_input") else z  # flow models: as it is
        z = stepper.step(predict(z_in, t), t, z, **random).prev_sample
    return z


def timesteps_of(scheduler: "SchedulerMixin", sampler: Sampler, steps: int) -> list[int]:
    """Those of so many steps, from noise."""
    stepper = fresh_scheduler(scheduler, sampler)
    stepper.set_timesteps(steps)
    return [int(t) for t in stepper.timesteps]


def fresh_scheduler(scheduler: "SchedulerMixin", sampler: Sampler) -> Any:  # diffusers types neither step nor config
    """A scheduler of our own to step, with the settings of a loaded one."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    loaded: Any = scheduler
    if sampler == "own":
        return type(loaded).from_config(loaded.config)
    last = loaded.config.get("set_alpha_to_one", False)  # what a config does not say, DDIM would fill in for pixels
    return DDIMScheduler.from_config(loaded.config, clip_sample=False, thresholding=False, set_alpha_to_one=last)
