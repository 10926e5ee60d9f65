"""Edits of pixels: each filter maps rgb in [0, 1], any size, to rgb in [0, 1], and knows nothing but the picture.

Lengths are fractions of the short side, so that a filter looks alike at every size.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # F is what torch's own documentation calls it

Rgb = Float[Tensor, "n 3 H W"]
Grey = Float[Tensor, "n 1 H W"]
LUMA = (0.299, 0.587, 0.114)


def luma(rgb: Rgb) -> Grey:
    """Brightness (Rec. 601 weights)."""
    return (rgb * torch.tensor(LUMA, dtype=rgb.dtype, device=rgb.device)[:, None, None]).sum(1, keepdim=True)


def _short_px(rgb: Float[Tensor, "n c H W"]) -> int:
    return min(rgb.shape[-2:])


def blur(x: Float[Tensor, "n c H W"], sigma: float) -> Float[Tensor, "n c H W"]:
    """Gaussian blur, `sigma` as a fraction of the short side, edges replicated."""
    s = max(sigma * _short_px(x), 0.3)
    radius = max(1, min(round(3 * s), _short_px(x) - 1))
    k = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device) / s) ** 2)
    k = k / k.sum()
    c = x.shape[1]
    x = F.pad(x, (radius, radius, radius, radius), mode="replicate")
    x = F.conv2d(x, k.view(1, 1, 1, -1).expand(c, 1, 1, -1), groups=c)
    return F.conv2d(x, k.view(1, 1, -1, 1).expand(c, 1, -1, 1), groups=c)


def _tint(grey: Grey, dark: tuple[float, float, float], light: tuple[float, float, float]) -> Rgb:
    low, high = (torch.tensor(v, dtype=grey.dtype, device=grey.device)[:, None, None] for v in (dark, light))
    return low + (high - low) * grey


def black_and_white(rgb: Rgb) -> Rgb:
    """Grey levels with a little more contrast."""
    return ((luma(rgb) - 0.5) * 1.15 + 0.5).clamp(0, 1).expand_as(rgb).contiguous()


def sepia(rgb: Rgb) -> Rgb:
    """Brown print on yellowed paper."""
    return _tint(luma(rgb), (0.16, 0.08, 0.03), (0.98, 0.88, 0.66))


def negative(rgb: Rgb) -> Rgb:
    """1 - rgb."""
    return 1 - rgb


def pencil_sketch(rgb: Rgb) -> Rgb:
    """Dark lines where brightness changes, soft hatching in the shadows, white paper elsewhere."""
    y = luma(rgb)
    broad = blur(y, 0.016)
    line = (1 - 3.2 * (broad - y).abs() - 1.2 * (blur(y, 0.008) - y).abs()).clamp(0, 1)
    return (line * (0.80 + 0.18 * broad.clamp(0, 1))).expand_as(rgb).contiguous()


def watercolour(rgb: Rgb) -> Rgb:
    """Flat washes (edge-keeping smoothing) in pale, saturated colours with darker rims, on white paper."""
    wash = rgb
    for _ in range(3):
        wash = _edge_keeping(wash)
    grey = luma(wash)
    wash = (grey + 1.35 * (wash - grey)) * 0.72 + 0.27
    rim = (luma(blur(rgb, 0.02)) - luma(blur(rgb, 0.006))).abs() * 1.6
    return (wash - rim).clamp(0, 1)


def _edge_keeping(rgb: Rgb) -> Rgb:
    """One pass of a bilateral filter over eight neighbours."""
    step = max(1, round(_short_px(rgb) / 64))
    padded = F.pad(rgb, (step,) * 4, mode="replicate")
    total, weight = rgb, torch.ones_like(rgb[:, :1])
    height, width = rgb.shape[-2:]
    for dy in (0, step, 2 * step):
        for dx in (0, step, 2 * step):
            if (dy, dx) == (step, step):
                continue
            other = padded[:, :, dy : dy + height, dx : dx + width]
            w = torch.exp(-((other - rgb) ** 2).sum(1, keepdim=True) / 0.03)
            total, weight = total + w * other, weight + w
    return total / weight


def pixel_art(rgb: Rgb) -> Rgb:
    """Sixteen square blocks along the short side, six levels a channel, saturated."""
    height, width = rgb.shape[-2:]
    block = max(1, round(_short_px(rgb) / 16))
    small = F.interpolate(rgb, (-(-height // block), -(-width // block)), mode="area")
    grey = luma(small)
    small = ((grey + 1.3 * (small - grey)).clamp(0, 1) * 5).round() / 5
    return F.interpolate(small, scale_factor=block, mode="nearest")[..., :height, :width].contiguous()


def posterise(rgb: Rgb) -> Rgb:
    """Three levels a channel with narrow ramps between them."""
    x = blur(rgb, 0.006) * 2
    base = x.floor()
    ramp = ((x - base - 0.5) * 6).clamp(-0.5, 0.5) + 0.5
    return ((base + ramp) / 2).clamp(0, 1)


def vintage(rgb: Rgb) -> Rgb:
    """A faded print: lifted blacks, warm reds, greenish shadows, dark corners."""
    height, width = rgb.shape[-2:]
    y = torch.linspace(-1, 1, height, dtype=rgb.dtype, device=rgb.device)[:, None]
    x = torch.linspace(-1, 1, width, dtype=rgb.dtype, device=rgb.device)[None]
    grey = luma(rgb)
    faded = grey + 0.55 * (rgb - grey)
    scale = torch.tensor([0.80, 0.66, 0.46], dtype=rgb.dtype, device=rgb.device)[:, None, None]
    lift = torch.tensor([0.17, 0.16, 0.16], dtype=rgb.dtype, device=rgb.device)[:, None, None]
    return ((faded * scale + lift) * (1 - 0.38 * (x * x + y * y) / 2 * 1.6)).clamp(0, 1)


def blueprint(rgb: Rgb) -> Rgb:
    """White lines on blue paper."""
    y = luma(rgb)
    line = (5.0 * (blur(y, 0.016) - y).abs() + 2.0 * (blur(y, 0.008) - y).abs()).clamp(0, 1)
    return _tint((line + 0.15 * y).clamp(0, 1), (0.03, 0.14, 0.42), (0.92, 0.96, 1.0))


def thermal(rgb: Rgb) -> Rgb:
    """False colours of a heat camera: black, violet, red, yellow, white by brightness."""
    stops = torch.tensor(
        [[0.0, 0.0, 0.1], [0.38, 0.05, 0.62], [0.90, 0.16, 0.26], [0.99, 0.74, 0.14], [1.0, 1.0, 0.85]],
        dtype=rgb.dtype,
        device=rgb.device,
    )
    p = luma(rgb)[:, 0].clamp(0, 1) * (len(stops) - 1)
    low = p.floor().long().clamp_max(len(stops) - 2)
    mixed = torch.lerp(stops[low], stops[low + 1], (p - low)[..., None])
    return mixed.movedim(-1, 1).contiguous()


MOONLIGHT = (0.30, 0.37, 0.60)


def moonlight(rgb: Rgb) -> Rgb:
    """A day's picture as it would be at night: the light of the world's night over that of its day, surface by surface.

    The truth of "make it night" for a photograph, whose surfaces and lamps nobody knows; no style of its own.
    """
    return rgb * torch.tensor(MOONLIGHT, dtype=rgb.dtype, device=rgb.device)[:, None, None]


FILTERS: dict[str, Callable[[Rgb], Rgb]] = {
    "black and white": black_and_white,
    "sepia": sepia,
    "negative": negative,
    "pencil sketch": pencil_sketch,
    "watercolour": watercolour,
    "pixel art": pixel_art,
    "posterise": posterise,
    "vintage": vintage,
    "blueprint": blueprint,
    "thermal": thermal,
}
