"""Where points of one picture are in another, by what a prior sees there (DIFT, Tang et al. 2023): no training.

    F_i(p)   what leaves the residual blocks of one level of the decoder, less what leaves them of a picture of one
             colour, the mean of picture i: each of length 1, mean over n draws of noise
    a(p)     = argmax_q cos(F_i(p), F_j(q))           what is at p in picture i is at a(p) in picture j
    known    |b(a(p)) - p| <= 1 place in x and y      b leads from j to i in the same way

Pictures are noised to `SHARE` of the timesteps, all by the same noise, and read without a sentence. The paper subtracts
nothing; but a network that pads its maps knows where a place is in the picture, and matches each with itself.

Places are those of the features' maps, so a match is as exact as these are coarse: this is for pictures between which
optical flow is lost.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from csd3d.attention.bank import Bank
from csd3d.attention.control import Control
from csd3d.attention.rows import Rows
from csd3d.attention.score import Controllable
from csd3d.attention.sites import Site, choose
from csd3d.engine.types import Index, Latents, Noised, numbers

SHARE = 0.26
"""Of the timesteps, as published for Stable Diffusion."""
NOISES = 4
"""Draws of noise; 8 are published."""


@torch.no_grad()
def features(score: Controllable, s: Latents, index: Index, *, level: int, seed: int) -> Float[Tensor, "n d a b"]:
    """F of the module's text, on the device of `s`.

    Args:
        score: the prior; its sentences are not read.
        s: clean latents of the pictures, where the prior computes.
        index: their numbers.
        level: how often the maps that are read were halved.
        seed: of the noise.

    Raises:
        ValueError: the network cannot be read, or its decoder has no such level.
    """
    sites = choose(score.sites, kind="resnet", places=("up",), levels=(level,))
    if not sites:
        raise ValueError(f"features: expected a decoder with maps that were halved {level} times, got none")
    bank, branch = Bank(), list(score.wordless_branch.values())[-1]

    def keep(site: Site, rows: Rows, x: Tensor) -> Tensor:
        bank.write(site, rows, x)
        return x

    def read(s: Latents, e: Latents) -> list[Tensor]:
        t = int(SHARE * score.schedule.num_timesteps)
        s_t = score.schedule.add_noise(s, e, t)
        with score.controlled([Control(sites, leave=keep)]):
            score.target_branch(Noised(s, s, index, e, t, s_t, s_t), branch)
        return [bank.read(site, "target", [branch] * len(s), numbers(index))[0].float() for site in sites]

    plain, rng = s.mean((2, 3), keepdim=True).expand_as(s), torch.Generator().manual_seed(seed)
    draws: list[Tensor] = []
    for _ in range(NOISES):
        e = torch.randn(s.shape[1:], generator=rng).to(s).expand_as(s)
        pairs = zip(read(s, e), read(plain, e), strict=True)
        draws.append(torch.cat([normalize(own - flat, dim=1) for own, flat in pairs], 1))
    return torch.stack(draws).mean(0)


def matches(
    f: Float[Tensor, "d a b"], g: Float[Tensor, "d a b"]
) -> tuple[Int[Tensor, "a b 2"], Bool[Tensor, "a b"], Int[Tensor, "a b 2"], Bool[Tensor, "a b"]]:
    """How far, in places (x, y), each place of a picture with features f is from its match in one with g, whether that
    is known, and both for the second picture."""
    cosine = normalize(f.flatten(1), dim=0).T @ normalize(g.flatten(1), dim=0)
    rows, columns = (torch.arange(side, device=f.device) for side in f.shape[1:])
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1)
    there, back = cosine.argmax(1), cosine.argmax(0)

    def of(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        known = (places[b[a]] - places).abs().amax(1) <= 1
        return (places[a] - places).view(*f.shape[1:], 2), known.view(f.shape[1:])

    return *of(there, back), *of(back, there)
