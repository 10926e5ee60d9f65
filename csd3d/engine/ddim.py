"""Deterministic sampling and its inversion (DDIM, Song et al. 2021), the formulas and the levels between which they go.

    x0^  = (x_t - sqrt(1 - ab_t) e) / sqrt(ab_t)          the clean latent that a noise prediction e means
    x_t' = sqrt(ab_t') x0^ + sqrt(1 - ab_t') e            the same picture at another level, noisier or cleaner

With u = x / sqrt(ab) and tau = sqrt((1 - ab) / ab) this is u' = u + (tau' - tau) e, Euler's scheme for du = e dtau.
Sampling goes down in tau and asks for e at the noisier end of a step. Inversion goes up from the clean latent and asks
at the cleaner end, so the two differ by the error of Euler's scheme, which falls with the number of steps. Rounds of a
fixed point ask at the noisier end too,

    x_t' <- sqrt(ab_t') x0^(x_t, e(x_t', t')) + sqrt(1 - ab_t') e(x_t', t')        (Pan et al. 2023; Garibi et al. 2024)

and where they converge, sampling under the same condition leads back to the start exactly.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.residuals import Score
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Index, Latents, Noised

CLEAN = -1
"""The level of latents without noise, ab = 1. A network that is asked there is asked at timestep 0."""


def timesteps(steps: int, t_max: int) -> tuple[int, ...]:
    """`steps` timesteps below `t_max`, evenly spaced and rising; the last one is t_max - 1, and below the first is
    `CLEAN` (the spacing that ends at the noisiest timestep: Lin et al. 2024, "trailing").

    Raises:
        ValueError: more steps than there are timesteps, or none.
    """
    if not 1 <= steps <= t_max:
        raise ValueError(f"steps: expected 1 to {t_max}, the timesteps of sampling, got {steps}")
    return tuple(-(-t_max * k // steps) - 1 for k in range(1, steps + 1))


def alpha_bar(schedule: Schedule, t: int) -> float:
    """ab_t, 1 at `CLEAN`."""
    return 1.0 if t == CLEAN else schedule.alpha_bar(t)


def clean(x_t: Latents, e: Latents, ab: float) -> Latents:
    """x0^ of `x_t` at level `ab` with noise `e`."""
    return (x_t - (1 - ab) ** 0.5 * e) / ab**0.5


def ddim_step(x_t: Latents, e: Latents, ab: float, ab_to: float) -> Latents:
    """`x_t` of level `ab` at level `ab_to`, by its noise `e`."""
    return ab_to**0.5 * clean(x_t, e, ab) + (1 - ab_to) ** 0.5 * e


@torch.no_grad()
def invert(
    score: Score, s: Latents, levels: Sequence[int], *, index: Index | None = None, rounds: int = 0
) -> Iterator[Float[Tensor, "n c h w"]]:
    """The trajectory of sources `s` into noise, under their own condition: one item for each of `levels`, rising.

    The last one is what sampling from it turns back into `s`. `score` wants guidance 1: inversion under a larger scale
    drifts. One prediction a level and, with fixed points, `rounds` more. Costs no memory but that of a level.
    """
    index = torch.arange(len(s)) if index is None else index
    x, t = s, CLEAN
    for to in levels:
        e = score.source(Noised.from_noisy(x, max(t, 0), s, index))
        here, there = alpha_bar(score.schedule, t), alpha_bar(score.schedule, to)
        x_to = ddim_step(x, e, here, there)
        for _ in range(rounds):
            x_to = ddim_step(x, score.source(Noised.from_noisy(x_to, to, s, index)), here, there)
        x, t = x_to, to
        yield x


@torch.no_grad()
def sample(
    score: Score, x_t: Latents, s: Latents, levels: Sequence[int], *, index: Index | None = None
) -> Float[Tensor, "n c h w"]:
    """Clean latents from `x_t`, which is at the last of `levels`, under the condition of the edit.

    From pure noise this is plain sampling, from `Schedule.add_noise` of a source SDEdit (Meng et al. 2022), from the
    last item of `invert` an edit that begins as its source. `s` are the clean sources, for priors that look at them.
    """
    index = torch.arange(len(s)) if index is None else index
    for t, to in zip(reversed(levels), [*reversed(levels[:-1]), CLEAN], strict=True):
        e = score.target(Noised.from_noisy(x_t, t, s, index))
        x_t = ddim_step(x_t, e, alpha_bar(score.schedule, t), alpha_bar(score.schedule, to))
    return x_t
