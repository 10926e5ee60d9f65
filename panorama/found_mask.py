"""The mask of a picture that its prior finds: where every sentence edits it, averaged where windows overlap."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from csd3d.attention.masks import Found, found_in
from csd3d.media.pictures.levels import from_levels, to_levels
from csd3d.media.sheet import save_picture
from csd3d.priors.prior import Prior, Prompts
from csd3d.runs.found_masks import differences, each_difference, makes_mask, score_for_masks, tell, tell_share
from csd3d.runs.session import Session
from panorama.surface import Surface
from panorama.windows import Windows


def find_mask(
    session: Session,
    prior: Prior,
    prompts: Prompts,
    s: Float[Tensor, "k c H W"],
    surface: Surface,
    windows: Windows,
    *,
    seed: int,
    batch: int,
) -> Path | None:
    """The mask that the run found, now or before, as a grey PNG; None: it edits the whole picture.

    Args:
        session: of the run.
        prior: whose predictions are compared.
        prompts: several targets, of which the windows' numbers pick theirs.
        s: the source canvas.
        surface: of the picture.
        windows: all of them, as nothing is masked yet.
        seed: of the noise.
        batch: most windows that the prior sees at a time.
    """
    parts = torch.arange(len(windows)).split(batch)
    score, device = score_for_masks(prior, prompts), prior.device
    d = differences(session, score, parts, lambda index: windows.select(index).gather(s).to(device), seed=seed)
    found, mask = find_masks(d, windows, surface, list(prompts.target), like=s)
    if not tell(session, prior, found):
        return None
    path, levels = session.folder.mask, to_levels(surface.unrolled(mask)[None])
    save_picture(Image.fromarray(levels[..., 0]), path)
    tell_share(session, float(from_levels(levels).mean()), path)
    return path


def first_mask(
    prior: Prior,
    prompts: Prompts,
    s: Float[Tensor, "k c H W"],
    surface: Surface,
    windows: Windows,
    *,
    seed: int,
    batch: int,
) -> Float[Tensor, "_h _w"] | None:
    """The levels of the same mask, of which nothing is written."""
    score, device, parts = score_for_masks(prior, prompts), prior.device, torch.arange(len(windows)).split(batch)
    d = torch.cat([*each_difference(score, parts, lambda i: windows.select(i).gather(s).to(device), seed=seed)])
    found, mask = find_masks(d, windows, surface, list(prompts.target), like=s)
    return surface.unrolled(mask) if makes_mask(found) else None


def find_masks(
    differences: Float[Tensor, "n h w"],
    windows: Windows,
    surface: Surface,
    sentences: Sequence[str],
    *,
    like: Float[Tensor, "k c H W"],
) -> tuple[list[tuple[str, Found]], Float[Tensor, "k H W"]]:
    """What each sentence edits, and the mask of the canvas `like`: 0 where no sentence holds."""
    found, mask = list[tuple[str, Found]](), torch.zeros_like(like[:, 0])
    for k, sentence in enumerate(sentences):
        mine = torch.where(windows.prompt == k)[0]
        if not len(mine):
            continue
        some = windows.select(mine)
        total, cover = torch.zeros_like(like[:, :1]), torch.zeros_like(like[:, :1])
        some.scatter_add(total, differences[mine][:, None])
        some.scatter_add(cover, torch.ones_like(differences[mine])[:, None])
        maps, shown = (total / cover.clamp_min(1e-12))[:, 0], cover[:, 0] > 0
        edit = found_in(surface.fused(maps), shown)
        found.append((sentence, edit))
        mask = torch.maximum(mask, torch.where(shown, edit.mask, 0.0))
    return found, mask
