"""What embeddings of pictures and sentences say about an edit: cosines, whichever network they come from.

    u_i, s_i     of frame i of the result and of the source          [n d]
    t, t_s       of the sentence that says what the result shows, and of that which says what the source shows   [d]
    cos(a, b) = <a, b> / (|a| |b|)

Each function gives a number a frame (or pair), in [-1, 1], higher is better unless said otherwise.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from csd3d.metrics.tables import mean


def text_alignment(frames: Float[Tensor, "n d"], text: Float[Tensor, " d"]) -> Float[Tensor, " n"]:
    """cos(u_i, t): with CLIP this is CLIP-T or the CLIP score, which some papers give times 100.

    (Hessel et al. 2021 define CLIPScore as 2.5 max(cos, 0); editing papers report the plain cosine.)
    """
    return cosine_similarity(frames, text[None], dim=1)


def directional_similarity(
    frames: Float[Tensor, "n d"],
    sources: Float[Tensor, "n d"],
    text: Float[Tensor, " d"],
    source_text: Float[Tensor, " d"],
) -> Float[Tensor, " n"]:
    """cos(u_i - s_i, t - t_s): does the picture change as the sentence does (Gal et al. 2022)?

    Embeddings have length 1 before the difference is taken, as in InstructPix2Pix's metric. NaN where nothing changed:
    an unedited frame has no direction.
    """
    change = _unit(frames) - _unit(sources)
    wanted = _unit(text[None]) - _unit(source_text[None])
    cosine = cosine_similarity(change, wanted, dim=1)
    none = (_length(change) < 1e-6) | (_length(wanted) < 1e-6)
    return torch.where(none, torch.nan, cosine)


def consecutive_similarity(frames: Float[Tensor, "n d"]) -> Float[Tensor, " m"]:
    """cos(u_i, u_{i+1}) of neighbours: image consistency, Tem-Con, frame consistency. m = n - 1 numbers.

    A clip that stands still or is blurred has a high one.
    """
    return cosine_similarity(frames[:-1], frames[1:], dim=1)


def pairwise_similarity(frames: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Mean of cos(u_i, u_j) over all other frames j, NaN for one frame: the mean of these is CLIP-F of TGVE, RAVE."""
    if len(frames) < 2:
        return torch.full((len(frames),), torch.nan)
    unit = _unit(frames)
    return ((unit @ unit.sum(0)) - unit.square().sum(1)) / (len(frames) - 1)


def direction_consistency(frames: Float[Tensor, "n d"], sources: Float[Tensor, "n d"]) -> Float[Tensor, " m"]:
    """cos(u_{i+1} - u_i, s_{i+1} - s_i): do neighbours differ as those of the source do? m = n - 1 numbers.

    Instruct-NeRF2NeRF's "CLIP direction consistency" in the reading that its text describes: the change from view to
    view after the edit against that before. Embeddings have length 1. NaN where neighbours are equal.
    """
    after, before = _unit(frames).diff(dim=0), _unit(sources).diff(dim=0)
    none = (_length(after) < 1e-6) | (_length(before) < 1e-6)
    return torch.where(none, torch.nan, cosine_similarity(after, before, dim=1))


def frame_accuracy(
    frames: Float[Tensor, "n d"], text: Float[Tensor, " d"], source_text: Float[Tensor, " d"]
) -> Float[Tensor, " n"]:
    """1 where a frame is at least as near to t as to t_s, else 0; the mean is Frame-Acc (FateZero, Tune-A-Video)."""
    return (text_alignment(frames, text) >= text_alignment(frames, source_text)).to(frames.dtype)


def edit_quality(warp_ssim: Sequence[float], text_alignment: Sequence[float]) -> float:
    """Q_edit of RAVE: the mean WarpSSIM of a clip times its mean text alignment; NaN where one is not measured."""
    return mean(warp_ssim).value * mean(text_alignment).value


def _unit(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return x / _length(x).clamp_min(1e-12)[:, None]


def _length(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    return x.square().sum(1).sqrt()
