"""How much does a clip tremble from frame to frame?"""

import torch
from jaxtyping import Float
from torch import Tensor


def flicker(clip: Float[Tensor, "n 3 H W"]) -> Float[Tensor, " m"]:
    """Temporal high-pass energy at each inner frame: the mean of ((2 x_i - x_{i-1} - x_{i+1}) / 4)^2 over its pixels.

    m = n - 2 numbers (none for a clip of one or two frames), 0 to 1. The filter passes no steady change and has gain 1
    at the highest frequency, so a clip that jumps between +a and -a has energy a^2. Motion has energy too: it is read
    as a multiple of the energy of the true edited clip, 1 being right, above 1 flicker, below 1 usually blur.
    """
    if len(clip) < 3:
        return torch.zeros(0, dtype=clip.dtype, device=clip.device)
    high = (2 * clip[1:-1] - clip[:-2] - clip[2:]) / 4
    return high.square().mean(dim=(1, 2, 3))
