"""A flat picture, or a cylinder unrolled, on one canvas of latents under overlapping windows.

    picture (H, W) --scale--> content (h, w), shorter side = size --pad--> multiples of the codec's factor --encode--> s

Aspect is kept. A cylinder is not padded sideways but stretched by less than half a latent, so that the seam is no place
at all. Pixels are scaled, encoded, decoded and written tile by tile, tiles blended where they overlap.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from csd3d.media.geometry import enlargement
from csd3d.media.pictures.read import Picture
from panorama.regions import Plan
from panorama.resample import apply_taps, cubic_taps
from panorama.spans import Spans, cover, product_shares
from panorama.surface import BLOCK_PX, Block, Decode, Encode, decode_layers, grid, with_detail
from panorama.windows import Windows

TILE_LAT, OVERLAP_LAT = 48, 8
"""Side of the tiles in which pixels are encoded and decoded, and how far neighbours overlap."""
CACHED_TILES = 24
"""Decoded tiles that are cached: more than a block of the result touches, so that neighbouring blocks share them."""
_READ_PX = 2_000_000  # source pixels in floating point at a time
_SAMPLES = 4  # a region is sampled at so many places along a side of a latent


@dataclass(frozen=True)
class Axis:
    """One axis of a picture on its canvas."""

    source_px: int
    content_px: int
    """What the source is scaled to."""
    before_px: int
    """Padding before the content, edge pixels repeated."""
    canvas_px: int
    wraps: bool

    @property
    def scale(self) -> float:
        """Source pixels a canvas pixel."""
        return self.source_px / self.content_px


@dataclass(frozen=True)
class Plane:
    """A sheet or a cylinder."""

    y: Axis
    x: Axis
    factor: int
    """Canvas pixels along a latent."""
    windows_y: Spans
    windows_x: Spans
    """In latents."""
    smooth: bool
    """Windows fade towards their ends; else all count alike (the paper's average)."""

    @property
    def closed(self) -> bool:
        """Of a cylinder."""
        return self.x.wraps

    @property
    def parts(self) -> int:
        """Tiles."""
        tiles = self._tiles()
        return len(tiles[0].starts) * len(tiles[1].starts)

    @torch.no_grad()
    def encode(self, picture: Picture, encode: Encode) -> Iterator[tuple[int, Float[Tensor, "k c h w"]]]:
        """The canvas, tile by tile."""
        rows, columns = self._tiles()
        ramp = float(OVERLAP_LAT)
        shares = [spans.shares(torch.arange(spans.length) + 0.5, ramp=ramp) for spans in (rows, columns)]
        canvas, done = None, 0
        for i, top in enumerate(rows.starts):
            for j, left in enumerate(columns.starts):
                rgb = self.working(picture, self._px(top, rows.size), self._px(left, columns.size))
                latents = encode(rgb[None]).detach().to("cpu", torch.float32)[0]
                if canvas is None:
                    canvas = torch.zeros(1, len(latents), rows.length, columns.length)
                at = rows.cells()[i], columns.cells()[j]
                share = shares[0][i, at[0]][:, None] * shares[1][j, at[1]][None]
                canvas[0][:, at[0][:, None], at[1][None]] += share.float() * latents
                done += 1
                yield done, canvas

    def windows(self, plan: Plan) -> Windows:
        """Every window in which something may change, once for each sentence that holds somewhere in it."""
        rows, columns = self.windows_y, self.windows_x
        prompts, strength = self._pooled(plan.shares), self._pooled(plan.strength)
        found: list[tuple[int, int, int]] = []
        for k in range(len(plan.sentences)):
            for i, ys in enumerate(rows.cells()):
                for j, xs in enumerate(columns.cells()):
                    at = ys[:, None], xs[None]
                    if bool(((prompts[k][at] > 0) & (strength[at] > 0)).any()):
                        found.append((k, i, j))
        k, i, j = torch.tensor(found, dtype=torch.int64).reshape(-1, 3).T
        ys, xs, share = product_shares(rows, columns, i, j, smooth=self.smooth)
        share = share * prompts[k[:, None, None], ys[:, :, None], xs[:, None, :]]
        return Windows(torch.zeros_like(k), ys, xs, share, k)

    def mask(self, plan: Plan) -> Float[Tensor, "k 1 h w"] | None:
        """Where latents may move."""
        return None if plan.base is not None and plan.mask is None else self._pooled(plan.strength)[None, None]

    def fused(self, values: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        """A single layer."""
        return values

    def unrolled(self, values: Float[Tensor, "k h w"]) -> Float[Tensor, "H W"]:
        """Bilinear between latents, over the seam of a cylinder too; without the padding."""
        sides = (1, 1) if self.x.wraps else (0, 0)
        framed = pad(values[None], (*sides, 0, 0), mode="circular")
        large = interpolate(framed, scale_factor=self.factor, mode="bilinear")[0, 0]
        at_y, at_x = (slice(axis.before_px, axis.before_px + axis.content_px) for axis in (self.y, self.x))
        return large[at_y, sides[0] * self.factor :][:, at_x]

    def seen(self, picture: Picture) -> Float[Tensor, "3 H W"]:
        """The content, as the prior sees it."""
        rows, columns = (torch.arange(axis.before_px, axis.before_px + axis.content_px) for axis in (self.y, self.x))
        return self.working(picture, rows, columns)

    def settle(self, z: Float[Tensor, "k c h w"], encode: Encode, decode: Decode) -> Float[Tensor, "k c h w"]:
        """A single layer agrees with itself."""
        return z

    @torch.no_grad()
    def blocks(
        self,
        picture: Picture,
        z: Float[Tensor, "k c h w"],
        s: Float[Tensor, "k c h w"],
        decode: Decode,
        *,
        detail: float,
        strength: float = 1.0,
    ) -> Iterator[Block]:
        """The picture at its own size."""
        tiles = self._tiles()
        decoded = _Decoded(tiles, partial(decode_layers, decode=decode, detail=detail, strength=strength), z, s)
        for rows in grid(picture.height_px, BLOCK_PX):
            for columns in grid(picture.width_px, BLOCK_PX):
                source = picture.rgb(rows, columns)
                edited = torch.zeros_like(source)
                for i, share_y, taps_y in self._parts_of(self.y, tiles[0], rows):
                    for j, share_x, taps_x in self._parts_of(self.x, tiles[1], columns):
                        lifted = apply_taps(decoded(i, j), taps_y, taps_x)
                        part = with_detail(lifted, source[:, _own(share_y)][:, :, _own(share_x)], detail=detail)
                        at = torch.where(share_y > 0)[0][:, None], torch.where(share_x > 0)[0][None]
                        edited[:, at[0], at[1]] += share_y[at[0]] * share_x[at[1]] * part
                yield Block(rows, columns, source, edited)

    def working(self, picture: Picture, rows: Int[Tensor, " h"], columns: Int[Tensor, " w"]) -> Float[Tensor, "3 h w"]:
        """Canvas pixels, scaled from the source, in [0, 1]. Memory does not grow with how much they are shrunk."""
        at_y, at_x = (self._content(axis, px) for axis, px in ((self.y, rows), (self.x, columns)))
        limits = [(None, None) if axis.wraps else (0, axis.source_px) for axis in (self.y, self.x)]
        taps_y, taps_x = (
            cubic_taps(at, axis.scale, low=low, high=high)
            for at, axis, (low, high) in zip((at_y, at_x), (self.y, self.x), limits, strict=True)
        )
        from_x = torch.arange(taps_x.first, taps_x.first + taps_x.weights.shape[1])
        tall = taps_y.weights.shape[1]
        step = max(1, _READ_PX // len(from_x))
        out = torch.zeros(3, len(rows), len(columns))
        for a in range(0, tall, step):
            b = min(a + step, tall)
            part = picture.rgb(torch.arange(taps_y.first + a, taps_y.first + b), from_x)
            out += apply_taps(part, taps_y.weights[:, a:b], taps_x.weights)
        return out.clamp(0, 1)

    def _parts_of(
        self, axis: Axis, tiles: Spans, targets: Int[Tensor, " n"]
    ) -> Iterator[tuple[int, Float[Tensor, " n"], Float[Tensor, "m p"]]]:
        """The tiles that cover a stretch of source pixels: number of the tile, its share at each pixel, and the weights
        of its pixels for the places where it has a share."""
        places = axis.before_px + (targets.double() + 0.5) / axis.scale
        shares = tiles.shares(places / self.factor, ramp=float(OVERLAP_LAT)).float()
        turn = axis.source_px if axis.wraps else 0
        for i, start in enumerate(tiles.starts):
            mine = targets[shares[i] > 0]
            if not len(mine):
                continue
            first = start * self.factor - axis.before_px  # of the tile, in content pixels
            last = first + tiles.size * self.factor
            if turn:  # pixels before the tile lie in the part of it that goes on over the seam
                centre = (mine.double() + 0.5) / axis.scale
                mine = torch.where(centre < first, mine + turn, mine)
            low, high = (first, last) if axis.wraps else (max(first, 0), min(last, axis.content_px))
            taps = cubic_taps(mine, 1 / axis.scale, low=low, high=high)
            weights = torch.zeros(len(mine), tiles.size * self.factor)
            offset = taps.first - first
            weights[:, offset : offset + taps.weights.shape[1]] = taps.weights
            yield i, shares[i], weights

    def _tiles(self) -> tuple[Spans, Spans]:
        sizes = ((axis.canvas_px // self.factor, axis.wraps) for axis in (self.y, self.x))
        y, x = (cover(n, TILE_LAT, TILE_LAT - OVERLAP_LAT, wraps=wraps) for n, wraps in sizes)
        return y, x

    def _px(self, start: int, size: int) -> Int[Tensor, " n"]:
        return torch.arange(start * self.factor, (start + size) * self.factor)

    def _content(self, axis: Axis, px: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        return px if axis.wraps else (px - axis.before_px).clamp(0, axis.content_px - 1)

    def _pooled(self, weight: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A function of positions, averaged over every latent of the canvas."""
        at = []
        for axis in (self.y, self.x):
            places = (torch.arange(axis.canvas_px // self.factor * _SAMPLES) + 0.5) * self.factor / _SAMPLES
            at.append(((places - axis.before_px) / axis.content_px).clamp(0, 1 - 1e-6))
        y, x = torch.meshgrid(at[0], at[1], indexing="ij")
        values = weight(x, y)
        return avg_pool2d(values.float()[None], _SAMPLES)[0] if values.ndim == 2 else avg_pool2d(values, _SAMPLES)


class _Decoded:
    """Decoded tiles; the latest are cached."""

    def __init__(
        self, tiles: tuple[Spans, Spans], layers: Callable[[Tensor, Tensor], Tensor], z: Tensor, s: Tensor
    ) -> None:
        self._rows, self._columns = (spans.cells() for spans in tiles)
        self._layers, self._z, self._s = layers, z, s
        self._cache: OrderedDict[tuple[int, int], Tensor] = OrderedDict()

    def __call__(self, i: int, j: int) -> Tensor:
        """Layers of tile (i, j)."""
        if (i, j) not in self._cache:
            while len(self._cache) >= CACHED_TILES:
                self._cache.popitem(last=False)
            at = self._rows[i][:, None], self._columns[j][None]
            z, s = (canvas[:, :, at[0], at[1]] for canvas in (self._z, self._s))
            self._cache[i, j] = self._layers(z, s)
        self._cache.move_to_end((i, j))
        return self._cache[i, j]


def make_plane(
    height_px: int,
    width_px: int,
    *,
    size_px: int,
    factor: int,
    window_lat: int,
    stride_lat: int,
    wraps: bool = False,
    smooth: bool = True,
    single: bool = False,
    unit_lat: int = 1,
) -> Plane:
    """The plane for a picture whose shorter side becomes `size_px`.

    Args:
        height_px, width_px: the picture's.
        size_px: shorter side on the canvas.
        factor: pixels along a latent.
        window_lat: side of a window in latents.
        stride_lat: most latents between neighbouring windows.
        wraps: the picture is a cylinder, its left and right border being neighbours.
        smooth: windows fade towards their ends.
        single: one window, all of the canvas.
        unit_lat: sides of the canvas are multiples of this many latents.

    Raises:
        ValueError: a size below `factor`, or windows that leave gaps.
    """
    if size_px < factor:
        raise ValueError(f"size: expected at least {factor} px, the codec's unit, got {size_px}")
    if stride_lat > window_lat:
        raise ValueError(f"stride: expected at most the window's {window_lat} latents, got {stride_lat}")
    scale = float(enlargement(min(height_px, width_px), max(height_px, width_px), size_px))
    unit_px = unit_lat * factor
    axes = []
    for side, turns in ((height_px, False), (width_px, wraps)):
        content = max(round(side * scale), 1)
        if turns:
            content = max(round(side * scale / unit_px), 1) * unit_px
            axes.append(Axis(side, content, 0, content, True))
            continue
        padded = max(-(-content // unit_px), -(-size_px // unit_px)) * unit_px
        axes.append(Axis(side, content, (padded - content) // 2, padded, False))
    windows = []
    for axis in axes:
        length = axis.canvas_px // factor
        size, stride = (length, length) if single else (min(window_lat, length), stride_lat)
        windows.append(cover(length, size, min(stride, size), wraps=axis.wraps))
    return Plane(axes[0], axes[1], factor, windows[0], windows[1], smooth)


def _own(share: Tensor) -> Tensor:
    return torch.where(share > 0)[0]
