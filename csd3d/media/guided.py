"""Local linear regression on a picture, over square windows: the guided filter (He, Sun and Tang 2013) and its parts.

In every window of (2 r + 1)^2 pixels the A and b are sought with which A x + b comes nearest to y:

    A = (cov(y, x) + eps B) (cov(x, x) + eps I)^-1       b = mean(y) - A mean(x)

x     the guide, a picture of three channels
eps   variance below which a window counts as flat; there A tends to B
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

_UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def guided_filter(
    values: Float[Tensor, "n 1 h w"], guide: Float[Tensor, "n 3 h w"], *, radius: int, eps: float
) -> Float[Tensor, "n 1 h w"]:
    """`values` with the edges that the guide has: the mean of A x + b over all windows that hold a pixel, with B = 0.

    Where the guide is flat they are averaged over the window, twice. `guide` is rgb in [0, 1]; pixels beyond the border
    repeat. Values that are the same everywhere stay so, up to rounding.
    """
    x = guide - 0.5  # about the middle, where products lose the least to rounding
    A, mean_y, mean_x = regression(products(values, x), radius, eps, prior=0.0)
    b = mean_y - (A * mean_x[:, None]).sum(2)
    means = box_mean(torch.cat([A[:, 0], b], 1), radius)
    return (means[:, :3] * x).sum(1, keepdim=True) + means[:, 3:]


def products(y: Float[Tensor, "n k h w"], x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 9+4*k h w"]:
    """y, x and what they are times x, whose means over any window `regression` is made of."""
    by = (y[:, i : i + 1] * x for i in range(y.shape[1]))
    return torch.cat([y, x, *by, *(x[:, i : i + 1] * x[:, i:] for i in range(3))], 1)


def regression(
    planes: Float[Tensor, "n p h w"], radius: int, eps: float, *, prior: Float[Tensor, "*_m k 3 _h _w"] | float
) -> tuple[Float[Tensor, "n k 3 h w"], Float[Tensor, "n k h w"], Float[Tensor, "n 3 h w"]]:
    """A of the module's text around each pixel, and the means of y and x, of their `products`; `prior` is B."""
    k = (planes.shape[1] - 9) // 4
    mean_y, mean_x, yx, xx = box_mean(planes, radius).split((k, 3, 3 * k, 6), 1)
    between = yx.unflatten(1, (k, 3)) - mean_y[:, :, None] * mean_x[:, None]
    own = [xx[:, m] - mean_x[:, i] * mean_x[:, j] + eps * (i == j) for m, (i, j) in enumerate(_UPPER)]
    return _divide(between + eps * prior, own), mean_y, mean_x


def box_mean(x: Float[Tensor, "n k h w"], radius: int) -> Float[Tensor, "n k h w"]:
    """Mean over the window; beyond the border pixels repeat."""
    side = 2 * radius + 1
    padded = pad(x, (radius,) * 4, mode="replicate")
    return _sums(_sums(padded, side, -2), side, -1) / side**2


def _divide(b: Float[Tensor, "n k 3 h w"], c: Sequence[Float[Tensor, "n h w"]]) -> Float[Tensor, "n k 3 h w"]:
    """b c^-1 for symmetric c, given by its upper triangle, by its cofactors: unlike LAPACK's, these sums come out the
    same wherever memory lies."""
    c00, c01, c02, c11, c12, c22 = c
    m00, m01, m02 = c11 * c22 - c12 * c12, c02 * c12 - c01 * c22, c01 * c12 - c02 * c11
    m11, m12, m22 = c00 * c22 - c02 * c02, c01 * c02 - c00 * c12, c00 * c11 - c01 * c01
    det = (c00 * m00 + c01 * m01 + c02 * m02)[:, None]
    columns = ((m00, m01, m02), (m01, m11, m12), (m02, m12, m22))
    b0, b1, b2 = b.unbind(2)
    return torch.stack([(b0 * x[:, None] + b1 * y[:, None] + b2 * z[:, None]) / det for x, y, z in columns], dim=2)


def _sums(x: Tensor, side: int, dim: int) -> Tensor:
    """Sums of every `side` neighbours along `dim`, from sums of 1, 2, 4, ...: few additions, each well rounded."""
    count, at, size = x.shape[dim] - side + 1, 0, 1
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    while size <= side:
        if side & size:
            total, at = total + x.narrow(dim, at, count), at + size
        left = x.shape[dim] - size
        x, size = x.narrow(dim, 0, left) + x.narrow(dim, size, left) if 2 * size <= side else x, 2 * size
    return total
