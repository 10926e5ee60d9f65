"""Predictions of a network for the windows of a canvas, as an ordinary sampler asks for them."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.attention.attended import AttendedScore
from csd3d.attention.control import Control
from csd3d.attention.score import Controllable
from csd3d.engine.types import Noised
from csd3d.priors.prior import SampledScore
from panorama.windows import Windows


def predict(
    score: SampledScore,
    controls: Sequence[Control],
    windows: Windows,
    z: Float[Tensor, "k c H W"],
    t: Tensor,
    *,
    at_once: int,
) -> Float[Tensor, "m c h w"]:
    """Outputs for all windows of a noisy canvas, so many at a time, under controls."""
    seen, parts = windows.gather(z.cpu()), list[Tensor]()
    with score.controlled(controls) if isinstance(score, Controllable) and controls else nullcontext():
        for index in torch.arange(len(windows)).split(at_once):
            parts.append(score.output(seen[index].to(z), t, index).cpu())
    return torch.cat(parts)


def predict_guided(
    score: AttendedScore, windows: Windows, z: Float[Tensor, "k c H W"], t: int, *, at_once: int
) -> Float[Tensor, "m c h w"]:
    """The same where compositions predict more than once; every layer is a step of its own."""
    outputs = windows.gather(z.cpu())
    for layer in range(len(z)):
        index = (windows.layer == layer).nonzero()[:, 0]
        x_t = outputs[index].to(z)
        x = Noised.from_noisy(x_t, t, torch.full_like(x_t, torch.nan), index)
        step = score.for_step(x)
        for places in torch.arange(len(index)).split(at_once):
            some = x.rows(places.tolist())
            outputs[some.index] = score.score.output_of(step.target(some), some).cpu()
    return outputs
