"""Distillation: no picture is replaced; in every step the CSD gradient of a few renders arrives at the field itself.

    z = encode(render)      g = csd_step(z, s)      loss = <z, g> / number of elements of z, g held fixed

Where a scene is made from nothing, there is no source, and s = z.

The derivative of the loss by z is g, up to that number. g goes through the encoder to the render first and is divided
then, as in half precision it would vanish otherwise; autograd carries it on to whatever drew the render. Of several
processes each has the loss of its own renders, whose mean is that of all.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csd3d.attention.presets import Attention
from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import draw_noise, draw_timestep
from csd3d.engine.step import csd_step, measured, require_finite, scalar_kernel, surrogate_loss
from csd3d.engine.transport import Correspondences, TransportKernel
from csd3d.engine.types import Batch
from csd3d.media.geometry import WorkingSize, to_working, working_size
from csd3d.priors.prior import Prior, Prompts
from csd3d.runs.ranks import SharedScore, gather, local_indices


def distil_loss(
    renders: Float[Tensor, "m 3 _h _w"],
    sources: Float[Tensor, "m 3 _H _W"] | None,
    count: int,
    prior: Prior,
    prompts: Prompts,
    csd: CsdConfig,
    *,
    rng: torch.Generator,
    step: int,
    size_px: int,
    attention: Attention | None = None,
    sentence: Sequence[int] | None = None,
    inside: Bool[Tensor, "m 1 _h _w"] | None = None,
    correspondences: Callable[[WorkingSize, int], Correspondences] | None = None,
) -> Float[Tensor, ""]:
    """The surrogate loss of one step.

    Args:
        renders: what the field shows, in [0, 1], with the graph to it. Of several processes each brings its share.
        sources: what the cameras saw of the same, in [0, 1], at any size of the same aspect; None: there are none.
        count: particles of all processes together, equally many of each.
        prior: of either kind.
        prompts: the sentence or sentences, and the caption of the sources for text-to-image priors.
        csd: settings of the engine.
        rng: on the CPU, in the same state in every process.
        step: for messages.
        size_px: shorter side at which the prior works.
        attention: how the prior's is controlled; None = as it is.
        sentence: which of several sentences each particle of all processes has; None: there is one.
        inside: where the field may change: no gradient arrives elsewhere. None = everywhere.
        correspondences: where the points of one render are in the others, by the size at which the prior works and the
            pixels along a latent. None = renders are coupled place by place, if at all.

    Raises:
        UnknownPrompt: the prior knows a closed set of sentences, and this is not among them.
        ValueError: what is asked for is nothing that the prior can serve.
        FloatingPointError: a gradient is not finite.
    """
    height, width = (renders if sources is None else sources).shape[-2:]
    size = working_size(Fraction(width, height), size_px, prior.multiple_px)
    score = SharedScore(prior.score_under(csd, prompts, attention))
    if inside is not None:
        renders = torch.where(inside.to(renders.device), renders, renders.detach())
    seen = to_working(renders, size)
    x = seen.detach().requires_grad_()
    mine = prior.codec.encode(x.to(prior.device))
    z = s = gather(mine, count)
    if sources is not None:
        with torch.no_grad():
            s = gather(prior.codec.encode(to_working(sources, size).to(prior.device)), count)
    index = torch.arange(count) if sentence is None else torch.tensor(sentence)
    t = score.schedule.shifted(draw_timestep(rng, csd), csd.shift)
    e = draw_noise(z, rng, csd)
    particles = score.schedule.noised(Batch(z, s, index), t, e)
    kernel = None
    if correspondences is not None:
        kernel = TransportKernel(correspondences(size, prior.codec.factor), scalar_kernel(score, csd))
    result = csd_step(score, particles, csd, kernel=kernel)
    require_finite(measured(result), particles, step=step)
    (g,) = torch.autograd.grad(mine, x, result.g[local_indices(count)])
    return surrogate_loss(seen, g) / mine.numel()
