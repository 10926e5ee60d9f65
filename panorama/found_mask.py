"""The mask of a picture that is found: where every sentence edits it, averaged where windows overlap."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from csd3d.attention.masks import Found
from csd3d.media.pictures.levels import from_levels, to_levels
from csd3d.media.pictures.read import Picture
from csd3d.media.sheet import save_picture
from csd3d.priors.prior import Prior
from csd3d.runs.found_masks import Seeker, along_edges, each_map, kept_maps, makes_mask, tell, tell_share
from csd3d.runs.session import Session
from panorama.surface import Surface
from panorama.windows import Windows


@dataclass(frozen=True, eq=False)
class Place:
    """Where a mask is sought, and by whom."""

    prior: Prior
    """Of the run."""
    seeker: Seeker
    """Of the windows, whose numbers pick their sentences."""
    sentences: Sequence[str]
    """One or several."""
    picture: Picture
    """Whose edges a mask follows."""
    s: Float[Tensor, "k c H W"]
    """Its canvas."""
    surface: Surface
    """Of the picture."""
    windows: Windows
    """All of them, as nothing is masked yet."""
    seed: int
    """Of the noise."""
    batch: int
    """Most windows that the prior sees at a time."""

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Numbers of the windows that it sees at a time."""
        return torch.arange(len(self.windows)).split(self.batch)

    def latents(self, index: Tensor) -> Float[Tensor, "n c h w"]:
        """Of windows, where the prior computes."""
        return self.windows.select(index).gather(self.s).to(self.prior.device)


def find_mask(session: Session, place: Place) -> Path | None:
    """The mask that the run found, now or before, as a grey PNG; None: it edits the whole picture."""
    maps = kept_maps(session, place.seeker, place.parts, place.latents, seed=place.seed)
    found, mask = find_masks(place, maps)
    if not tell(session, place.prior, place.seeker, found):
        return None
    path, grey = session.folder.mask, to_levels(over_picture(place, mask)[None])
    save_picture(Image.fromarray(grey[..., 0]), path)
    tell_share(session, float(from_levels(grey).mean()), path)
    return path


def first_mask(place: Place) -> Float[Tensor, "_h _w"] | None:
    """The levels of the same mask, of which nothing is written."""
    maps = torch.cat([*each_map(place.seeker, place.parts, place.latents, seed=place.seed)])
    found, mask = find_masks(place, maps)
    return over_picture(place, mask) if makes_mask(found) else None


def find_masks(place: Place, maps: Float[Tensor, "n h w"]) -> tuple[list[tuple[str, Found]], Float[Tensor, "k H W"]]:
    """What each sentence edits, and the mask of the canvas: 0 where no sentence holds. `maps` are those of windows."""
    found, mask = list[tuple[str, Found]](), torch.zeros_like(place.s[:, 0])
    for k, sentence in enumerate(place.sentences):
        mine = torch.where(place.windows.prompt == k)[0]
        if not len(mine):
            continue
        values, cover = overlapped(place, maps, mine)
        edit = place.seeker.found(values, cover > 0)
        found.append((sentence, edit))
        mask = torch.maximum(mask, torch.where(cover > 0, edit.mask, 0.0))
    return found, mask


def over_picture(place: Place, mask: Float[Tensor, "k H W"]) -> Float[Tensor, "_h _w"]:
    """The levels of the mask of a canvas, at the size in px at which the prior works."""
    surface = place.surface
    values, source = surface.unrolled(mask)[None, None], surface.seen(place.picture)[None]
    return along_edges(values, source, lat_px=surface.factor, closed=surface.closed)[0, 0]


def overlapped(
    place: Place, maps: Float[Tensor, "n h w"], mine: Tensor
) -> tuple[Float[Tensor, "k H W"], Float[Tensor, "k H W"]]:
    """The maps of the windows `mine` averaged where they overlap, on the canvas, and how much each place is covered."""
    some = place.windows.select(mine)
    total, cover = torch.zeros_like(place.s[:, :1]), torch.zeros_like(place.s[:, :1])
    some.scatter_add(total, maps[mine][:, None])
    some.scatter_add(cover, torch.ones_like(maps[mine])[:, None])
    return place.surface.fused((total / cover.clamp_min(1e-12))[:, 0]), cover[:, 0]
