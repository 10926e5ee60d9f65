"""Masks of a scene's views that are found: where a sentence edits what they show. Knows no nerfstudio.

The maps of a view (`csd3d.attention`) are averaged with those of the views that look from nearest by, where they show
the same points of the scene by the field's depth, so that views agree about what may change.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csd3d.attention.masks import fuse
from csd3d.engine.transport import Correspondences
from csd3d.media.geometry import WorkingSize, from_working, to_working
from csd3d.priors.prior import Prior
from csd3d.runs.found_masks import Seeker, at_pixels
from csd3d.runs.ranks import map_sharded

NEAR = 6
"""Views over which each one is averaged, itself among them."""
SECOND_PASS = 1_000_003
"""Between the seeds of two scenes' noise."""


@torch.no_grad()
def view_masks(
    sources: Float[Tensor, "n 3 H W"],
    prior: Prior,
    seeker: Seeker,
    sentence: str,
    size: WorkingSize,
    *,
    seed: int,
    correspondences: Correspondences | None = None,
    near: Sequence[Sequence[int]] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Bool[Tensor, "n 1 H W"] | None:
    """Where each view may change; None: everywhere.

    Args:
        sources: what is edited, in [0, 1].
        prior: of the edit.
        seeker: of a `MaskSearch`.
        sentence: of the edit.
        size: at which the prior works.
        seed: of the noise.
        correspondences: where the points of one view are in the others, in latents; None: nothing is averaged.
        near: over which views each one is averaged, see `near_views`; None: over all.
        say: told what was found, in one line.

    Several processes all call this with the same arguments; each does its share, and all return the same.

    Raises:
        ValueError: the words that the mask is to show are nowhere.
    """
    sources = sources.cpu()

    def maps_of(views: list[int]) -> Float[Tensor, "m h w"]:
        return torch.cat([_map(sources[v : v + 1], v, prior, seeker, size, seed) for v in views])

    maps = map_sharded(len(sources), maps_of)
    if correspondences is not None:
        maps = fuse(maps, correspondences, near)
    found = seeker.found(maps)
    if found.extent != "part":
        say(f"mask: none, as {seeker.why_none(sentence, found)}")
        return None
    pairs = zip(found.mask[:, None].split(1), sources.split(1), strict=True)
    small = torch.cat([at_pixels(values, to_working(source, size)) for values, source in pairs])
    masks = from_working(small, size, *sources.shape[-2:]) >= 0.5
    say(f"mask: {masks.float().mean():.0%} of the views may change")
    return masks


def near_views(c2w: Float[Tensor, "n 3 4"], count: int = NEAR) -> list[list[int]]:
    """For each camera itself and those that stand nearest, `count` in all."""
    apart = torch.cdist(c2w[:, :, 3].cpu().float(), c2w[:, :, 3].cpu().float())
    return apart.fill_diagonal_(-1.0).argsort(dim=1, stable=True)[:, :count].tolist()


def _map(
    source: Float[Tensor, "1 3 H W"], view: int, prior: Prior, seeker: Seeker, size: WorkingSize, seed: int
) -> Float[Tensor, "1 h w"]:
    """Of one view, whose noise is its own whoever computes it."""
    s = prior.codec.encode(to_working(source, size).to(prior.device))
    rng = torch.Generator().manual_seed((seed * SECOND_PASS + view) % 2**63)
    return seeker.maps(s, torch.tensor([view], device=s.device), rng=rng).cpu()
