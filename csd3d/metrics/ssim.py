"""Structural similarity, and how well a clip agrees with itself along motion by it."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from csd3d.metrics.warp import backward_warp

WINDOW_PX = 7
_C1, _C2 = 0.01**2, 0.03**2


def ssim(a: Float[Tensor, "n 3 H W"], b: Float[Tensor, "n 3 H W"]) -> Float[Tensor, " n"]:
    """Structural similarity (Wang et al. 2004) of each pair, in [-1, 1], 1 for equal pictures, higher is better.

    Means over uniform windows of 7 x 7 px that lie inside, channel by channel, of pictures in [0, 1]; variances are
    those of samples (over 48, not 49). This is scikit-image's default, with which RAVE measured.

    Raises:
        ValueError: a side is below 7 px.
    """
    if min(a.shape[-2:]) < WINDOW_PX:
        raise ValueError(f"ssim: expected sides of {WINDOW_PX} px or more, got {tuple(a.shape[-2:])}")

    def mean(x: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 _h _w"]:
        return avg_pool2d(x, WINDOW_PX, stride=1)

    unbiased = WINDOW_PX**2 / (WINDOW_PX**2 - 1)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = (unbiased * (mean(x * x) - m * m) for x, m in ((a, mean_a), (b, mean_b)))
    both = unbiased * (mean(a * b) - mean_a * mean_b)
    same_light = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return (same_light * (2 * both + _C2) / (var_a + var_b + _C2)).mean((1, 2, 3))


def warp_ssim(
    first: Float[Tensor, "n 3 H W"], second: Float[Tensor, "n 3 H W"], flow: Float[Tensor, "n 2 H W"]
) -> Float[Tensor, " n"]:
    """SSIM of each first frame with the second one warped onto it by `flow`, that of the source (WarpSSIM, RAVE).

    In [-1, 1], higher is better. Over the whole picture, what only one frame sees included, as published. `flow`
    leads from the first frame to the second, in pixels. RAVE's code differs in two ways that its text does not ask for
    and that are not repeated here: it samples the earlier frame along the flow from earlier to later, which leads away
    from the match, and it counts the first frame's similarity to itself.
    """
    return ssim(first, backward_warp(second, flow)[0])
