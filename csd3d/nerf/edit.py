"""Rendered views in, edited views out: score distillation of all of them together. Knows no nerfstudio.

A particle starts at the latent of its render, not of its photograph: what the field has learnt of earlier edits is
kept, and what it has averaged out over views stays averaged out. The prior is conditioned on the photograph, and the
residual compares with it.

With correspondences between views, they are coupled where they show the same point. Decoded views are averaged there
too, edits and photographs alike, before the photographs' detail is put back, as a codec errs differently in every view.

    D_i(p) = sum_j w_ij(p) y_j(pos_ij(p)) / sum_j w_ij(p)        w_ij = v_ij exp(-|y_i - y_j|^2 / (2 SAME_COLOUR^2))

|y_i - y_j| is the difference of two views' edits at a point (root mean square over colours). Where an edit changes the
shape of things, correspondences are those of the shape before: there the views' edits differ, and are not averaged.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csd3d.attention.presets import Attention
from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import Objective, StepInfo, run, settled
from csd3d.engine.optimise import descend, first_moments
from csd3d.engine.reuse import reusing
from csd3d.engine.step import scalar_kernel
from csd3d.engine.transport import Correspondences, TransportKernel, along
from csd3d.engine.types import Batch, Index, Latents
from csd3d.media.detail import restore_mapped
from csd3d.media.geometry import WorkingSize, from_working, to_working, working_size
from csd3d.priors.guards import whole_range
from csd3d.priors.prior import Prior, Prompts
from csd3d.runs.ranks import SharedScore, map_sharded

SAME_COLOUR = 0.1
"""Colours in [0, 1] that differ by more than this are hardly of the same point."""


class ViewParticles:
    """The latents of a batch of views, all moved in every step; satisfies the engine's `Particles`.

    A batch of views is edited in one go, so it has no state to be stored.
    """

    steps_per_epoch = 1

    def __init__(self, z: Latents, s: Latents, config: CsdConfig) -> None:
        self.z, self.s = z, s
        self._moments = first_moments(z, config.optimizer)

    def draw(self, rng: torch.Generator) -> Batch:
        """All of them."""
        return Batch(self.z, self.s, torch.arange(len(self.z)))

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        """All of them."""
        self.z, self._moments = descend(self.z, g, self._moments, lr=lr)


@dataclass(frozen=True)
class EditedViews:
    """What became of a batch of views."""

    rgb: Float[Tensor, "n 3 H W"]
    """In [0, 1], on the CPU."""
    curves: tuple[StepInfo, ...]


CorrespondencesAt = Callable[[int], Correspondences]
"""Correspondences between views at working size, of places that are so many pixels wide."""


@torch.no_grad()
def edit_views(
    renders: Float[Tensor, "n 3 _h _w"],
    photographs: Float[Tensor, "n 3 H W"],
    prior: Prior,
    prompt: str,
    csd: CsdConfig,
    *,
    rng: torch.Generator,
    source_prompt: str | None = None,
    attention: Attention | None = None,
    size_px: int | None = None,
    strength: float = 1.0,
    detail: float = 1.0,
    inside: Bool[Tensor, "n 1 H W"] | None = None,
    correspondences: CorrespondencesAt | None = None,
    distances: Float[Tensor, "n 1 _h _w"] | None = None,
    on_move: Callable[[int, int], None] = lambda done, total: None,
) -> EditedViews:
    """Edit views of one scene as `prompt` says.

    Args:
        renders: what the field shows now, in [0, 1]; any size of the same aspect.
        photographs: what the cameras saw, in [0, 1], the same views in the same order.
        prior: of either kind.
        prompt: the sentence, or the caption of the result.
        csd: settings of the engine; `steps` is the number of moves of this call.
        rng: on the CPU.
        source_prompt: the caption of the photographs, for text-to-image priors.
        attention: how the prior's is controlled; None = as it is.
        size_px: shorter side at which the prior works; None = what it was trained at.
        strength: share of the edit that is kept: 0 gives the photographs back, 1 the whole edit.
        detail: share of the photographs' lost detail that is put back (`csd3d.media.detail`).
        inside: where views may change; outside the photographs stay bit for bit. None = everywhere.
        correspondences: where the points of one view are in the others. None = views are coupled pixel by pixel, if at
            all.
        distances: how far away what the renders show is, for a guard by depth.
        on_move: called with the number of moves that are made, from 0, and the number of all.

    Several processes all call this with the same arguments; each does its share, and all return the same.

    Raises:
        UnknownPrompt: the prior knows a closed set of sentences, and this is not among them.
        ValueError: what is asked for is nothing that the prior can serve.
        FloatingPointError: the run diverged.
    """
    photographs = photographs.cpu()
    size = view_size(photographs, prior, size_px)
    score = prior.score_under(csd, Prompts(prompt, source_prompt), attention)
    n = len(photographs)
    s, z = (
        map_sharded(n, lambda i, rgb=rgb: prior.codec.encode(to_working(rgb[i].cpu(), size).to(prior.device)))
        for rgb in (photographs, renders)
    )
    if distances is not None and prior.guard is not None and prior.guard.sees.wants_depth:
        near = whole_range(1 / distances[:, 0].clamp(min=1e-6))[:, None].expand(-1, 3, -1, -1)
        prior.guard.sees.tell(s, to_working(near, size)[:, :1])
    kernel = None
    if correspondences:
        kernel = TransportKernel(_found_once(correspondences(prior.codec.factor), n), scalar_kernel(score, csd))
    particles = ViewParticles(z, s, csd)
    curves: list[StepInfo] = []
    on_move(0, csd.steps)
    for info in run(particles, Objective(SharedScore(reusing(score, csd)), csd, kernel), rng=rng):
        curves.append(info)
        on_move(len(curves), csd.steps)
        if settled(curves, csd) is not None:
            break
    mixed = s + strength * (particles.z - s)
    rgb = photographs
    if strength:
        small = map_sharded(n, lambda i: decoded(mixed[i], s[i], prior))
        if correspondences:
            small = _averaged(small, correspondences(1))
        rgb = map_sharded(n, lambda i: restored(small[i], photographs[i], size, detail=detail, strength=strength))
    return EditedViews(rgb if inside is None else torch.where(inside.cpu(), rgb, photographs), tuple(curves))


def view_size(photographs: Float[Tensor, "n 3 H W"], prior: Prior, size_px: int | None) -> WorkingSize:
    """The size at which the prior works on these views."""
    height, width = photographs.shape[-2:]
    size_px = size_px or prior.native_px
    return working_size(Fraction(width, height), size_px, prior.multiple_px, source_px=min(height, width))


def _found_once(correspondences: Correspondences, n: int) -> Correspondences:
    """`correspondences` of all n views, for steps that ask for them again and again; n^2 small grids in memory."""
    rows = [correspondences(i, torch.arange(n)) for i in range(n)]

    def of(i: int, index: Int[Tensor, " m"]) -> tuple[Float[Tensor, "m h w 2"], Float[Tensor, "m h w"]]:
        position, visible = rows[int(index[i])]
        return position[index.cpu()], visible[index.cpu()]

    return of


def _averaged(pictures: Float[Tensor, "n 6 h w"], correspondences: Correspondences) -> Float[Tensor, "n 6 h w"]:
    """D_i of the module's text, of `decoded` pictures."""
    index = torch.arange(len(pictures))

    def some(mine: list[int]) -> Tensor:
        averages = []
        for i in mine:
            moved, v = along(i, pictures, correspondences, index)
            apart = (moved[:, :3] - pictures[i, :3]).square().mean(1)
            w = v * torch.exp(-apart / (2 * SAME_COLOUR**2))
            averages.append((w[:, None] * moved).sum(0) / w.sum(0))
        return torch.stack(averages)

    return map_sharded(len(pictures), some)


def decoded(z: Float[Tensor, "n c h w"], s: Float[Tensor, "n c h w"], prior: Prior) -> Float[Tensor, "n 6 _H _W"]:
    """Pictures of edited latents `z` and, beside them, of the photographs' own `s`, at working size, on the CPU."""
    return torch.cat([torch.cat([prior.codec.decode(x[i : i + 1]).cpu() for x in (z, s)], 1) for i in range(len(s))])


def restored(
    small: Float[Tensor, "n 6 _H _W"],
    photographs: Float[Tensor, "n 3 H W"],
    size: WorkingSize,
    *,
    detail: float,
    strength: float = 1.0,
) -> Float[Tensor, "n 3 H W"]:
    """`decoded` pictures, which hold `strength` of the edit, as edited ones of the photographs' size, in [0, 1], with
    the photographs' detail put back."""
    height, width = photographs.shape[-2:]
    up = functools.partial(from_working, size=size, height_px=height, width_px=width)
    pairs = zip(photographs.split(1), small.split(1), strict=True)  # full-size pictures one at a time
    return torch.cat(
        [restore_mapped(p, both[:, :3], both[:, 3:], up, amount=detail, strength=strength) for p, both in pairs]
    )
